package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Origin is where a value was said. The zero Origin is the default.
type Origin struct {
	File         string // with Line and Column, which count from 1
	Line, Column int
	Variable     string
	Flag         string
}

// String writes o as compilers do, so that editors jump there.
func (o Origin) String() string {
	switch {
	case o.File != "":
		return fmt.Sprintf("%s:%d:%d", o.File, o.Line, o.Column)
	case o.Variable != "":
		return "$" + o.Variable
	case o.Flag != "":
		return "--" + o.Flag
	default:
		return "default"
	}
}

// Fault is one thing that is wrong with what was said.
type Fault struct {
	At   Origin
	What string
}

func (f Fault) Error() string {
	if f.At == (Origin{}) {
		return f.What
	}
	return f.At.String() + ": " + f.What
}

// Faults are all that is wrong, in the order of the file.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.Error()
	}
	return strings.Join(lines, "\n")
}

// Inputs are what a configuration is read from.
type Inputs struct {
	File  string              // --config; "-" is Stdin; empty: the first of the usual places that is there
	Flags map[string][]string // the flags that were given, without dashes, and their values
	Env   []string            // as os.Environ has it
	Stdin io.Reader
}

// Loaded is a configuration and how it came about.
type Loaded struct {
	Config
	File     string   // that was read; empty: none
	Warnings []string // what was passed over

	origins map[string]Origin
}

// maxFile and maxValues are a hundred times what a person writes.
const (
	maxFile   = 1 << 20
	maxValues = 100_000
)

// Load reads, lays over each other and checks all that was said. The error is Faults, and nothing is in Loaded then
// but Warnings and File.
func Load(in Inputs) (Loaded, error) {
	l := layers{env: environment(in.Env), Loaded: Loaded{Config: Default(), origins: map[string]Origin{}}}
	whole := l.readFile(in)
	l.readEnv()
	l.readFlags(in.Flags)
	l.readLogins()
	l.warnUnknown()
	if whole {
		l.complete()
		l.check()
	}
	if len(l.faults) == 0 {
		return l.Loaded, nil
	}
	slices.SortStableFunc(l.faults, func(a, b Fault) int {
		if a.At.Line != b.At.Line {
			return a.At.Line - b.At.Line
		}
		return a.At.Column - b.At.Column
	})
	return Loaded{File: l.File, Warnings: l.Warnings}, l.faults
}

// layers is a configuration in the making.
type layers struct {
	Loaded
	env    map[string]string
	faults Faults
	bad    []string // the keys whose values could not be read
}

func (l *layers) fault(at Origin, format string, args ...any) {
	l.faults = append(l.faults, Fault{at, fmt.Sprintf(format, args...)})
}

// readFile reports whether the file could be read to its end, whatever is wrong with its values.
func (l *layers) readFile(in Inputs) bool {
	name, text, err := find(in, l.env)
	l.File = name
	if err != nil {
		l.fault(named(in, name), "%v", err)
		return false
	}
	d := decoder{file: name, origins: l.origins, left: maxValues}
	whole := d.document(text, reflect.ValueOf(&l.Config).Elem())
	l.faults, l.bad = d.faults, d.bad
	return whole && d.left >= 0
}

// document decodes the one document of text; that there is none is no fault.
func (d *decoder) document(text []byte, v reflect.Value) bool {
	var docs []yaml.Node
	if err := yaml.Load(text, &docs, yaml.WithAllDocuments()); err != nil {
		d.faults = append(d.faults, d.syntax(err))
		return false
	}
	if len(docs) > 1 {
		d.fault(&docs[1], "", "a second document begins here: the file has one")
	}
	if len(docs) > 0 {
		root := &docs[0]
		if root.Kind == yaml.DocumentNode {
			root = root.Content[0]
		}
		d.value(root, v, "")
	}
	return true
}

// syntax is err, of the YAML library, in our words and at its place. What concerns the file as a whole stands at its
// beginning.
func (d *decoder) syntax(err error) Fault {
	f := Fault{Origin{File: d.file, Line: 1, Column: 1}, err.Error()}
	var e *yaml.LoadError
	if errors.As(err, &e) {
		f.What = "no YAML: " + e.Message
		if e.Mark.Line > 0 {
			f.At.Line, f.At.Column = e.Mark.Line, max(e.Mark.Column, 1)
		}
	}
	return f
}

// find reads the file that in names, else the first of the usual ones that is there.
func find(in Inputs, env map[string]string) (name string, text []byte, err error) {
	if in.File == "-" {
		text, err = readAll(in.Stdin)
		return "stdin", text, err
	}
	if name = in.File; name == "" {
		name = env["TIDEPOOL_CONFIG"]
	}
	if name != "" {
		text, err = readNamed(name)
		return name, text, err
	}
	for _, name := range usual(env) {
		text, err := readNamed(name)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return name, text, err
		}
	}
	return "", nil, nil
}

// named is who named a file that cannot be read: there is no line in it to point at.
func named(in Inputs, name string) Origin {
	switch {
	case in.File == name:
		return Origin{Flag: "config"}
	case in.File == "" && slices.Contains(in.Env, "TIDEPOOL_CONFIG="+name):
		return Origin{Variable: "TIDEPOOL_CONFIG"}
	default:
		return Origin{File: name, Line: 1, Column: 1}
	}
}

// usual are the places where a configuration is looked for.
func usual(env map[string]string) []string {
	home := env["XDG_CONFIG_HOME"]
	if home == "" && env["HOME"] != "" {
		home = filepath.Join(env["HOME"], ".config")
	}
	var names []string
	if home != "" {
		names = append(names, filepath.Join(home, "tidepool", "config.yaml"))
	}
	return append(names, "/etc/tidepool/config.yaml")
}

func readNamed(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, maxFile+1))
	if err == nil && n > maxFile {
		err = errors.New("larger than 1 MiB: this is no configuration")
	}
	return b.Bytes(), err
}

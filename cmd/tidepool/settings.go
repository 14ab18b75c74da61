package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// settings gives cmd the flags of the configuration, or only those called names, and returns what loads it.
func settings(cmd *cobra.Command, names ...string) func() (config.Loaded, error) {
	file := cmd.Flags().String("config", "", "configuration `FILE`; - is stdin (default: $TIDEPOOL_CONFIG, "+
		"$XDG_CONFIG_HOME/tidepool/config.yaml or /etc/tidepool/config.yaml, the first that is there)")
	given := map[string][]string{}
	for _, s := range config.Settings {
		if len(names) > 0 && !slices.Contains(names, s.Flag) {
			continue
		}
		flag := cmd.Flags().VarPF(&said{s, given}, s.Flag, "", s.Usage())
		if s.Kind == "" {
			flag.NoOptDefVal = "true"
		}
	}
	return func() (config.Loaded, error) {
		return config.Load(config.Inputs{File: *file, Flags: given, Env: os.Environ(), Stdin: cmd.InOrStdin()})
	}
}

// said is a flag that only remembers what was said: all values are read together, with those of the file, so that
// all faults are reported at once.
type said struct {
	config.Setting
	given map[string][]string
}

func (s *said) Set(text string) error {
	if !s.Repeated() {
		delete(s.given, s.Flag) // the last one counts
	}
	s.given[s.Flag] = append(s.given[s.Flag], text)
	return nil
}

func (s *said) String() string { return s.Default() }

func (s *said) Type() string {
	if s.Kind == "" {
		return "bool"
	}
	return s.Kind
}

// warn says on stderr what was passed over.
func warn(cmd *cobra.Command, warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
	}
}

// output gives cmd a flag that chooses between text and JSON, and returns whether JSON was asked for.
func output(cmd *cobra.Command) func() (bool, error) {
	form := cmd.Flags().String("output", "text", "`FORM` of the result: text or json")
	return func() (bool, error) {
		switch *form {
		case "text", "json":
			return *form == "json", nil
		default:
			return false, usageError{fmt.Errorf("--output: %q is neither text nor json", *form)}
		}
	}
}

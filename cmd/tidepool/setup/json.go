package setup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/tidepool-oci/tidepool/deploy"
)

// daemonJSON is docker's file: one object, in which the mirrors are a list. It is changed in place, not decoded and
// encoded again, so that the order of the keys, the numbers and the layout stay.
type daemonJSON struct{}

const mirrorsKey = "registry-mirrors"

// merge puts the server before other mirrors: docker asks them in their order.
func (daemonJSON) merge(text, address string) (string, error) {
	if strings.TrimSpace(strings.TrimPrefix(text, bom)) == "" { // docker takes an empty file too
		return snippet("docker", deploy.Server{Address: address}), nil
	}
	o, err := readObject(text)
	if err != nil {
		return "", err
	}
	ours := strconv.Quote(urlOf(address))
	i := slices.IndexFunc(o.members, func(m span) bool { return m.name == mirrorsKey })
	switch {
	case i < 0 && len(o.members) == 0:
		return text[:o.start] + strings.TrimSuffix(snippet("docker", deploy.Server{Address: address}), "\n") + text[o.end:], nil
	case i < 0:
		last := o.members[len(o.members)-1]
		return text[:last.end] + "," + o.indent(text) + strconv.Quote(mirrorsKey) + ": [" + ours + "]" + text[last.end:], nil
	}
	list, err := readMirrors(text, o.members[i])
	if err != nil {
		return "", err
	}
	switch {
	case slices.ContainsFunc(list.members, func(m span) bool { return same(m.name, address) }):
		return text, nil
	case len(list.members) == 0:
		return text[:list.start] + "[" + ours + "]" + text[list.end:], nil
	}
	indent := list.indent(text)
	if indent == "" {
		indent = " "
	}
	first := list.members[0].start
	return text[:first] + ours + "," + indent + text[first:], nil
}

// remove takes the key out too where the server is all that it lists.
func (daemonJSON) remove(text, address string) (string, error) {
	if strings.TrimSpace(strings.TrimPrefix(text, bom)) == "" {
		return text, nil
	}
	o, err := readObject(text)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(o.members, func(m span) bool { return m.name == mirrorsKey })
	if i < 0 {
		return text, nil
	}
	list, err := readMirrors(text, o.members[i])
	if err != nil {
		return "", err
	}
	k := slices.IndexFunc(list.members, func(m span) bool { return same(m.name, address) })
	switch {
	case k < 0:
		return text, nil
	case len(list.members) > 1:
		return list.without(text, k), nil
	}
	return o.without(text, i), nil
}

// urlOf is the URL of the server at address, which has https:// before it where that speaks TLS.
func urlOf(address string) string {
	if strings.HasPrefix(address, "https://") {
		return address
	}
	return "http://" + address
}

// same reports whether a mirror's URL is that of the server at address.
func same(url, address string) bool { return strings.TrimSuffix(url, "/") == urlOf(address) }

// compound is an object or a list, and where in the text it and its members stand.
type compound struct {
	start, end int // of it, brackets included
	members    []span
}

// span is a member: an item of a list with its text as its name, or a key of an object with its value.
type span struct {
	name       string
	start, end int
	value      int // where the value starts
}

// indent is what stands between members, as far as it can be told: the space before the first.
func (c compound) indent(text string) string { return text[c.start+1 : c.members[0].start] }

// without is text without the member i and one comma beside it.
func (c compound) without(text string, i int) string {
	switch {
	case i+1 < len(c.members):
		return text[:c.members[i].start] + text[c.members[i+1].start:]
	case i > 0:
		return text[:c.members[i-1].end] + text[c.members[i].end:]
	}
	return text[:c.start+1] + text[c.end-1:]
}

// readObject reads the one object that a file is.
func readObject(text string) (compound, error) {
	skip := 0
	if strings.HasPrefix(text, bom) {
		skip = len(bom)
	}
	d := json.NewDecoder(strings.NewReader(text[skip:]))
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil {
		return compound{}, invalid(text, skip, err)
	}
	o := compound{start: skip + int(d.InputOffset()) - len(raw), end: skip + int(d.InputOffset())}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return compound{}, errors.New("it is not valid JSON: something stands behind the end. Mend it first")
	}
	if raw[0] != '{' {
		return compound{}, errors.New("it is JSON but no object, which docker does not take: mend it first")
	}
	if err := o.read(text); err != nil {
		return compound{}, err
	}
	seen := false
	for _, m := range o.members {
		if m.name == mirrorsKey && seen {
			return compound{}, fmt.Errorf("it has %s twice: leave one of them", mirrorsKey)
		}
		seen = seen || m.name == mirrorsKey
	}
	return o, nil
}

// readMirrors reads the list of mirrors that m has.
func readMirrors(text string, m span) (compound, error) {
	list := compound{start: m.value, end: m.end}
	var urls []string
	if err := json.Unmarshal([]byte(text[m.value:m.end]), &urls); err != nil || text[m.value] != '[' {
		return compound{}, fmt.Errorf("its %s is no list of URLs: mend it first", mirrorsKey)
	}
	if err := list.read(text); err != nil {
		return compound{}, err
	}
	for i := range list.members {
		list.members[i].name = urls[i]
	}
	return list, nil
}

// read finds the members of c, which is valid.
func (c *compound) read(text string) error {
	d := json.NewDecoder(strings.NewReader(text[c.start:c.end]))
	if _, err := d.Token(); err != nil { // the bracket
		return err
	}
	for d.More() {
		var m span
		if text[c.start] == '{' {
			key, err := d.Token()
			if err != nil {
				return err
			}
			m.name = key.(string) // or it would not be valid
		}
		begun := c.start + int(d.InputOffset())
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return err
		}
		m.end = c.start + int(d.InputOffset())
		m.value = m.end - len(raw)
		m.start = m.value
		if text[c.start] == '{' {
			m.start = keyStart(text, c, begun)
		}
		c.members = append(c.members, m)
	}
	return nil
}

// keyStart is where the key begins that ends at end: behind the member before it, the comma and the space.
func keyStart(text string, c *compound, end int) int {
	from := c.start + 1
	if n := len(c.members); n > 0 {
		from = c.members[n-1].end
	}
	return from + strings.IndexByte(text[from:end], '"')
}

// invalid says where text, of which skip bytes are passed over, is no JSON.
func invalid(text string, skip int, err error) error {
	line := 1 + strings.Count(text, "\n")
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		line = 1 + strings.Count(text[:min(skip+int(syntax.Offset), len(text))], "\n")
	}
	return fmt.Errorf("it is not valid JSON, in line %d: %w. Mend it first", line, err)
}

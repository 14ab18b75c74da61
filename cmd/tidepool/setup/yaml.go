package setup

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// registriesYAML is k3s's file. Lines are put in and taken out, so that comments and layout stay; that the file then
// says what it said before, and this besides, is proven by reading it again. Where it does not, it is left alone.
type registriesYAML struct{}

// everywhere is where the servers for all registries stand in the file.
var everywhere = []string{"mirrors", "*", "endpoint"}

// merge puts the server before others: k3s asks them in their order.
func (registriesYAML) merge(text, address string) (string, error) {
	was, root, err := readYAML(text)
	if err != nil {
		return "", err
	}
	urls, err := endpoints(was)
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(urls, func(u any) bool { return same(fmt.Sprint(u), address) }) {
		return text, nil
	}
	urls = append([]any{urlOf(address)}, urls...)
	return proven(insert(text, root, urlOf(address)), with(was, everywhere, urls), address)
}

// remove takes out the keys too under which nothing else is.
func (registriesYAML) remove(text, address string) (string, error) {
	was, root, err := readYAML(text)
	if err != nil {
		return "", err
	}
	urls, err := endpoints(was)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(urls, func(u any) bool { return same(fmt.Sprint(u), address) })
	if i < 0 {
		return text, nil
	}
	path := everywhere
	for n := len(path) - 1; n > 0 && len(urls) == 1 && len(at(was, path[:n])) == 1; n-- {
		path = path[:n]
	}
	key, val := descend(root, path)
	if key == nil {
		return "", unproven(address)
	}
	if len(urls) > 1 {
		if val.Kind != yaml.SequenceNode {
			return "", unproven(address)
		}
		item := val.Content[i]
		return proven(withoutItem(text, val, item), with(was, everywhere, slices.Delete(slices.Clone(urls), i, i+1)), address)
	}
	return proven(cut(text, key.Line, lastLine(val)), with(was, path, nil), address)
}

// readYAML is what text says, and its tree; nil and nil where it says nothing.
func readYAML(text string) (map[string]any, *yaml.Node, error) {
	if strings.ContainsAny(strings.ReplaceAll(text, "\r\n", ""), "\r\u0085\u2028\u2029") {
		return nil, nil, errors.New("its lines end in a way that only YAML takes for an end: mend that first")
	}
	var docs []yaml.Node
	if err := yaml.Load([]byte(text), &docs, yaml.WithAllDocuments()); err != nil {
		return nil, nil, fmt.Errorf("it is not valid YAML: %w. Mend it first", err)
	}
	if len(docs) == 0 {
		return nil, nil, nil
	}
	if len(docs) > 1 {
		return nil, nil, errors.New("it has several YAML documents, and k3s reads one: mend it first")
	}
	var said map[string]any
	if err := docs[0].Decode(&said); err != nil {
		return nil, nil, fmt.Errorf("it is not valid YAML with keys and values: %w. Mend it first", err)
	}
	root := &docs[0]
	if root.Kind == yaml.DocumentNode {
		root = root.Content[0]
	}
	if root.Kind != yaml.MappingNode {
		return nil, nil, nil
	}
	return said, root, nil
}

// endpoints are the servers for all registries.
func endpoints(said map[string]any) ([]any, error) {
	v := any(said)
	for i, key := range everywhere {
		m, ok := v.(map[string]any)
		if !ok && v != nil {
			return nil, fmt.Errorf("its %s has no keys and values: mend it first", strings.Join(everywhere[:i], "."))
		}
		v = m[key]
	}
	urls, ok := v.([]any)
	if !ok && v != nil {
		return nil, fmt.Errorf("its %s is no list: mend it first", strings.Join(everywhere, "."))
	}
	return urls, nil
}

// at is the mapping at path.
func at(said map[string]any, path []string) map[string]any {
	for _, key := range path {
		said, _ = said[key].(map[string]any)
	}
	return said
}

// with is a copy of said with value at path; without that key where value is nil.
func with(said map[string]any, path []string, value []any) map[string]any {
	said = maps.Clone(said)
	if said == nil {
		said = map[string]any{}
	}
	switch {
	case len(path) > 1:
		inner, _ := said[path[0]].(map[string]any)
		said[path[0]] = with(inner, path[1:], value)
	case value == nil:
		delete(said, path[0])
	default:
		said[path[0]] = value
	}
	return said
}

// proven is text if it says want.
func proven(text string, want map[string]any, address string) (string, error) {
	got, _, err := readYAML(text)
	if err != nil || len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
		return "", unproven(address)
	}
	return text, nil
}

func unproven(address string) error {
	return fmt.Errorf("it is written in a way that cannot be changed safely: change by hand whether %s lists %s, as `tidepool setup k3s` shows",
		strings.Join(everywhere, "."), urlOf(address))
}

// descend is the last key on path and its value; nil where they are not there.
func descend(n *yaml.Node, path []string) (key, val *yaml.Node) {
	for _, name := range path {
		if key, val = child(n, name); key == nil {
			return nil, nil
		}
		n = val
	}
	return key, val
}

func child(n *yaml.Node, name string) (key, val *yaml.Node) {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}

// insert writes url under everywhere, with those keys on the way that are missing.
func insert(text string, root *yaml.Node, url string) string {
	var above *yaml.Node // the key whose value is n
	n := root
	for i, name := range everywhere {
		key, val := child(n, name)
		if key == nil {
			return insertKeys(text, n, above, everywhere[i:], url)
		}
		above, n = key, val
	}
	item := strconv.Quote(url)
	switch {
	case n.Kind == yaml.SequenceNode && n.Style&yaml.FlowStyle != 0:
		i := offset(text, n) + 1
		if len(n.Content) > 0 {
			item += ", "
		}
		return text[:i] + item + text[i:]
	case n.Kind == yaml.SequenceNode:
		return insertLines(text, n.Line-1, []string{spaces(n.Column-1) + "- " + item})
	default: // empty
		return insertLines(text, above.Line, []string{spaces(above.Column+1) + "- " + item})
	}
}

// insertKeys writes the keys, each below the one before, and url below the last: as the first of those below the key
// above, or at the end of the file where that is nil.
func insertKeys(text string, n, above *yaml.Node, keys []string, url string) string {
	indent, line := 0, strings.Count(ended(text), "\n")
	switch {
	case above != nil && n.Kind == yaml.MappingNode && len(n.Content) > 0:
		indent, line = n.Content[0].Column-1, above.Line
	case above != nil:
		indent, line = above.Column+1, above.Line
	case n != nil && len(n.Content) > 0:
		indent = n.Content[0].Column - 1
	}
	var lines []string
	for _, key := range keys {
		if key == "*" {
			key = `"*"` // it would be an alias
		}
		lines = append(lines, spaces(indent)+key+":")
		indent += 2
	}
	return insertLines(text, line, append(lines, spaces(indent)+"- "+strconv.Quote(url)))
}

func spaces(n int) string { return strings.Repeat(" ", max(n, 0)) }

// insertLines puts lines behind the first n of text.
func insertLines(text string, n int, lines []string) string {
	all := strings.SplitAfter(ended(text), "\n")
	n = min(n, len(all)-1) // the last is empty, behind the last line's end
	end := newline(text)
	return strings.Join(all[:n], "") + strings.Join(lines, end) + end + strings.Join(all[n:], "")
}

// cut is text without the lines from first to last, counted from 1.
func cut(text string, first, last int) string {
	all := strings.SplitAfter(text, "\n")
	return strings.Join(slices.Delete(all, first-1, min(last, len(all))), "")
}

// withoutItem is text without one item of several.
func withoutItem(text string, list, item *yaml.Node) string {
	if list.Style&yaml.FlowStyle == 0 {
		return cut(text, item.Line, lastLine(item))
	}
	start := offset(text, item)
	if before := strings.TrimRight(text[:start], " "); item != list.Content[0] && strings.HasSuffix(before, ",") {
		start = len(before) - 1
		return text[:start] + text[start+1+strings.IndexAny(text[start+1:]+"]", ",]"):]
	}
	_, after, _ := strings.Cut(text[start:], ",")
	return text[:start] + strings.TrimLeft(after, " ")
}

// lastLine is the last line on which a part of n begins.
func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, c := range n.Content {
		last = max(last, lastLine(c))
	}
	return last
}

// offset is where n begins in text.
func offset(text string, n *yaml.Node) int {
	begin := 0
	for range n.Line - 1 {
		begin += strings.IndexByte(text[begin:], '\n') + 1
	}
	column := 1
	for i := range text[begin:] { // columns are characters
		if column == n.Column {
			return begin + i
		}
		column++
	}
	return len(text)
}

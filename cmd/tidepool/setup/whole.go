package setup

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidepool-oci/tidepool/deploy"
)

// whole is a file in a format that cannot be merged safely without knowing all of it (TOML: a table must not be there
// twice). It is ours, or holds nothing but comments, or is left alone.
type whole struct {
	client   string
	fallback bool // of the two forms that there are of it, the one that lets the client ask the registry itself
}

// mark stands before what is ours, for whoever finds it there.
const mark = "# Written by `tidepool setup --write`; `--undo` takes it out again.\n"

func (w whole) merge(text, address string) (string, error) {
	ours := snippet(w.client, deploy.Server{Address: address, Fallback: w.fallback})
	if part, i := w.find(text, address); strings.TrimPrefix(part, mark) == ours {
		return text, nil
	} else if i >= 0 { // the other form
		text = text[:i] + text[i+len(part):]
	}
	if !bare(text) {
		return "", fmt.Errorf("it has content that is not tidepool's, and nothing can be added to it safely: add by hand what `tidepool setup %s --address %s` prints",
			w.client, address)
	}
	return ended(text) + mark + ours, nil
}

func (w whole) remove(text, address string) (string, error) {
	if part, i := w.find(text, address); i >= 0 {
		return text[:i] + text[i+len(part):], nil
	}
	if !strings.Contains(text, strings.TrimPrefix(address, "https://")) {
		return text, nil
	}
	return "", errors.New("what tidepool wrote there was changed since: take out by hand what leads to " + address)
}

// find is what text has of ours, in either form, and where it begins; -1: nothing.
func (w whole) find(text, address string) (part string, at int) {
	forms := []string{
		snippet(w.client, deploy.Server{Address: address}),
		snippet(w.client, deploy.Server{Address: address, Fallback: true}),
	}
	if len(forms[0]) < len(forms[1]) { // the shorter may be a part of the longer
		slices.Reverse(forms)
	}
	for _, form := range forms {
		for _, part := range []string{mark + form, form} {
			if i := lines(text, part); i >= 0 {
				return part, i
			}
		}
	}
	return "", -1
}

// lines is where the lines of part begin in text; -1: it does not have them.
func lines(text, part string) int { return strings.Index("\n"+text, "\n"+part) }

// bare reports whether text says nothing: comments and blank lines.
func bare(text string) bool {
	for line := range strings.Lines(strings.TrimPrefix(text, bom)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return false
		}
	}
	return true
}

// bom is what some editors of Windows put before a text.
const bom = "\ufeff"

// ended is text whose last line is complete.
func ended(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + newline(text)
}

// newline is how text's lines end.
func newline(text string) string {
	if strings.Contains(text, "\r\n") {
		return "\r\n"
	}
	return "\n"
}

package main

import (
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// onTerminal reports whether a person looks at what is written to w, on something that can be drawn on.
func onTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// inColour reports whether what is written to w may have colours (no-color.org).
func inColour(w io.Writer) bool { return onTerminal(w) && os.Getenv("NO_COLOR") == "" }

// linesOf is how many lines the terminal has that w is; 0: not known.
func linesOf(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	_, lines, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return lines
}

// printable is text of another's as a terminal may have it: nothing in it moves the cursor or turns the line around.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// TestReadmeSettings holds the README's table of flags, keys and variables against the program's.
func TestReadmeSettings(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows strings.Builder
	for _, s := range config.Settings {
		flag := "--" + s.Flag
		if s.Kind != "" {
			flag += " " + s.Kind
		}
		fmt.Fprintf(&rows, "| `%s` | `%s` | `%s` |\n", flag, s.Key, s.Variable())
	}
	if !strings.Contains(string(text), rows.String()) {
		t.Errorf("README.md does not have these rows:\n%s", &rows)
	}
}

// TestReadmeCommands holds the tidepool commands that the README shows against those that there are.
func TestReadmeCommands(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for i, block := range strings.Split(string(text), "```") {
		if i%2 == 0 {
			continue // prose
		}
		for line := range strings.Lines(block) {
			words := strings.Fields(strings.Replace(line, "go run ./cmd/tidepool", "tidepool", 1))
			if len(words) < 2 || words[0] != "tidepool" {
				continue
			}
			found++
			if cmd, _, err := rootCmd().Find(words[1:2]); err != nil || cmd.Name() != words[1] {
				t.Errorf("%q: no such command", line)
			}
		}
	}
	if found == 0 {
		t.Error("no command found")
	}
}

// Package deploy holds the texts that operators start from. The binary prints the same files that stand here.
package deploy

import (
	"embed"
	"strings"
)

// Config is the manual: a configuration file with every key explained.
//
//go:embed config.yaml
var Config []byte

//go:embed clients
var clients embed.FS

// here is the address in the snippets as they stand.
const here = "127.0.0.1:5000"

// Clients are the names that Client knows.
func Clients() []string {
	files, err := clients.ReadDir("clients")
	if err != nil {
		panic(err) // it is a part of the binary
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".txt"))
	}
	return names
}

// Client is what makes a client, one of Clients, pull through the server at address (host:port): what a person is to
// do, as comment lines, and what is to stand in the client's file.
func Client(name, address string) (hints, snippet string) {
	text, err := clients.ReadFile("clients/" + name + ".txt")
	if err != nil {
		panic(err) // no client of ours
	}
	snippet = strings.ReplaceAll(string(text), here, address)
	for strings.HasPrefix(snippet, "#") {
		line, rest, _ := strings.Cut(snippet, "\n")
		hints, snippet = hints+line+"\n", rest
	}
	return hints, snippet
}

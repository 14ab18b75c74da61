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
		if name, ok := strings.CutSuffix(f.Name(), ".txt"); ok {
			names = append(names, name)
		}
	}
	return names
}

// Server is what a client is led to.
type Server struct {
	Address  string // host:port, or https://host:port where it speaks TLS
	Fallback bool   // the client shall ask the registry itself for what the server cannot bring
}

// Client is what makes a client, one of Clients, pull through s: what a person is to do, as comment lines, and what is
// to stand in the client's file. Some clients go to the registry themselves whatever is asked for; the lines say so.
func Client(name string, s Server) (hints, snippet string) {
	text, err := clients.ReadFile("clients/" + name + ".txt")
	if err != nil {
		panic(err) // no client of ours
	}
	if other, err := clients.ReadFile("clients/fallback/" + name + ".txt"); err == nil && s.Fallback {
		text = other
	}
	snippet = s.secured(string(text))
	for strings.HasPrefix(snippet, "#") {
		line, rest, _ := strings.Cut(snippet, "\n")
		hints, snippet = hints+line+"\n", rest
	}
	return hints, snippet
}

// plain are what the snippets have for a server that does not speak TLS, and what for one that does.
var plain = strings.NewReplacer("http://"+here, "https://"+here, "insecure = true\n", "", "http = true", "http = false", " --plain-http", "")

// secured is a snippet for the server s. Where it speaks TLS, what allows a client to do without is left out.
func (s Server) secured(text string) string {
	address, secure := strings.CutPrefix(s.Address, "https://")
	if secure {
		text = plain.Replace(text)
	}
	return strings.ReplaceAll(text, here, address)
}

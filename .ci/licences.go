//go:build ignore

// Licences compares the licences of the modules that are linked into a binary with the list in licences.txt, so that a
// new dependency, or one that changed its licence, shows in review.
//
//	go run .ci/licences.go [-write] BINARY
package main

import (
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"unicode"
)

const list = ".ci/licences.txt"

// marks are phrases that tell a licence, the more special ones first. A licence that is not here is not known to be
// one that a binary may be shipped under: add it only after reading it.
var marks = []struct{ phrase, name string }{
	{"Apache License", "Apache-2.0"},
	{"Mozilla Public License Version 2.0", "MPL-2.0"},
	{"Mozilla Public License, version 2.0", "MPL-2.0"},
	{"Permission is hereby granted, free of charge", "MIT"},
	{"Permission to use, copy, modify, and/or distribute", "ISC"},
	{"Permission to use, copy, modify, and distribute", "ISC"},
	{"Neither the name", "BSD-3-Clause"},
	{"may be used to endorse", "BSD-3-Clause"},
	{"Redistribution and use in source and binary forms", "BSD-2-Clause"},
	{"free and unencumbered software released into the public domain", "Unlicense"},
}

// names are those of the files that licences are in.
var names = regexp.MustCompile(`(?i)^(un)?licen[cs]e|^copying`)

func main() {
	write := flag.Bool("write", false, "write the list instead of comparing with it")
	flag.Parse()
	if err := run(flag.Arg(0), *write); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(binary string, write bool) error {
	found, err := licences(binary)
	if err != nil {
		return err
	}
	if write {
		return os.WriteFile(list, []byte(found), 0o644)
	}
	known, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	if string(known) != found {
		return fmt.Errorf("%s is not what is linked now:\n%swrite it anew with: go run .ci/licences.go -write %s",
			list, found, binary)
	}
	fmt.Print(found)
	return nil
}

// licences is a line for each module linked into binary, in the order in which the binary lists them: by path.
func licences(binary string) (string, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return "", err
	}
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMODCACHE: %w", err)
	}
	var lines strings.Builder
	var faults []error
	for _, m := range info.Deps {
		name, err := licence(filepath.Join(strings.TrimSpace(string(cache)), directory(m)))
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", m.Path, err))
		}
		fmt.Fprintf(&lines, "%-12s %s\n", name, m.Path)
	}
	return lines.String(), errors.Join(faults...)
}

// directory is where the module cache keeps a module: there, upper-case letters are written as ! and the lower-case
// one, for file systems that do not tell them apart.
func directory(m *debug.Module) string {
	if m.Replace != nil {
		m = m.Replace
	}
	var b strings.Builder
	for _, r := range m.Path + "@" + m.Version {
		if unicode.IsUpper(r) {
			b.WriteByte('!')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// licence tells which licence the files in a module's root are about.
func licence(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		if !names.MatchString(filepath.Base(file)) {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		plain := strings.Join(strings.Fields(string(text)), " ")
		for _, m := range marks {
			if strings.Contains(plain, m.phrase) {
				return m.name, nil
			}
		}
	}
	return "", fmt.Errorf("no licence that is known in %s", dir)
}

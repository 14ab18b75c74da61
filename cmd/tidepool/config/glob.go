package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Glob selects repositories: ** stands for one part of a name or several, * for any text within a part.
type Glob string

// UnmarshalText refuses what can be no repository's name.
func (g *Glob) UnmarshalText(b []byte) error {
	for i, part := range strings.Split(string(b), "/") {
		if err := checkPart(part, i == 0); err != nil {
			return fmt.Errorf("%q matches no repository: %w", b, err)
		}
	}
	*g = Glob(b)
	return nil
}

const lettersOfNames = "abcdefghijklmnopqrstuvwxyz0123456789._-*"

func checkPart(part string, first bool) error {
	host, port, _ := strings.Cut(part, ":")
	if first && port != "" && strings.Trim(port, "0123456789") == "" {
		part = host
	}
	switch {
	case part == "":
		return errors.New("no name has an empty part")
	case part != "**" && strings.Contains(part, "**"):
		return errors.New("** stands for whole parts of a name, as in org/**; within a part, write *")
	case strings.ContainsAny(part, ":@"):
		return errors.New("this is about whole repositories: leave the tag or digest out")
	case part != strings.ToLower(part):
		return errors.New("registries and repositories are written in lower case")
	case strings.Trim(part, lettersOfNames) != "":
		return errors.New("besides the letters of names it may have * and ** only")
	}
	return nil
}

// cut is g's registry and what follows it.
func (g Glob) cut() (registry string, rest Glob) {
	registry, repo, _ := strings.Cut(string(g), "/")
	return registry, Glob(repo)
}

// wildcard finds them, the longer one first.
var wildcard = regexp.MustCompile(`\*\*|\*`)

// wildcards are g's, in order.
func (g Glob) wildcards() []string { return wildcard.FindAllString(string(g), -1) }

// finder is a Glob made ready for use.
type finder struct {
	prefix string // what all names begin with; looked at first, because nearly every name is none of them
	form   *regexp.Regexp
}

// compile makes of g what finds the texts that its wildcards stand for.
func (g Glob) compile() finder {
	prefix, _, _ := strings.Cut(string(g), "*")
	form := strings.NewReplacer(`\*\*`, `(.+)`, `\*`, `([^/]*)`).Replace(regexp.QuoteMeta(string(g)))
	return finder{prefix, regexp.MustCompile("^" + form + "$")}
}

func (f finder) matches(name string) bool {
	return strings.HasPrefix(name, f.prefix) && f.form.MatchString(name)
}

// texts are those that the wildcards stand for in name; ok is false where it does not match.
func (f finder) texts(name string) (all []string, ok bool) {
	if !strings.HasPrefix(name, f.prefix) {
		return nil, false
	}
	all = f.form.FindStringSubmatch(name)
	return all[min(1, len(all)):], all != nil
}

// fill puts the texts in the place of g's wildcards.
func (g Glob) fill(texts []string) string {
	i := -1
	return wildcard.ReplaceAllStringFunc(string(g), func(string) string {
		i++
		return texts[i]
	})
}

// covers reports whether g matches every name that other matches. What other's wildcards stand for is tried as a text
// that only a wildcard can match, of one part and of two.
func (g Glob) covers(other Glob) bool {
	form := g.compile()
	for _, many := range []string{"\x00", "\x00/\x00"} {
		name := wildcard.ReplaceAllStringFunc(string(other), func(w string) string {
			if w == "**" {
				return many
			}
			return "\x00"
		})
		if !form.matches(name) {
			return false
		}
	}
	return true
}

// letter is one letter of a name that a Glob matches, or any number of them.
type letter struct {
	is    byte // 0: any
	slash bool // any, and a slash too
	many  bool // none, or more than one
}

// letters are g, letter by letter.
func (g Glob) letters() (all []letter) {
	for i := 0; i < len(g); i++ {
		switch {
		case strings.HasPrefix(string(g[i:]), "**"):
			all = append(all, letter{slash: true}, letter{slash: true, many: true})
			i++
		case g[i] == '*':
			all = append(all, letter{many: true})
		default:
			all = append(all, letter{is: g[i]})
		}
	}
	return all
}

// meets reports whether x and y can be the same letter.
func (x letter) meets(y letter) bool {
	if x.is == 0 {
		x, y = y, x
	}
	return y.is == x.is || y.is == 0 && (x.is != '/' || y.slash)
}

// meets reports whether there may be a name that both match.
func (g Glob) meets(other Glob) bool {
	a, b := g.letters(), other.letters()
	reached := make([][]bool, len(a)+1) // how far in both of them one text can lead
	for i := range reached {
		reached[i] = make([]bool, len(b)+1)
	}
	reached[0][0] = true
	for i := range reached {
		for j := range reached[i] {
			if !reached[i][j] {
				continue
			}
			if i < len(a) && a[i].many {
				reached[i+1][j] = true
			}
			if j < len(b) && b[j].many {
				reached[i][j+1] = true
			}
			if i < len(a) && j < len(b) && a[i].meets(b[j]) {
				reached[past(a, i)][past(b, j)] = true
			}
		}
	}
	return reached[len(a)][len(b)]
}

// past is where in all one stands after a letter that all[i] matched.
func past(all []letter, i int) int {
	if all[i].many {
		return i
	}
	return i + 1
}

// Library reports whether names of one part live under library/ at an upstream.
func Library(upstream string) bool { return upstream == "docker.io" }

// at is how an upstream calls a repository.
func at(upstream, repo string) string {
	if Library(upstream) && !strings.Contains(repo, "/") {
		return "library/" + repo
	}
	return repo
}

// spellings are the names that clients have for a repository: docker puts library/ before those of one part, whoever
// is asked.
func spellings(repo string) []string {
	all := []string{repo}
	if short, ok := strings.CutPrefix(repo, "library/"); ok && !strings.Contains(short, "/") {
		return append(all, short)
	}
	if !strings.Contains(repo, "/") {
		all = append(all, "library/"+repo)
	}
	return all
}

// anyMatches reports whether one of the forms matches one of the spellings of repo.
func anyMatches(forms []finder, repo string) bool {
	if len(forms) == 0 {
		return false
	}
	return slices.ContainsFunc(spellings(repo), func(name string) bool {
		return slices.ContainsFunc(forms, func(f finder) bool { return f.matches(name) })
	})
}

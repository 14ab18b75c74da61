package config

// What the tests of package config_test look at.
func Matches(g Glob, name string) bool { return g.compile().matches(name) }
func Meets(a, b Glob) bool             { return a.meets(b) }
func Covers(a, b Glob) bool            { return a.covers(b) }

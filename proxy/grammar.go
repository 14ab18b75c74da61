package proxy

import "strings"

// The scanners are by hand because each request passes them, and a regular expression takes longer than the rest of
// a hit.

// validName reports whether s is a repository's name: components of letters and digits, joined inside by ".", "_",
// "__" or any number of "-" (distribution-spec, "Pulling manifests").
func validName(s string) bool {
	for more := true; more; {
		var c string
		if c, s, more = strings.Cut(s, "/"); !validComponent(c) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	for {
		n := alphanumerics(s)
		if n == 0 {
			return false
		}
		if s = s[n:]; s == "" {
			return true
		}
		if n = separator(s); n == 0 {
			return false
		}
		s = s[n:]
	}
}

// alphanumerics is how many lower-case letters and digits s begins with.
func alphanumerics(s string) (n int) {
	for n < len(s) && (isLower(s[n]) || isDigit(s[n])) {
		n++
	}
	return n
}

// separator is the length of the separator that s, which is not empty, begins with; 0: with none.
func separator(s string) (n int) {
	switch {
	case s[0] == '.':
		return 1
	case strings.HasPrefix(s, "__"):
		return 2
	case s[0] == '_':
		return 1
	}
	for n < len(s) && s[n] == '-' {
		n++
	}
	return n
}

// validTag reports whether s is a tag (distribution-spec, "Pulling manifests").
func validTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isWord(c) && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// validHost reports whether s may name a registry that is not configured: a host name or an IPv4 address in lower
// case, with a port or without. Whether it may be dialled is the dialer's decision.
func validHost(s string) bool {
	host, port, hasPort := strings.Cut(s, ":")
	if hasPort && !validPort(port) || len(host) > 253 || !looksLikeHost(s) {
		return false
	}
	for more := true; more; {
		var label string
		if label, host, more = strings.Cut(host, "."); !validLabel(label) {
			return false
		}
	}
	return true
}

func validLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isDigit(c) && c != '-' {
			return false
		}
	}
	return true
}

func validPort(s string) bool {
	n := 0
	for i := range len(s) {
		if !isDigit(s[i]) || i == 5 {
			return false
		}
		n = 10*n + int(s[i]-'0')
	}
	return s != "" && s[0] != '0' && n < 1<<16
}

// validToken reports whether s may name a request: short, and nothing in it that a log or a header minds.
func validToken(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isWord(c) && !strings.ContainsRune(".-+/=:@", rune(c)) {
			return false
		}
	}
	return true
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isWord(c byte) bool  { return isLower(c) || isDigit(c) || 'A' <= c && c <= 'Z' || c == '_' }

package access

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Subject selects certificates by a name that they carry. * stands for any text without a dot or a colon, ** for any text
// at all in the place of one part or several: node-*.corp, **.nodes.corp, system:node:**.
type Subject string

// Account selects service accounts of Kubernetes, written NAMESPACE:NAME. * stands for any text within one of the two.
type Account string

// UnmarshalText refuses what no certificate's name matches.
func (s *Subject) UnmarshalText(b []byte) error {
	*s = Subject(b)
	_, err := s.compile()
	return err
}

// UnmarshalText refuses what can be no service account.
func (a *Account) UnmarshalText(b []byte) error {
	*a = Account(b)
	_, err := a.compile()
	return err
}

// form is a pattern made ready for use.
type form struct{ *regexp.Regexp }

func (f *form) matches(name string) bool { return f.MatchString(name) }

// subjectName is a name in a certificate that a Subject may match. Wildcards in certificates are none: who has one for
// *.corp is not whatever is called so.
var subjectName = regexp.MustCompile(`^[a-z0-9_-]+([.:][a-z0-9_-]+)*$`)

func (s Subject) compile() (*form, error) {
	for _, part := range strings.FieldsFunc(strings.ReplaceAll(string(s), ":", "."), func(r rune) bool { return r == '.' }) {
		if part != "**" && strings.Contains(part, "**") {
			return nil, fmt.Errorf("%q: ** stands for whole parts of a name, as in **.corp; within a part, write *", string(s))
		}
	}
	if !subjectName.MatchString(strings.ReplaceAll(string(s), "*", "x")) {
		return nil, fmt.Errorf("%q matches no certificate: want a name in lower case, as node-1.corp or node-*.corp", string(s))
	}
	return expression(string(s), `[^.:]*`), nil
}

// Of an account, the namespace is one label of DNS and the name may have several.
var accountName = regexp.MustCompile(`^[a-z0-9-]+:[a-z0-9.-]+$`)

func (a Account) compile() (*form, error) {
	if !accountName.MatchString(strings.ReplaceAll(string(a), "*", "x")) || strings.Contains(string(a), "**") {
		return nil, fmt.Errorf("%q matches no service account: want NAMESPACE:NAME, as prod:puller or prod:*", string(a))
	}
	return expression(string(a), `[^:]*`), nil
}

// expression is glob, whose * stand for what star matches.
func expression(glob, star string) *form {
	text := strings.NewReplacer(`\*\*`, `.+`, `\*`, star).Replace(regexp.QuoteMeta(glob))
	return &form{regexp.MustCompile("^(?:" + text + ")$")}
}

// compile is what the rule is for, ready for use.
func (r Rule) compile() (certificate, account *form, err error) {
	if (r.Certificate == "") == (r.Account == "") {
		return nil, nil, errors.New("a login stands in for a certificate or for a service_account: say one of them")
	}
	if r.Certificate != "" {
		certificate, err = r.Certificate.compile()
		return certificate, nil, err
	}
	account, err = r.Account.compile()
	return nil, account, err
}

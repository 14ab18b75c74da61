// Package access finds out who comes in from what a client shows of itself besides a login, its certificate or the token
// of a Kubernetes service account, and which login stands in for that at an upstream that is asked with its clients'
// logins.
//
// Its invariant: nothing that a client sends chooses what it is verified with. Authorities and keys are those of the
// configuration, and no others.
package access

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// Rule says which login stands in for one who shows a certificate, or a token, that it matches.
type Rule struct {
	Certificate Subject // "": none
	Account     Account // "": none
	Issuer      string  // of Account's tokens, by its name in Options

	Username     string
	PasswordFile string // read anew whenever it is needed; the last line break is not part of the password
}

// Options are who is known, and by what. The zero value knows nobody.
type Options struct {
	Door    *Door             // verifies certificates; nil: there are none
	Issuers map[string]Issuer // of tokens, by names of ours
	Rules   map[string][]Rule // by registry; of each, the first that matches counts
	Log     *zap.Logger       // nil: silence
}

// Callers knows which login stands in for whom. It is made by New, and safe for concurrent use.
type Callers struct {
	door    *Door
	issuers []*issuer // by name
	rules   map[string][]rule
}

type rule struct {
	Rule
	where       string // it stands in the configuration
	certificate *form  // nil: none
	account     *form  // nil: none
}

// New returns what knows those in o. It asks nobody for anything yet.
func New(o Options) (*Callers, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	c := &Callers{door: o.Door, rules: map[string][]rule{}}
	for name, i := range o.Issuers {
		c.issuers = append(c.issuers, newIssuer(name, i, o.Log))
	}
	slices.SortFunc(c.issuers, func(a, b *issuer) int { return cmp.Compare(a.name, b.name) })
	for registry, all := range o.Rules {
		for i, one := range all {
			r := rule{Rule: one, where: fmt.Sprintf("upstreams.%s.callers[%d]", registry, i)}
			var err error
			if r.certificate, r.account, err = one.compile(); err != nil {
				return nil, fmt.Errorf("%s: %w", r.where, err)
			}
			c.rules[registry] = append(c.rules[registry], r)
		}
	}
	return c, nil
}

// shown is what one who comes in shows of himself, as far as it holds.
type shown struct {
	names   []string // of his certificate
	account string   // NAMESPACE:NAME of his token; "": he has none
	issuer  string   // of that
}

// Login is the login that stands in at a registry for one who sends none of his own; ok is false where he does send one,
// or what can only be that, which is somebody else's to judge. With ok and the zero Login nothing stands in for him, and
// he is nobody in particular. The error is cache.ErrDenied where what he shows does not hold, else an outage of ours.
func (c *Callers) Login(r *http.Request, registry string) (l cache.Login, ok bool, err error) {
	who, ok, err := c.who(r)
	if !ok || err != nil {
		return cache.Login{}, ok, err
	}
	one := c.match(registry, who)
	if one == nil {
		return cache.Login{}, true, nil
	}
	l, err = one.login()
	return l, true, err
}

// who finds out what a request shows.
func (c *Callers) who(r *http.Request) (who shown, ok bool, err error) {
	all := r.Header["Authorization"]
	if len(all) > 1 {
		return who, false, nil
	}
	who.names = c.door.names(r.TLS)
	if len(all) == 0 {
		return who, true, nil
	}
	scheme, token, _ := strings.Cut(all[0], " ")
	user, password, basic := r.BasicAuth()
	switch {
	case basic && user == "" && password == "": // as podman sends without a login
		return who, true, nil
	case basic && c.knows(password):
		token = password // of a client that can send it in no other way; it is no login at any registry
	case !strings.EqualFold(scheme, "Bearer") || len(c.issuers) == 0:
		return who, false, nil
	}
	who.account, who.issuer, err = c.verify(r.Context(), strings.TrimSpace(token))
	return who, true, err
}

// match is the first rule for one who shows so much; nil: there is none.
func (c *Callers) match(registry string, who shown) *rule {
	for i := range c.rules[registry] {
		one := &c.rules[registry][i]
		switch {
		case one.certificate != nil && slices.ContainsFunc(who.names, one.certificate.matches),
			one.account != nil && who.account != "" && one.Issuer == who.issuer && one.account.matches(who.account):
			return one
		}
	}
	return nil
}

// maxPassword is more than any registry gives out.
const maxPassword = 64 << 10

// login reads the password. What cannot be read is an outage and not nobody's login: what nobody may see would look gone.
func (r *rule) login() (cache.Login, error) {
	info, err := os.Stat(r.PasswordFile)
	if err == nil && info.Size() > maxPassword {
		err = errors.New("it is too large for a password")
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(r.PasswordFile)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if err == nil && password == "" {
		err = errors.New("it is empty")
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err // clients need not know where files are
	}
	if err != nil {
		return cache.Login{}, fmt.Errorf("the login that stands in for this client cannot be read (%s.password_file): %w: "+
			"mend the file, it is read anew with the next request", r.where, err)
	}
	return cache.Login{Username: r.Username, Password: password}, nil
}

package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// login is who we are at an endpoint: a username and a password, an identity token that a token server takes instead,
// or a bearer token for the registry itself. The zero login is nobody in particular. It is comparable.
type login struct {
	caller                     cache.Caller // whose it is; "": ours
	username                   string
	password, identity, bearer Secret
}

func (l login) anonymous() bool { return l == login{caller: l.caller} }

// basic is the Authorization of a username and a password; empty where l has none.
func (l login) basic() Secret {
	if l.username == "" || l.identity != "" {
		return ""
	}
	return Secret("Basic " + base64.StdEncoding.EncodeToString([]byte(l.username+":"+string(l.password))))
}

// secrets are the texts that must not be seen.
func (l login) secrets() []Secret {
	return append(secretsIn(l.basic()), l.identity, l.bearer)
}

// secretsIn are the texts of an Authorization that must not be seen.
func secretsIn(pass Secret) []Secret {
	kind, text, _ := strings.Cut(string(pass), " ")
	all := []Secret{Secret(text)}
	if plain, err := base64.StdEncoding.DecodeString(text); err == nil && kind == "Basic" {
		_, password, _ := strings.Cut(string(plain), ":")
		all = append(all, Secret(password))
	}
	return all
}

// keys are a registry's logins. One that the registry refuses is parked: not shown again for a while, since registries
// lock accounts that fail too often, and not replaced by nobody, since what nobody may see would look gone.
type keys struct {
	registry    string
	credentials []Credential
	docker      *dockerConfig // nil: none
	together    bool          // where one has no pulls left, the next is used
	log         *zap.Logger

	make   func(context.Context, Credential, *endpoint) (login, time.Time, error)
	makers *cache.Group[madeKey, login]

	mu    sync.Mutex // guards all below
	marks map[login]mark
	held  map[madeKey]madeLogin
}

// mark is what a registry thinks of a login.
type mark struct {
	accepted bool
	refusals int       // in a row
	parked   time.Time // until then it is not shown
}

const (
	firstPark = time.Minute
	longPark  = 16 * time.Minute
	maxMarks  = 64 // logins change with their files, seldom
)

// pick is the login for e: the first that fits and is not parked. grant says whether it may be used for what is to be
// asked; where not, the next is used only if they are used together. An error means that there is a login, and that it
// cannot be used.
func (k *keys) pick(ctx context.Context, e *endpoint, grant func(login) error) (login, error) {
	var why, limited error
	try := func(l login, err error) bool {
		if err == nil {
			err = k.parked(l)
		}
		if err != nil && why == nil {
			why = err
		}
		if err != nil {
			return false
		}
		err = grant(l)
		limited = sooner(limited, err)
		return err == nil
	}
	for i, c := range k.credentials {
		if !c.fits(e.origin) {
			continue
		}
		if l, err := k.login(ctx, i, e); try(l, err) {
			return l, nil
		}
		if limited != nil && !k.together {
			return login{}, limited
		}
	}
	if k.docker != nil {
		l, err := k.docker.login(ctx, e.origin)
		if (err != nil || !l.anonymous()) && try(l, err) {
			return l, nil
		}
	}
	switch {
	case limited != nil:
		return login{}, limited
	case why != nil:
		f := refused(cache.ErrUnavailable, "no login for %s can be used: %v; is what stands under upstreams.%s right?", e.origin, why, k.registry)
		f.cause = errNoLogin
		return login{}, f
	}
	return login{}, grant(login{})
}

// login is the credential i's at e, as it is now.
func (k *keys) login(ctx context.Context, i int, e *endpoint) (login, error) {
	if c := k.credentials[i]; c.Make == nil {
		return c.login()
	}
	return k.made(ctx, i, e)
}

func (k *keys) parked(l login) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m := k.marks[l]; time.Now().Before(m.parked) {
		return fmt.Errorf("%s was refused; it is tried again at %s", l.name(), m.parked.UTC().Format(time.RFC3339))
	}
	return nil
}

func (k *keys) accepted(l login) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.marks[l].accepted
}

func (k *keys) accept(l login) {
	if l.anonymous() || l.caller != "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mark(l, mark{accepted: true})
}

// park notes that l was refused, which is our trouble and not the caller's: the error is an outage.
func (k *keys) park(l login, err error) error {
	wasGood := k.accepted(l)
	if pause, first := k.refuse(l, time.Now()); first {
		k.log.Warn("a registry refuses our login", zap.String("registry", k.registry), zap.String("login", l.name()),
			zap.Duration("pause", pause), zap.Error(err))
		if k.docker != nil {
			k.docker.forget()
		}
		k.spent(l, wasGood)
	}
	out := refused(cache.ErrUnavailable, "%v; the login %s under upstreams.%s is refused", err, l.name(), k.registry)
	if wasGood {
		out.cause = errReplaced
	}
	return out
}

// refuse parks l, for longer with each refusal in a row. It reports false where another request, made at the same
// time, has done so.
func (k *keys) refuse(l login, now time.Time) (pause time.Duration, first bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.marks[l]
	if now.Before(m.parked) {
		return 0, false
	}
	pause = min(longPark, firstPark<<min(m.refusals, 10))
	k.mark(l, mark{refusals: m.refusals + 1, parked: now.Add(pause)})
	return pause, true
}

// mark is called with mu held.
func (k *keys) mark(l login, m mark) {
	if k.marks == nil || len(k.marks) >= maxMarks {
		k.marks = map[login]mark{}
	}
	k.marks[l] = m
}

// refused are the logins that are parked at present, for people.
func (k *keys) refused() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var names []string
	for l, m := range k.marks {
		if time.Now().Before(m.parked) {
			names = append(names, l.name())
		}
	}
	return names
}

// name is the login for people.
func (l login) name() string {
	if l.username == "" {
		return "(a token)"
	}
	return fmt.Sprintf("%q", clean(l.username))
}

// fits reports whether the credential is for the endpoint at o.
func (c Credential) fits(o origin) bool {
	return c.Endpoint == "" || strings.EqualFold(c.Endpoint, o.host) || strings.EqualFold(c.Endpoint, o.hostport())
}

// login reads the credential, its file included: a small read beside a trip over the network, and always up to date.
func (c Credential) login() (login, error) {
	if c.PasswordFile == "" {
		return login{username: c.Username, password: c.Password}, nil
	}
	b, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return login{}, err
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if password == "" {
		return login{}, fmt.Errorf("%s is empty", c.PasswordFile)
	}
	return login{username: c.Username, password: Secret(password)}, nil
}

// errNoLogin is the cause where there is a login, and it cannot be used.
var errNoLogin = errors.New("no login can be used")

var (
	errNoUsername  = errors.New("a credential needs a username, without a colon")
	errNoPassword  = errors.New("a credential needs a password, or a password file")
	errMadeToo     = errors.New("a login that a cloud makes has no username and no password of its own")
	errTwoPassword = errors.New("a credential has either a password or a password file")
)

// check finds what is wrong with the credential before it is used.
func (c Credential) check() error {
	switch {
	case c.Make != nil && c.Username+string(c.Password)+c.PasswordFile != "":
		return errMadeToo
	case c.Make != nil:
		return nil // nothing is asked before there is need
	case c.Username == "" || strings.Contains(c.Username, ":"):
		return errNoUsername
	case c.Password == "" && c.PasswordFile == "":
		return errNoPassword
	case c.Password != "" && c.PasswordFile != "":
		return errTwoPassword
	}
	_, err := c.login()
	return err
}

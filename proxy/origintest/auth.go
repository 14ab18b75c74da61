package origintest

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// TokenServer is how an origin hands out bearer tokens: at "/token" of any address that it is served on.
type TokenServer struct {
	Realm   string        // its address as challenges name it; empty: /token at the host that was asked
	Service string        // empty: "origintest"
	Life    time.Duration // how long tokens are good for; 0: 5 minutes

	// Answer changes the document with token, access_token, expires_in and issued_at before it is sent; nil: it stays.
	// It must not call the Origin.
	Answer func(map[string]any)
}

const service = "origintest"

// guard is who may come in. The zero value lets everybody in.
type guard struct {
	scheme     string // "", "Basic" or "Bearer"
	server     TokenServer
	accounts   map[string]account
	private    map[string]bool
	allPrivate bool
	epoch      int // tokens of an earlier one are void
}

type account struct {
	password string
	repos    []string // empty: all
}

func (a account) may(repo string) bool {
	return repo == "" || len(a.repos) == 0 || slices.Contains(a.repos, repo)
}

// grant is what a token says.
type grant struct {
	Repos   []string  `json:"repos"`
	Expires time.Time `json:"expires"`
	Epoch   int       `json:"epoch"`
}

// Account adds an account that may pull the given repositories; none: all of them.
func (o *Origin) Account(user, password string, repos ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.guard.accounts == nil {
		o.guard.accounts = map[string]account{}
	}
	o.guard.accounts[user] = account{password, repos}
}

// Private demands an account for the given repositories; none: for all of them.
func (o *Origin) Private(repos ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.guard.private == nil {
		o.guard.private = map[string]bool{}
	}
	for _, r := range repos {
		o.guard.private[r] = true
	}
	o.guard.allPrivate = o.guard.allPrivate || len(repos) == 0
}

// RequireBasic demands the name and password of an account for everything.
func (o *Origin) RequireBasic() {
	o.Private()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.guard.scheme = "Basic"
}

// RequireToken demands a bearer token for everything. Anybody gets one for what is not Private.
func (o *Origin) RequireToken(s TokenServer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.guard.scheme, o.guard.server = "Bearer", s
}

// RevokeTokens voids every token handed out so far.
func (o *Origin) RevokeTokens() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.guard.epoch++
}

func (g *guard) isPrivate(repo string) bool { return g.allPrivate || g.private[repo] }

// admit is nil for a request that may come in, else the refusal.
func (o *Origin) admit(req *Request, r *http.Request) *answer {
	switch o.guard.scheme {
	case "Basic":
		return o.admitBasic(req, r)
	case "Bearer":
		return o.admitToken(req, r)
	}
	return nil
}

func (o *Origin) admitBasic(req *Request, r *http.Request) *answer {
	user, password, _ := r.BasicAuth()
	a, known := o.guard.accounts[user]
	if !known || a.password != password {
		return o.guard.challenge(req, r, "", "")
	}
	if !a.may(req.Repo) && o.manners.Hides {
		return refuse(http.StatusNotFound, "NAME_UNKNOWN", "no such repository")
	}
	if !a.may(req.Repo) {
		return refuse(http.StatusForbidden, "DENIED", "not for this account")
	}
	return nil
}

func (o *Origin) admitToken(req *Request, r *http.Request) *answer {
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return o.guard.challenge(req, r, "", "")
	}
	g, ok := o.verify(text)
	if !ok {
		return o.guard.challenge(req, r, "", "invalid_token")
	}
	if req.Repo != "" && !slices.Contains(g.Repos, req.Repo) {
		if o.manners.Hides {
			return refuse(http.StatusNotFound, "NAME_UNKNOWN", "no such repository")
		}
		return o.guard.challenge(req, r, "", "insufficient_scope")
	}
	return nil
}

// challenge is a 401 that says how to come in: with a token from realm ("": the configured one), or with a password.
func (g *guard) challenge(req *Request, r *http.Request, realm, problem string) *answer {
	a := refuse(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	if g.scheme == "Basic" && realm == "" {
		a.header.Set("WWW-Authenticate", `Basic realm="`+service+`"`)
		return a
	}
	c := fmt.Sprintf("Bearer realm=%q,service=%q", g.realm(r, realm), cmp.Or(g.server.Service, service))
	if req.Repo != "" {
		c += fmt.Sprintf(",scope=%q", "repository:"+req.Repo+":pull")
	}
	if problem != "" {
		c += fmt.Sprintf(",error=%q", problem)
	}
	a.header.Set("WWW-Authenticate", c)
	return a
}

func (g *guard) realm(r *http.Request, realm string) string {
	switch {
	case realm != "":
		return realm
	case g.server.Realm != "":
		return g.server.Realm
	default:
		return base(r) + "/token"
	}
}

// base is the address that a request was sent to, without its path.
func base(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// token hands out a token for what is asked, as far as the account may have it.
func (o *Origin) token(r *http.Request) *answer {
	user, password, named := r.BasicAuth()
	acc, known := o.guard.accounts[user]
	if named && (!known || acc.password != password) {
		return refuse(http.StatusUnauthorized, "UNAUTHORIZED", "wrong name or password")
	}
	server := o.guard.server
	life := cmp.Or(server.Life, 5*time.Minute)
	g := grant{Repos: []string{}, Expires: time.Now().Add(life), Epoch: o.guard.epoch}
	for _, scope := range r.URL.Query()["scope"] {
		for one := range strings.FieldsSeq(scope) {
			repo := pullable(one)
			if repo != "" && (named && acc.may(repo) || !o.guard.isPrivate(repo)) {
				g.Repos = append(g.Repos, repo)
			}
		}
	}
	text := o.seal(g)
	m := map[string]any{
		"token": text, "access_token": text, "expires_in": int(life.Seconds()),
		"issued_at": time.Now().UTC().Format(time.RFC3339),
	}
	if server.Answer != nil {
		server.Answer(m)
	}
	return document("application/json", marshal(m))
}

// pullable is the repository of the scope "repository:name:pull"; empty for any other.
func pullable(scope string) string {
	rest, ok := strings.CutPrefix(scope, "repository:")
	i := strings.LastIndexByte(rest, ':')
	if !ok || i < 0 || !slices.Contains(strings.Split(rest[i+1:], ","), "pull") {
		return ""
	}
	return rest[:i]
}

func (o *Origin) seal(g grant) string {
	text := base64.RawURLEncoding.EncodeToString(marshal(g))
	return text + "." + o.mac(text)
}

func (o *Origin) verify(token string) (g grant, ok bool) {
	text, mac, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || !hmac.Equal([]byte(mac), []byte(o.mac(text))) || json.Unmarshal(b, &g) != nil {
		return g, false
	}
	return g, g.Epoch == o.guard.epoch && time.Now().Before(g.Expires)
}

func (o *Origin) mac(text string) string {
	h := hmac.New(sha256.New, o.secret)
	h.Write([]byte(text))
	return hex.EncodeToString(h.Sum(nil))
}

// marshal is for values that can always be marshalled.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

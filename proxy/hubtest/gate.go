package hubtest

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Marker is in every secret that this package gives out, so that a test can look for it where none may be.
const Marker = "s3cr3t"

// Gate is who may come in: accounts with passwords, and what was handed out to them. The zero value lets nobody in.
type Gate struct {
	mu       sync.Mutex // guards what follows
	accounts map[string]string
	passes   map[string]bool
	given    int
	revoked  bool
}

// Account adds an account, or changes its password.
func (g *Gate) Account(user, password string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.accounts == nil {
		g.accounts = map[string]string{}
	}
	g.accounts[user] = password
}

// Expire voids every pass that was handed out; who has an account gets another. Entra's tokens are not the registry's,
// and stay: it exchanges them again.
func (g *Gate) Expire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.passes, func(pass string, _ bool) bool { return !strings.HasSuffix(pass, "-for-entra") })
}

// Revoke voids passes and accounts for good.
func (g *Gate) Revoke() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passes, g.accounts, g.revoked = nil, nil, true
}

// Given is how many passes were handed out.
func (g *Gate) Given() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.given
}

// issue hands a pass out: for a repository, or for another purpose. Nobody gets one of a gate that was revoked.
func (g *Gate) issue(purpose string) (pass string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.revoked {
		return "", false
	}
	if g.passes == nil {
		g.passes = map[string]bool{}
	}
	g.given++
	pass = fmt.Sprintf("%s-%d-for-%s", Marker, g.given, strings.ReplaceAll(purpose, "/", "."))
	g.passes[pass] = true
	return pass, true
}

// knows reports whether a pass is good for a purpose.
func (g *Gate) knows(pass, purpose string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.passes[pass] && strings.HasSuffix(pass, "-for-"+strings.ReplaceAll(purpose, "/", "."))
}

// admits reports whether a request shows the name and the password of an account.
func (g *Gate) admits(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	g.mu.Lock()
	defer g.mu.Unlock()
	want, known := g.accounts[user]
	return ok && known && want == password
}

// Guard lets a request for a repository in, or answers it. The repository is empty for the base of the API.
type Guard func(w http.ResponseWriter, r *http.Request, repo string) bool

// Basic wants the password of an account with each request, as htpasswd does.
func (g *Gate) Basic(realm string) Guard {
	return func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if g.admits(r) {
			return true
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Basic realm=%q", realm))
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return false
	}
}

// Bearer wants a token of Tokens or Exchange for the repository, and says that realm has them.
func (g *Gate) Bearer(realm, service string) Guard {
	return func(w http.ResponseWriter, r *http.Request, repo string) bool {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if g.knows(token, repo) {
			return true
		}
		challenge := fmt.Sprintf("Bearer realm=%q,service=%q", realm, service)
		if repo != "" {
			challenge += fmt.Sprintf(",scope=%q", "repository:"+repo+":pull")
		}
		w.Header().Set("WWW-Authenticate", challenge)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return false
	}
}

// ECR wants the password that Amazon's API gave out, and tells an old one as Amazon does: by a 403.
func (g *Gate) ECR(registry string) Guard {
	return func(w http.ResponseWriter, r *http.Request, _ string) bool {
		user, password, ok := r.BasicAuth()
		switch {
		case ok && user == "AWS" && g.knows(password, "ecr"):
			return true
		case ok:
			refuse(w, http.StatusForbidden, "DENIED", "Your authorization token has expired. Reauthenticate and try again.")
		default:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Basic realm=%q,service=\"ecr.amazonaws.com\"", "https://"+registry+"/"))
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "Not Authorized")
		}
		return false
	}
}

// Tokens is a token server: a GET with the password of an account, for the pull of one repository. Where nobody has an
// account, everybody gets one; with passes, those that Amazon or Google gave out are passwords too.
func (g *Gate) Tokens(anonymous bool, passwords ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, named := r.BasicAuth()
		ok := g.admits(r) || anonymous && !named
		for _, purpose := range passwords {
			ok = ok || named && g.knows(password, purpose)
		}
		scope := r.URL.Query().Get("scope")
		repo := strings.TrimSuffix(strings.TrimPrefix(scope, "repository:"), ":pull")
		if !ok || scope != "repository:"+repo+":pull" {
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
			return
		}
		g.answerToken(w, repo, "token")
	})
}

// answerToken hands a token for a repository out, under a key of a JSON document.
func (g *Gate) answerToken(w http.ResponseWriter, purpose, key string) {
	token, ok := g.issue(purpose)
	if !ok {
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "no more")
		return
	}
	reply(w, map[string]any{key: token, "expires_in": 300, "issued_at": time.Now().UTC().Format(time.RFC3339)})
}

package upstream_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// cloud makes logins that a hub takes while it takes them at all.
type cloud struct {
	o      *origintest.Origin
	life   time.Duration
	made   atomic.Int32
	broken atomic.Bool
	wrong  atomic.Bool // what it makes is not what the hub takes
}

func (c *cloud) make(_ context.Context, host string) (upstream.Made, error) {
	if c.broken.Load() {
		return upstream.Made{}, errors.New("the cloud\nis down")
	}
	user := fmt.Sprint("session-", c.made.Add(1)) // each its own: the one before stays good
	if !c.wrong.Load() {
		c.o.Account(user, canary)
	}
	return upstream.Made{Username: user, Password: canary, Until: time.Now().Add(c.life)}, nil
}

// revoke makes the hub refuse the login that was made last.
func (c *cloud) revoke() { c.o.Account(fmt.Sprint("session-", c.made.Load()), "another one now") }

// inCloud runs f in virtual time, before a hub whose logins a cloud makes for twelve hours each.
func inCloud(t *testing.T, f func(t *testing.T, c *cloud, h *upstream.Hubs)) {
	synctest.Test(t, func(t *testing.T) {
		o := origintest.New()
		o.PutImage(repo, "latest", origintest.Spec{})
		o.RequireBasic()
		var n origintest.Net
		one := at(origintest.ServeIn(t, &n, "hub.test:80", o))
		c := &cloud{o: o, life: 12 * time.Hour}
		one.Credentials = []upstream.Credential{{Make: c.make}}
		f(t, c, hubs(t, upstream.Options{Dial: n.DialContext}, one))
	})
}

// pulls asks for a tag each minute of a time and returns how many logins were made meanwhile.
func (c *cloud) pulls(t *testing.T, h *upstream.Hubs, d time.Duration) int32 {
	t.Helper()
	before := c.made.Load()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Minute) {
		mustSlurp(t, h, tagRef("latest"))
		synctest.Wait() // a login that is made behind an answer
	}
	return c.made.Load() - before
}

// A login that a cloud makes is made when it is wanted, and anew before it ends.
func TestMadeLoginIsRenewedAhead(t *testing.T) {
	inCloud(t, func(t *testing.T, c *cloud, h *upstream.Hubs) {
		if n := c.made.Load(); n != 0 {
			t.Errorf("%d logins were made before anybody asked", n)
		}
		if n := c.pulls(t, h, 9*time.Hour); n != 1 {
			t.Errorf("%d logins in the first nine hours, want 1", n)
		}
		if n := c.pulls(t, h, 2*time.Hour); n != 1 {
			t.Errorf("%d logins while the first one ran out, want 1, and before its end", n)
		}
		refusals := c.o.Count(origintest.Where(func(r *origintest.Request) bool { return r.Status == http.StatusUnauthorized }))
		if refusals != 1 {
			t.Errorf("%d requests were refused, want the first alone, which showed no login", refusals)
		}
	})
}

// While a login is good, a cloud that is down is nobody's trouble; it is asked again at a measured pace.
func TestMadeLoginOutlivesItsCloud(t *testing.T) {
	inCloud(t, func(t *testing.T, c *cloud, h *upstream.Hubs) {
		c.pulls(t, h, time.Hour)
		c.broken.Store(true)
		c.pulls(t, h, 10*time.Hour+50*time.Minute)
		time.Sleep(20 * time.Minute)
		_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable, "no login for hub.test can be used: the cloud is down")
		c.broken.Store(false)
		_, err = h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable, "the cloud is down") // it was asked just now
		time.Sleep(11 * time.Second)
		mustSlurp(t, h, tagRef("latest"))
	})
}

// A login that was good and is refused is replaced within the request; one that never was good is parked.
func TestMadeLoginRefused(t *testing.T) {
	inCloud(t, func(t *testing.T, c *cloud, h *upstream.Hubs) {
		mustSlurp(t, h, tagRef("latest"))
		c.revoke()
		mustSlurp(t, h, tagRef("latest"))
		if n := c.made.Load(); n != 2 {
			t.Errorf("%d logins made, want one more", n)
		}
		c.wrong.Store(true)
		c.revoke()
		for range 30 {
			_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
			wantErr(t, err, cache.ErrUnavailable)
			time.Sleep(time.Second)
		}
		if n := c.made.Load(); n != 3 {
			t.Errorf("%d logins made, want one more in half a minute", n)
		}
		c.wrong.Store(false)
		time.Sleep(time.Minute)
		mustSlurp(t, h, tagRef("latest"))
	})
}

// Those who want a login at the same time wait for one.
func TestMadeOnce(t *testing.T) {
	inCloud(t, func(t *testing.T, c *cloud, h *upstream.Hubs) {
		errs := make(chan error)
		for range 20 {
			go func() {
				_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
				errs <- err
			}()
		}
		for range 20 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if n := c.made.Load(); n != 1 {
			t.Errorf("%d logins made, want 1", n)
		}
	})
}

// A cloud that does not answer takes a bounded time, and nobody is asked while tidepool is offline.
func TestMakingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		c := upstream.Config{Endpoints: []string{"http://hub.test"}, Credentials: []upstream.Credential{{
			Make: func(ctx context.Context, host string) (upstream.Made, error) {
				asked.Add(1)
				<-ctx.Done()
				return upstream.Made{}, ctx.Err()
			},
		}}}
		h := hubs(t, upstream.Options{}, c)
		h.SetOffline("", true)
		_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrOffline)
		h.SetOffline("", false)
		began := time.Now()
		_, err = h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrUnavailable, "no login was made within 15s")
		if d := time.Since(began); asked.Load() != 1 || d > 16*time.Second {
			t.Errorf("asked %d times in %v", asked.Load(), d)
		}
	})
}

// acr is a registry as Azure has it: the cloud's token goes to it alone, for a refresh token, for an access token.
func acr(t *testing.T, refresh string, exchanged *atomic.Int32) string {
	return raw(t, func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		switch {
		case r.URL.Path == "/oauth2/exchange" && r.PostForm.Get("access_token") == canary && r.PostForm.Get("grant_type") == "access_token":
			exchanged.Add(1)
			json.NewEncoder(w).Encode(map[string]string{"refresh_token": refresh})
		case r.URL.Path == "/oauth2/exchange":
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"not %s"}]}`, r.PostForm.Get("access_token"))
		case r.URL.Path == "/oauth2/token" && r.PostForm.Get("refresh_token") == refresh:
			fmt.Fprint(w, `{"access_token": "good-token"}`)
		case r.Header.Get("Authorization") == "Bearer good-token":
			w.Write(blobBytes)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/oauth2/token",service="`+r.Host+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
}

func TestExchange(t *testing.T) {
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp": %d}`, time.Now().Add(3*time.Hour).Unix()))
	for name, refresh := range map[string]string{"a JWT": "e30." + claims + ".x", "no JWT": "a-refresh-token"} {
		t.Run(name, func(t *testing.T) {
			var exchanged atomic.Int32
			c := upstream.Config{Endpoints: []string{acr(t, refresh, &exchanged)}}
			password := upstream.Secret(canary)
			c.Credentials = []upstream.Credential{{Make: func(context.Context, string) (upstream.Made, error) {
				return upstream.Made{Password: password, Until: time.Now().Add(time.Hour), Exchange: true}, nil
			}}}
			h := hubs(t, upstream.Options{}, c)
			for range 3 {
				mustSlurp(t, h, blobRef(cache.Sum(blobBytes)))
			}
			if n := exchanged.Load(); n != 1 {
				t.Errorf("exchanged %d times, want once", n)
			}
			password = canary + "-wrong"
			_, err := hubs(t, upstream.Options{}, c).Resolve(t.Context(), blobRef(cache.Sum(blobBytes)), cache.Whole)
			wantErr(t, err, cache.ErrUnavailable, "no login for", "answered 401")
			if strings.Contains(err.Error(), canary) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A pull secret of Kubernetes is a docker config.json by another name, in a directory that changes by a symbolic link;
// its servers may be patterns.
func TestPullSecret(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	o.Account("acme", canary)
	o.RequireBasic()
	var n origintest.Net
	c := upstream.Config{Endpoints: []string{origintest.ServeIn(t, &n, "eu.reg.corp:80", o).URL}, DockerConfig: t.TempDir()}
	mount := func(i int, doc string) {
		t.Helper()
		dir := filepath.Join(c.DockerConfig, fmt.Sprint("..", i))
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, ".dockerconfigjson"), []byte(doc), 0o600),
			os.Symlink(dir, filepath.Join(c.DockerConfig, "..new")),
			os.Rename(filepath.Join(c.DockerConfig, "..new"), filepath.Join(c.DockerConfig, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join("..data", ".dockerconfigjson"), filepath.Join(c.DockerConfig, ".dockerconfigjson")); err != nil {
		t.Fatal(err)
	}
	login := fmt.Sprintf(`{"username": "acme", "password": %q}`, canary)
	mount(0, `{"auths": {}}`)
	h := hubs(t, upstream.Options{Dial: n.DialContext}, c)
	for i, keys := range [][2]string{
		{"eu.reg.corp", ""}, {"*.reg.corp", ""}, {"http://*.reg.*/v1/", ""}, {"e?.reg.corp", ""},
		{"*.reg.corp", "*.*.*"}, {"eu.reg.corp", "*.reg.corp"}, // the one that says more
	} {
		doc := `{"auths": {` + fmt.Sprintf("%q: %s", keys[0], login)
		if keys[1] != "" {
			doc += fmt.Sprintf(`, %q: {"username": "x", "password": "y"}`, keys[1])
		}
		mount(2*i+1, doc+"}}")
		mustSlurp(t, h, tagRef("latest"))
		mount(2*i+2, `{"auths": {"*.corp": `+login+`, "*.reg.corp:81": `+login+`, "*.reg.corp/team": `+login+`}}`)
		_, err := h.Resolve(t.Context(), tagRef("latest"), cache.Whole)
		wantErr(t, err, cache.ErrDenied, "has none for eu.reg.corp")
	}
	c.DockerConfig = t.TempDir()
	if _, err := upstream.New([]upstream.Config{c}, upstream.Options{}); err == nil || !strings.Contains(err.Error(), "there is no .dockerconfigjson") {
		t.Errorf("%v", err)
	}
}

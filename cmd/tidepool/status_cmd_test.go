package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// says runs a command line and returns what it printed, and its exit code.
func says(ctx context.Context, line ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	root := rootCmd()
	root.SetArgs(line)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		return codeOf(err), stdout.String(), err.Error()
	}
	return 0, stdout.String(), ""
}

// TestStatusCommand asks a tidepool that runs, on loopback.
func TestStatusCommand(t *testing.T) {
	w := fill(t, plan{hubs: map[string]string{"docker.io": origintest.Dead(t)}})
	url := "http://" + w.adminAddr.String()
	t.Setenv("TIDEPOOL_SERVER", url)
	code, out, errs := says(t.Context(), "status")
	if code != 0 || errs != "" {
		t.Fatalf("%d %s", code, errs)
	}
	for _, want := range []string{"tidepool " + build().Version + ", up ", "\nANSWERS FROM", "\nSAVED", "\non disk ", "\ndocker.io"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	code, out, errs = says(t.Context(), "status", "--output", "json", "--server", strings.TrimPrefix(url, "http://")+"/")
	var s status
	if err := json.Unmarshal([]byte(out), &s); code != 0 || err != nil || s.Schema != 1 || len(s.Upstreams) == 0 {
		t.Errorf("%d %s, %v\n%s", code, errs, err, out)
	}
	if code, _, errs := says(t.Context(), "status", "--admin", "127.0.0.1:1"); code != 1 || !strings.Contains(errs, "127.0.0.1:1") {
		t.Errorf("a flag does not win over the variable: %d %s", code, errs)
	}
	if code, _, errs := says(t.Context(), "status", "--server", w.url); code != 1 || !strings.Contains(errs, "clients' own listener") {
		t.Errorf("asked at the door: %d %s", code, errs)
	}
}

// TestStatusOfStrangers: whatever answers, or does not, one sentence says so, soon.
func TestStatusOfStrangers(t *testing.T) {
	endless := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for {
			if _, err := w.Write(bytes.Repeat([]byte("["), 64<<10)); err != nil {
				return
			}
		}
	}
	write := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"a web page":     {write(200, "<html>"), "is no tidepool's admin listener, or that of a version without /api/v1/status: the answer is no such document"},
		"another JSON":   {write(200, `{"status":"ok"}`), "no such document"},
		"wrong types":    {write(200, `{"schema":1,"hits":"many\u001b[2J"}`), "no such document"},
		"two documents":  {write(200, `{"schema":1}{"schema":1}`), "no such document"},
		"a later schema": {write(200, `{"schema":2}`), "ask with the version that runs there"},
		"an older one":   {write(404, "404 page not found"), "the answer is 404 Not Found"},
		"a refusal":      {write(403, `{"schema":1,"error":"not \u001b[31myou"}`), "/api/v1/status: not \uFFFD[31myou"},
		"endless":        {endless, "the answer has no end within 4 MiB"},
		"a redirect":     {http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound).ServeHTTP, "the answer is 302 Found"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(c.answer)
			defer s.Close()
			code, out, errs := says(t.Context(), "status", "--server", s.URL)
			if code != failed || out != "" || !strings.Contains(errs, c.want) || !strings.HasPrefix(errs, s.URL) || strings.ContainsAny(errs, "\x1b\n") {
				t.Errorf("%d %q %q, want %q", code, out, errs, c.want)
			}
		})
	}
}

func TestStatusOfNobody(t *testing.T) {
	dead := origintest.Dead(t)
	if code, _, errs := says(t.Context(), "status", "--server", dead); code != failed ||
		!strings.HasPrefix(errs, "no tidepool answers at "+dead+": ") || !strings.Contains(errs, "refused; is it running") {
		t.Errorf("%d %s", code, errs)
	}
	for _, bad := range []string{"ftp://127.0.0.1", "http://", "http://[", "http://127.0.0.1:5001?x", "http://a:secret@127.0.0.1:5001"} {
		if code, _, errs := says(t.Context(), "status", "--server", bad); code != misasked || strings.Contains(errs, "secret") || !strings.Contains(errs, "write it as") {
			t.Errorf("%s: %d %s", bad, code, errs)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			_, _ = io.WriteString(c, "SSH-2.0-\x1b[2J\r\n")
			_ = c.Close()
		}
	}()
	if code, _, errs := says(t.Context(), "status", "--server", l.Addr().String()); code != failed ||
		!strings.HasPrefix(errs, "no tidepool answers") || strings.Contains(errs, "\x1b") {
		t.Errorf("%d %q", code, errs)
	}
}

// TestStatusHangs: who accepts and says nothing, or never comes to an end, is waited for as long as is useful.
func TestStatusHangs(t *testing.T) {
	for name, serve := range map[string]http.HandlerFunc{
		"silence": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"a drip": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(time.Second):
				case <-r.Context().Done():
				}
			}
		},
	} {
		bubble(t, name, func(t *testing.T) {
			v, close := viewIn(t, serve)
			defer close()
			began := time.Now()
			if err := v.once(t.Context()); err == nil || !strings.Contains(err.Error(), "within 5s") || time.Since(began) != answerTime {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
	}
}

// viewIn is a view, in a bubble, of what serve answers.
func viewIn(t *testing.T, serve http.HandlerFunc) (view, func()) {
	t.Helper()
	l, dial := origintest.Pipe()
	s := &http.Server{Handler: serve}
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) })
	x := at("http://admin.test")
	x.client.Transport.(*http.Transport).DialContext = dial
	return view{there: x, out: new(bytes.Buffer), trouble: new(bytes.Buffer), height: func() int { return 12 }}, func() { _ = s.Close(); served.Wait() }
}

// TestStatusWatch: a screen every two seconds, over a restart, until the end.
func TestStatusWatch(t *testing.T) {
	for name, change := range map[string]func(*view){
		"pages": func(*view) {}, "redrawn": func(v *view) { v.redraw = true }, "as JSON": func(v *view) { v.json = true },
	} {
		bubble(t, name, func(t *testing.T) {
			asked := 0
			v, close := viewIn(t, func(w http.ResponseWriter, _ *http.Request) {
				if asked++; asked == 3 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				_ = json.NewEncoder(w).Encode(everything())
			})
			defer close()
			change(&v)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- v.watch(ctx) }()
			time.Sleep(4*watchEvery + time.Second)
			cancel()
			synctest.Wait()
			if err := <-ended; err != nil || asked != 5 {
				t.Errorf("%v after %d", err, asked)
			}
			out, trouble := v.out.(*bytes.Buffer).String(), v.trouble.(*bytes.Buffer).String()
			shown, drawn := strings.Count(out, `1.2.3`), strings.Count(out, "\x1b[H")
			if shown != 4 || v.redraw != (drawn == 5) || v.redraw == strings.Contains(trouble, "503 Service") || v.redraw != strings.Contains(out, "503 Service") {
				t.Errorf("%d shown, %d drawn; %s\n%s", shown, drawn, trouble, out)
			}
			if drawn > 0 && strings.Count(out, "\x1b[K\n") != 4*11+1 {
				t.Errorf("%d lines do not fit on 12", strings.Count(out, "\n"))
			}
			if v.json && strings.Count(out, "\n") != 4 {
				t.Error("not a line each")
			}
		})
	}
	bubble(t, "nobody from the start", func(t *testing.T) {
		v, close := viewIn(t, http.NotFound)
		defer close()
		if err := v.watch(t.Context()); err == nil {
			t.Error("it goes on")
		}
	})
}

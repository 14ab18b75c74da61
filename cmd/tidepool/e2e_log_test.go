package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unread is a pipe in the place of stderr that nobody reads until the test does.
type unread struct {
	t     *testing.T
	r, w  *os.File
	lines *bufio.Reader
}

func newUnread(t *testing.T) *unread {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return &unread{t, r, w, bufio.NewReader(r)}
}

// fill makes the pipe as full as it can be. It ends with a line.
func (u *unread) fill() {
	u.t.Helper()
	n, err := unix.FcntlInt(u.w.Fd(), unix.F_GETPIPE_SZ, 0)
	must(u.t, err)
	_, err = u.w.WriteString(strings.Repeat("x", n-1) + "\n")
	must(u.t, err)
}

// logged is a line of the log.
type logged struct {
	Component string `json:"component"`
	Msg       string `json:"msg"`
	UserAgent string `json:"user_agent"`
	Dropped   int    `json:"dropped"`
}

// read reads lines until one satisfies ok, or to the end of the pipe, and counts those of requests.
func (u *unread) read(ok func(logged) bool) (found bool, requests int) {
	u.t.Helper()
	must(u.t, u.r.SetReadDeadline(time.Now().Add(patience)))
	for {
		text, err := u.lines.ReadString('\n')
		if err == io.EOF {
			return false, requests
		}
		must(u.t, err)
		var line logged
		if strings.HasPrefix(text, "x") {
			continue
		}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			u.t.Fatalf("no line of the log: %v in %.200q", err, text)
		}
		if line.Msg == "request" {
			requests++
		}
		if ok(line) {
			return true, requests
		}
	}
}

// lost is how many lines of the log are gone by tidepool's own count.
func (p *tidepool) lost() int {
	p.t.Helper()
	resp, err := http.Get("http://" + p.admin + "/metrics")
	must(p.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(p.t, err)
	m := regexp.MustCompile(`(?m)^tidepool_log_dropped_total (\d+)$`).FindSubmatch(body)
	if m == nil {
		p.t.Fatalf("no tidepool_log_dropped_total in\n%s", body)
	}
	n, err := strconv.Atoi(string(m[1]))
	must(p.t, err)
	return n
}

// ask makes n requests, each of which has an answer soon.
func (p *tidepool) ask(n int, agent string) {
	p.t.Helper()
	client := &http.Client{Timeout: patience, Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	path := "http://" + p.addr + "/v2/nowhere.test/" + strings.Repeat("a", 200) + "/manifests/latest"
	for range n {
		req, err := http.NewRequest(http.MethodGet, path, nil)
		must(p.t, err)
		req.Header.Set("User-Agent", agent)
		resp, err := client.Do(req)
		must(p.t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		must(p.t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			p.t.Fatal(resp.Status)
		}
	}
}

// Nobody reads the log, and its pipe is full from the first line on: every request is answered, what does not fit is
// counted; who reads again finds all lines that fitted, then the one that says how many are missing. At an orderly end
// nothing more is lost.
func TestLogThatNobodyReads(t *testing.T) {
	u := newUnread(t)
	u.fill()
	p := prepare(t, "--log-format", "json")
	p.stderr = u.w
	p.restart()
	u.w.Close()

	asked, agent := 0, strings.Repeat("z", 250)
	for limit := time.Now().Add(patience); p.lost() == 0; {
		p.ask(1000, agent)
		if asked += 1000; time.Now().After(limit) {
			t.Fatalf("%d requests, and no line was dropped", asked)
		}
	}
	lost := p.lost()
	found, lines := u.read(func(l logged) bool { return l.Dropped > 0 })
	if !found || lines+lost != asked {
		t.Errorf("%d requests: %d lines, %d dropped, told: %v", asked, lines, lost, found)
	}

	p.ask(1000, "the last ones") // more than the pipe holds
	must(t, p.Process.Signal(unix.SIGTERM))
	last, down := 0, false
	u.read(func(l logged) bool {
		if l.UserAgent == "the last ones" {
			last++
		}
		down = down || l.Msg == "shutting down"
		return false
	})
	if last != 1000 || !down {
		t.Errorf("%d of the last 1000 lines, the end among them: %v", last, down)
	}
	if code := p.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Who read the log has gone: tidepool stays.
func TestLogWhoseReaderIsGone(t *testing.T) {
	u := newUnread(t)
	p := prepare(t)
	p.stderr = u.w
	p.restart()
	u.w.Close()
	u.r.Close()
	p.ask(10, "nobody")
	p.await(t, fmt.Sprintf("%d lines are counted", 10), func() bool { return p.lost() >= 10 })
	if code := p.stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

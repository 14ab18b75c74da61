package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// reader is a log's reader in the hands of a test.
type reader struct {
	gate chan struct{} // takes nothing while there is something in it; nil: always
	pace time.Duration // for each piece
	fail error

	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (r *reader) Write(p []byte) (int, error) {
	if r.gate != nil {
		r.gate <- struct{}{}
		defer func() { <-r.gate }()
	}
	time.Sleep(r.pace)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return 0, r.fail
	}
	return r.text.Write(p)
}

func (r *reader) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Split(strings.TrimSuffix(r.text.String(), "\n"), "\n")
}

func told(n uint64) []byte { return fmt.Appendf(nil, "dropped %d\n", n) }

// Nothing is lost at the end, however slow the reader is, as long as he reads.
func TestSinkIsWrittenToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{pace: 4 * time.Second}
		s := newSink(r, told)
		var want []string
		for i := range 10_000 {
			want = append(want, fmt.Sprintf("line %d", i))
			_, _ = s.Write([]byte(want[i] + "\n"))
		}
		began := time.Now()
		s.Close()
		if got := r.lines(); strings.Join(got, "\n") != strings.Join(want, "\n") || time.Since(began) < time.Minute {
			t.Errorf("%d lines after %v, the last %q", len(got), time.Since(began), got[len(got)-1])
		}
	})
}

// A reader who stands still holds nobody up; when he goes on, he learns how many lines are missing, where they are.
func TestSinkDropsAndTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{gate: make(chan struct{}, 1)}
		s := newSink(r, told)
		defer s.Close()
		r.gate <- struct{}{}
		began := time.Now()
		const all = 60_000
		for i := range all {
			_, _ = s.Write(fmt.Appendf(nil, "line %d %s\n", i, strings.Repeat(".", 90)))
		}
		if time.Since(began) > 0 {
			t.Errorf("they waited for %v", time.Since(began))
		}
		n := s.dropped.Load()
		if n == 0 || n > all-maxWaiting/200 {
			t.Errorf("%d of %d lines were dropped", n, all)
		}
		<-r.gate
		time.Sleep(time.Second)
		_, _ = s.Write([]byte("after\n"))
		time.Sleep(time.Second)
		got := r.lines()
		if len(got) != all-int(n)+2 {
			t.Errorf("%d lines and %d dropped, of %d", len(got)-2, n, all)
		}
		if end := got[len(got)-2:]; end[0] != fmt.Sprintf("dropped %d", n) || end[1] != "after" {
			t.Errorf("it ends with %q", end)
		}
	})
}

// A reader who never goes on does not keep a service from ending, and one who is gone costs its lines and no more.
func TestSinkGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{gate: make(chan struct{}, 1)}
		s := newSink(r, told)
		r.gate <- struct{}{}
		_, _ = s.Write([]byte("line\n"))
		began := time.Now()
		s.Close()
		if took := time.Since(began); took < sinkPatience || took > 2*sinkPatience {
			t.Errorf("gave up after %v", took)
		}
		_, _ = s.Write([]byte("too late\n"))
		<-r.gate

		gone := &reader{fail: os.ErrClosed}
		s = newSink(gone, told)
		_, _ = s.Write([]byte("one\ntwo\n"))
		time.Sleep(time.Second)
		if n := s.dropped.Load(); n != 2 {
			t.Errorf("%d lines were dropped, want 2", n)
		}
		gone.mu.Lock()
		gone.fail = nil
		gone.mu.Unlock()
		_, _ = s.Write([]byte("three\n"))
		s.Close()
		if got := strings.Join(gone.lines(), " "); got != "three dropped 2" {
			t.Errorf("got %q", got)
		}
	})
}

// The line about missing lines looks like the others, whatever their form and level.
func TestGapIsALineOfTheLog(t *testing.T) {
	for form, want := range map[config.LogFormat][]string{
		"json":    {`"level":"warn"`, `"component":"log"`, `"dropped":7}`},
		"console": {"\twarn\tlog\t", `{"dropped": 7}`},
	} {
		r := new(reader)
		log, lines := logger(config.Log{Level: "error", Format: form}, r)
		lines.lose(7)
		log.Error("something")
		lines.Close()
		got := r.lines()
		for _, part := range want {
			if len(got) != 2 || !strings.Contains(got[1], part) {
				t.Errorf("%s: %q does not say %s", form, got, part)
			}
		}
	}
}

// BenchmarkLogLine is a line of the access log, written at once by who logs it, and by way of a sink: at 20,000 lines a
// second, which is what the door answers, for it depends on how many come together what writing them costs.
func BenchmarkLogLine(b *testing.B) {
	fields := []zap.Field{zap.String("method", "GET"), zap.String("registry", "docker.io"), zap.String("repo", "library/app"),
		zap.String("digest", "sha256:"+strings.Repeat("0", 64)), zap.Int("status", 200), zap.Int64("bytes", 1000),
		zap.Float64("duration_s", .000123), zap.String("tier", "memory"), zap.String("client", "127.0.0.1")}
	for name, open := range map[string]func(b *testing.B) io.WriteCloser{"file": logFile, "pipe": logPipe} {
		bench := func(b *testing.B, log *zap.Logger) {
			defer cpuTime(b)()
			for i := 1; b.Loop(); i++ {
				if log.Info("request", fields...); i%100 == 0 {
					time.Sleep(5 * time.Millisecond)
				}
			}
		}
		b.Run(name+"/at once", func(b *testing.B) {
			out := open(b)
			defer out.Close()
			bench(b, zap.New(zapcore.NewCore(form(config.Log{Format: "json"}), zapcore.Lock(zapcore.AddSync(out)), zap.InfoLevel)))
		})
		b.Run(name+"/sink", func(b *testing.B) {
			out := open(b)
			defer out.Close()
			log, lines := logger(config.Log{Level: "info", Format: "json"}, out)
			bench(b, log)
			lines.Close()
			if n := lines.dropped.Load(); n > 0 {
				b.Errorf("%d lines were dropped", n)
			}
		})
	}
}

// cpuTime reports what of the processors each operation took, of all goroutines together.
func cpuTime(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	began := used()
	return func() { b.ReportMetric(float64(used()-began)/float64(b.N), "cpu-ns/op") }
}

func logFile(b *testing.B) io.WriteCloser {
	f, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	return f
}

// logPipe is read as fast as it can be.
func logPipe(b *testing.B) io.WriteCloser {
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	go func() { // until w is closed
		defer r.Close()
		_, _ = io.Copy(io.Discard, r)
	}()
	return w
}

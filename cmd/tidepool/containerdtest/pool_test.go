// Package containerdtest drives the built binary by the library that containerd 2 pulls by, where a test of the module
// around it drives the containerd that Debian has, which is years older.
//
// Its rule: the client's configuration is what `tidepool setup` writes, and every address but tidepool's leads to a hub
// that counts who comes.
package containerdtest

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take that takes well under a second on an idle machine. It is only ever waited
// out by a test that fails.
const patience = 90 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls another process's state, which nothing but polling can tell.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for: %s", patience, what)
		}
	}
}

// program is tidepool, built once. $TIDEPOOL_BINARY names one that is there already.
var program = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("TIDEPOOL_BINARY"); b != "" {
		return b, nil
	}
	out, err := filepath.Abs("../../../dist/tidepool-under-containerd")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, ".")
	cmd.Dir = ".."
	msg, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go build: %w\n%s", err, msg)
	}
	return out, err
})

// tidepool is a running `tidepool serve`.
type tidepool struct{ bin, addr, log string }

// serve starts a tidepool of the test's own, and returns once it is ready.
func serve(t *testing.T, args ...string) *tidepool {
	t.Helper()
	bin, err := program()
	must(t, err)
	home := t.TempDir()
	p := &tidepool{bin, address(t), filepath.Join(home, "log")}
	log, err := os.Create(p.log)
	must(t, err)
	defer log.Close()
	admin := address(t)
	cmd := exec.Command(bin, append([]string{"serve", "--listen", p.addr, "--admin", admin,
		"--data", filepath.Join(home, "data")}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "XDG_CACHE_HOME=" + home}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	exited := launch(t, cmd)
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-exited
		if t.Failed() {
			const most = 8 << 10
			b, _ := os.ReadFile(p.log)
			t.Logf("tidepool said:\n%s", b[max(0, len(b)-most):])
		}
	})
	eventually(t, "tidepool is ready", func() bool {
		resp, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

// launch starts cmd from a thread that lives as long as it does: a death signal counts the parent's thread, not its
// process.
func launch(t *testing.T, cmd *exec.Cmd) (exited <-chan struct{}) {
	t.Helper()
	started, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	must(t, <-started)
	return done
}

// address is a free loopback address.
func address(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// setup is the directory of the hosts.toml that `tidepool setup containerd` writes.
func (p *tidepool) setup(t *testing.T, args ...string) string {
	t.Helper()
	root := t.TempDir()
	args = append([]string{"setup", "containerd", "--write", "--root", root, "--address", p.addr}, args...)
	cmd := exec.Command(p.bin, args...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, msg)
	}
	return filepath.Join(root, "etc/containerd/certs.d")
}

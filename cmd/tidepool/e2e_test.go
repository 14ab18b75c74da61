// Package main_test drives the built binary as its users do: between a real registry and real clients, all of them
// processes of their own, on loopback.
//
// Its rule: a test that needs a program which this machine does not have says so and is skipped; where
// TIDEPOOL_E2E=required it fails instead. Tests that wait for other programs more than they compute run beside each other;
// those that measure time do not.
package main_test

import (
	"bytes"
	"fmt"
	"io"
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

	whole "github.com/tidepool-oci/tidepool/cmd/tidepool"
)

// patience is how long anything may take that takes well under a second on an idle machine. It is only ever waited
// out by a test that fails.
const patience = 90 * time.Second

// needs skips t where one of the programs is missing, or fails it where the whole set is asked for.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("drives real programs: left out under -short")
	}
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			lacks(t, "%v: apt-get install docker.io containerd podman skopeo docker-registry nginx strace", err)
		}
	}
}

// needsRoot is needs for the container engines that mount and chown.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		lacks(t, "container engines need root")
	}
}

func lacks(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("TIDEPOOL_E2E") == "required" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// process is a running program. It dies with the test at the latest, and with the test binary should that be killed.
type process struct {
	*exec.Cmd
	name   string
	log    string        // the file that both its outputs go to
	exited chan struct{} // closed when it has been waited for
}

// start runs a program; adjust may change the command before.
func start(t *testing.T, adjust func(*exec.Cmd), name string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(name, args...), name: filepath.Base(name), exited: make(chan struct{})}
	log, err := os.CreateTemp(t.TempDir(), p.name+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.log, p.Stdout, p.Stderr = log.Name(), log, log
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if adjust != nil {
		adjust(p.Cmd)
	}
	if err := p.launch(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop(t)
		if t.Failed() {
			t.Logf("%s said:\n%s", p.name, tail(p.log))
		}
	})
	return p
}

// launch starts p from a thread that lives as long as p does: a death signal counts the parent's thread, not its
// process.
func (p *process) launch() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := p.Start()
		started <- err
		if err == nil {
			p.Wait()
			close(p.exited)
		}
	}()
	return <-started
}

// running reports whether p has not exited.
func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// stop asks p to end and waits until it has; the exit status says how it went. A program that does not listen is
// killed, which fails the test.
func (p *process) stop(t *testing.T) int {
	t.Helper()
	p.Process.Signal(syscall.SIGTERM)
	return p.wait(t)
}

// wait waits for p to end, and returns its exit status.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Errorf("%s did not end", p.name)
		p.kill()
	}
	return p.ProcessState.ExitCode()
}

// kill ends p as a power cut would.
func (p *process) kill() {
	p.Process.Kill()
	<-p.exited
}

// await polls until ok, which the program is expected to reach by itself.
func (p *process) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	eventually(t, what, func() bool {
		if !p.running() {
			t.Fatalf("%s ended (%s) before: %s\n%s", p.name, p.ProcessState, what, tail(p.log))
		}
		return ok()
	})
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

// tail is the end of a file, for the message of a test that failed.
func tail(name string) string {
	const most = 8 << 10
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// run runs a program to its end and returns what it printed on standard output.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	out, err := try(env, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", cmd, err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// address is one of loopback that nobody else listens at.
func address(t *testing.T) string {
	t.Helper()
	at, err := whole.FreeAddress()
	must(t, err)
	return at
}

// answers reports whether a GET of url gives 200, or 401, with which a registry asks for a login.
func answers(url string) bool {
	resp, err := http.Get(url)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized
}

// reachable reports whether something accepts connections at addr.
func reachable(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// program is tidepool as `go build` makes it, built once, into the directory that git ignores. $TIDEPOOL_BINARY names
// one that is there already.
var program = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("TIDEPOOL_BINARY"); b != "" {
		return b, nil
	}
	out, err := filepath.Abs(filepath.Join("..", "..", "dist", "tidepool-under-test"))
	if err != nil {
		return "", err
	}
	msg, err := exec.Command("go", "build", "-trimpath", "-o", out, ".").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go build: %w\n%s", err, msg)
	}
	return out, err
})

// tidepool is a running `tidepool serve`.
type tidepool struct {
	*process
	t     *testing.T
	args  []string
	env   []string // besides what keeps it alone
	addr  string   // where clients come in
	admin string
	data  string

	stderr *os.File // in place of a file of the test's own; nil: that
}

// serve starts tidepool with its data in a directory of the test's own; args come after the flags that every test
// sets. It returns once it is ready.
func serve(t *testing.T, args ...string) *tidepool {
	t.Helper()
	p := prepare(t, args...)
	p.restart()
	return p
}

// prepare is serve without the start.
func prepare(t *testing.T, args ...string) *tidepool {
	t.Helper()
	p := &tidepool{t: t, addr: address(t), admin: address(t), data: filepath.Join(t.TempDir(), "data")}
	p.args = append([]string{"serve", "--listen", p.addr, "--admin", p.admin, "--data", p.data}, args...)
	return p
}

// restart starts what was stopped or killed, as it was, and waits until it is ready.
func (p *tidepool) restart() {
	p.t.Helper()
	bin, err := program()
	if err != nil {
		p.t.Fatal(err)
	}
	p.process = start(p.t, p.alone, bin, p.args...)
	p.await(p.t, "tidepool is ready", func() bool { return answers("http://" + p.admin + "/readyz") })
}

// alone keeps the machine's own configuration out of the test.
func (p *tidepool) alone(cmd *exec.Cmd) {
	home := filepath.Dir(p.data)
	if p.stderr != nil {
		cmd.Stderr = p.stderr
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_CONFIG_HOME=" + home, "XDG_CACHE_HOME=" + home}
	cmd.Env = append(cmd.Env, p.env...)
}

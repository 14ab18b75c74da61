package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// site is what a contestant is given: an address to listen on, a registry to stand before, a directory of its own.
type site struct {
	listen string // host:port
	origin string // host:port
	dir    string
	size   int64 // of the large blobs: caches of a fixed size must hold some

	tidepool string // its binary
}

// contestant is a proxy that can be put on a site. prepare writes its configuration and returns the command that runs
// it in the foreground.
type contestant struct {
	name    string
	prepare func(ctx context.Context, s site) (*exec.Cmd, error)
	only    string // the one kind of load that it meets; "": all
}

// contestants are in the order of the table's columns; the first is measured against the others.
var contestants = []contestant{
	{name: "tidepool", prepare: tidepool},
	{name: "nginx", prepare: nginx},
	{name: "docker-registry", prepare: dockerRegistry},
	{name: "varnish", prepare: varnish},
	{name: "bare-go", prepare: bareGo, only: "manifest"}, // it keeps all in memory, which the others then lack
}

func contestantNames() (names []string) {
	for _, c := range contestants {
		names = append(names, c.name)
	}
	return names
}

// server is a contestant that runs.
type server struct {
	name string
	only string // the kind of load; "": all
	site
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// launch starts c in a directory under parent and waits until it answers.
func launch(ctx context.Context, c contestant, s site, parent string) (*server, error) {
	var err error
	if s.dir, err = os.MkdirTemp(parent, c.name+"-"); err != nil {
		return nil, err
	}
	if s.listen, err = freeAddr(); err != nil {
		return nil, err
	}
	v := &server{name: c.name, only: c.only, site: s, done: make(chan struct{})}
	if v.cmd, err = c.prepare(ctx, s); err == nil {
		err = v.run(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	return v, nil
}

// run starts the process in a group of its own, so that an interrupt at the terminal reaches it only through stop.
func (v *server) run(ctx context.Context) error {
	log, err := os.Create(filepath.Join(v.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	v.cmd.Stdout, v.cmd.Stderr = log, log
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := v.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(v.done)
		v.cmd.Wait()
	}()
	if err := v.ready(ctx); err != nil {
		v.end()
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w; it said: %s", err, lastLine(said))
	}
	return nil
}

// ready waits until the server answers the API's base: ten seconds, for a busy machine.
func (v *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+v.listen+"/v2/", nil)
		if err != nil {
			return err
		}
		req.Close = true
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-v.done:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return fmt.Errorf("no answer on %s", v.listen)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the process and removes its directory.
func (v *server) stop() error {
	v.end()
	return os.RemoveAll(v.dir)
}

func (v *server) end() {
	v.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-v.done:
	case <-time.After(10 * time.Second):
		syscall.Kill(-v.cmd.Process.Pid, syscall.SIGKILL)
		<-v.done
	}
}

// freeAddr is an address that nobody listens on now. It is not of 127.0.0.1, from which everybody on this machine calls:
// by the time that its server listens, a call might have the port.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.8:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

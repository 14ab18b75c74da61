package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// startTime is how long a cluster may take until each member sees all as ready: ten processes on two cores, of which one
// may miss what another gossips, and hear of it when they next exchange all that they know.
const startTime = time.Minute

// secret is the members': its own file for each run would prove nothing more.
const secret = "a secret of a bench, of more than sixteen bytes\n"

// member is one tidepool.
type member struct {
	name string
	url  string // where clients come in
	at   string // the admin listener
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	log  string
}

// pool is a cluster that runs, before a registry of its own.
type pool struct {
	dir     string
	origin  *origintest.Origin
	hub     *origintest.Server
	members []*member
	ring    *cluster.Ring
	client  *http.Client
}

// gather starts n members before a registry. Those that tls names speak TLS to clients.
func gather(ctx context.Context, o options, n int, tls ...int) (_ *pool, err error) {
	p := &pool{origin: origintest.New()}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	if p.dir, err = os.MkdirTemp(o.dir, "members-"); err != nil {
		return nil, err
	}
	if p.hub, err = origintest.Listen(p.origin, nil); err != nil {
		return nil, err
	}
	certificate, err := p.certify(n)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.file("secret"), []byte(secret), 0o600); err != nil {
		return nil, err
	}
	seed, err := free(host(0))
	if err != nil {
		return nil, err
	}
	for i := range n {
		var more []string
		for _, t := range tls {
			if t == i {
				more = certificate
			}
		}
		if err := p.start(o, i, seed, more); err != nil {
			return nil, err
		}
	}
	return p, p.settle(ctx)
}

func (p *pool) file(name string) string { return filepath.Join(p.dir, name) }

// host is a member's own address on loopback.
func host(i int) string { return "127.0.0." + strconv.Itoa(10+i) }

// free is an address at a host that nobody listens on now.
func free(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// certify makes a certificate for all members, has the clients believe it, and returns the flags that use it.
func (p *pool) certify(n int) ([]string, error) {
	ca, err := origintest.NewCA()
	if err != nil {
		return nil, err
	}
	names := make([]string, n)
	for i := range names {
		names[i] = host(i)
	}
	cert, err := ca.Issue(time.Now().Add(24*time.Hour), names...)
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, err
	}
	p.client = newClient(ca.Pool())
	return []string{"--tls-cert", p.file("cert"), "--tls-key", p.file("key")}, errors.Join(
		os.WriteFile(p.file("cert"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600),
		os.WriteFile(p.file("key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
}

// start starts a member, which meets the others at seed.
func (p *pool) start(o options, i int, seed string, more []string) error {
	m := &member{name: "m" + strconv.Itoa(i), done: make(chan struct{})}
	gossip := seed
	var door string
	for _, addr := range []*string{&door, &m.at, &gossip} {
		if addr == &gossip && i == 0 {
			continue
		}
		var err error
		if *addr, err = free(host(i)); err != nil {
			return err
		}
	}
	m.url, m.log = "http://"+door, p.file(m.name+".log")
	if len(more) > 0 {
		m.url = "https://" + door
	}
	if err := os.WriteFile(p.file(m.name+".yaml"), []byte("cluster: {name: "+m.name+"}\n"), 0o600); err != nil {
		return err
	}
	args := []string{"serve", "--config", p.file(m.name + ".yaml"), "--listen", door, "--admin", m.at, "--data", p.file(m.name), "--upstream", "docker.io=" + p.hub.URL,
		"--cluster-bind", gossip, "--cluster-secret-file", p.file("secret"), "--log-level", "warn", "--disk", "20GiB"}
	if i > 0 {
		args = append(args, "--join", seed)
	}
	log, err := os.Create(m.log)
	if err != nil {
		return err
	}
	defer log.Close()
	m.cmd = exec.Command(o.binary, append(args, more...)...)
	m.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir}
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal reaches it only through stop
	if err := m.cmd.Start(); err != nil {
		return err
	}
	p.members = append(p.members, m)
	go func() {
		defer close(m.done)
		m.cmd.Wait()
	}()
	return nil
}

// settle waits until each member sees all of them as ready.
func (p *pool) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, m := range p.members {
		for !p.sees(m) {
			select {
			case <-tick.C:
			case <-m.done:
				said, _ := os.ReadFile(m.log)
				return fmt.Errorf("%s ended: %s", m.name, said)
			case <-ctx.Done():
				return fmt.Errorf("%s does not see %d members: %w", m.name, len(p.members), context.Cause(ctx))
			}
		}
	}
	return nil
}

// sees asks m for its ring, and reports whether all are on it.
func (p *pool) sees(m *member) bool {
	var doc struct {
		Members []struct {
			Name, Address, State string
			Weight               int
		}
	}
	if err := p.document(m, "/api/v1/ring", &doc); err != nil {
		return false
	}
	var all []cluster.Member
	for _, one := range doc.Members {
		if one.State == cluster.Ready.String() {
			all = append(all, cluster.Member{Name: one.Name, Addr: one.Address, Weight: one.Weight, State: cluster.Ready})
		}
	}
	p.ring = cluster.NewRing(all)
	return len(all) == len(p.members)
}

func (p *pool) document(m *member, path string, into any) error {
	res, err := p.client.Get("http://" + m.at + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, res.Status)
	}
	return json.NewDecoder(res.Body).Decode(into)
}

// metrics reads what m counts: by series, as it is written.
func (p *pool) metrics(m *member) (map[string]float64, error) {
	res, err := p.client.Get("http://" + m.at + "/metrics")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	all := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			all[name] = v
		}
	}
	return all, nil
}

// owner is the member that owns a thing, by its place.
func (p *pool) owner(ref cache.Ref) int {
	name := p.ring.Owners(cluster.KeyOf(ref), 1)[0].Name
	i, _ := strconv.Atoi(strings.TrimPrefix(name, "m"))
	return i
}

// stop ends the members and the registry.
func (p *pool) stop() error {
	for _, m := range p.members {
		_ = m.cmd.Process.Kill() // its data is thrown away
	}
	for _, m := range p.members {
		<-m.done
	}
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
	if p.hub != nil {
		p.hub.Close()
	}
	return os.RemoveAll(p.dir)
}

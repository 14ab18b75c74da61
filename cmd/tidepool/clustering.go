package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/proxy"
)

// clustering is this process among the members of a cluster.
type clustering struct {
	name    string // of this member
	members *cluster.Members
	router  *cluster.Router
	copies  *cluster.Copies
	store   *cache.Cache
	traffic cluster.Traffic
	heat    *cluster.Heat
	who     *cluster.Identity
	line    net.Listener // where the other members fetch
	server  *http.Server
	hearing *hearing // what is done upon what other members say
	secrets [][]byte
	log     *zap.Logger
	end     context.CancelFunc // of what runs in the background
	running sync.WaitGroup
}

// nameFile, in the data directory, is this member's name where none is configured: what is kept there is found by it.
const nameFile = "member"

// join makes this process a member, which says that it is ready only later. The source is what the store fetches by.
func join(ctx context.Context, cfg config.Config, next cache.Source, w world, log *zap.Logger) (*clustering, error) {
	log = log.Named("cluster")
	c := &clustering{log: log, hearing: newHearing()}
	name, err := memberName(cfg)
	if err != nil {
		return nil, err
	}
	c.name = name
	if c.secrets, err = cluster.ReadSecrets(cfg.Cluster.SecretFile); err != nil {
		return nil, usageError{fmt.Errorf("cluster.secret_file: %w", err)}
	}
	if papers, given := cfg.Cluster.Papers(); given {
		c.who, err = cluster.IdentifyBy(name, papers)
	} else {
		c.who, err = cluster.Identify(name, c.secrets)
	}
	if err != nil {
		return nil, err
	}
	at := cmp.Or(string(cfg.Cluster.PeerListen), beside(string(cfg.Cluster.Bind)))
	if c.line, err = listenFor(ctx, w, at); err != nil {
		return nil, inUse("peer-listen", at, fmt.Errorf("cannot listen for other members on %s (--peer-listen): %w", at, err))
	}
	c.members, err = cluster.Join(ctx, cluster.Options{
		Name: name, Bind: string(cfg.Cluster.Bind), Advertise: cfg.Cluster.Advertise, Secrets: c.secrets, Join: cfg.Cluster.Join,
		PeerAddr: c.line.Addr().String(), Zone: cfg.Cluster.Zone, Weight: cfg.Cluster.Weight, Version: build().Version,
		Heard: c.heard, Log: log,
	})
	if err != nil {
		err = inUse("cluster-bind", string(cfg.Cluster.Bind), fmt.Errorf("cannot gossip on %s (--cluster-bind): %w", cfg.Cluster.Bind, err))
		return nil, errors.Join(err, c.line.Close())
	}
	c.heat = &cluster.Heat{View: c.members.View}
	c.router = &cluster.Router{
		View: c.members.View, Remotes: &cluster.Remotes{Identity: c.who, Traffic: &c.traffic, Heat: c.heat}, Next: next, Log: log, Alone: cfg.AsksCallers,
		Replicas: cfg.Cluster.Replicas, RepairRate: int64(cfg.Cluster.RepairRate),
	}
	c.copies = &cluster.Copies{Router: c.router, Changed: c.members.Changed, Log: log}
	return c, nil
}

func listenFor(ctx context.Context, w world, addr string) (net.Listener, error) {
	if w.listen != nil {
		return w.listen("tcp", addr)
	}
	return proxy.Listen(ctx, "tcp", addr)
}

// beside is a free port at the host of an address.
func beside(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	return net.JoinHostPort(host, "0")
}

// memberName is this member's name: as configured, as it was the last time, or a new one.
func memberName(cfg config.Config) (string, error) {
	if cfg.Cluster.Name != "" {
		return cfg.Cluster.Name, nil
	}
	if papers, given := cfg.Cluster.Papers(); given {
		return papers.NameIn()
	}
	path := filepath.Join(cfg.Data, nameFile)
	if b, err := os.ReadFile(path); err == nil {
		if name := strings.TrimSpace(string(b)); cluster.CheckName(name) == nil {
			return name, nil
		}
	}
	host, _ := os.Hostname()
	name := strings.ToLower(rand.Text()[:8])
	if cluster.CheckName(host+"-"+name) == nil {
		name = host + "-" + name
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return "", err
	}
	// A data directory that takes no writes has another name the next time, and finds less of what it holds.
	_ = os.WriteFile(path, []byte(name+"\n"), 0o600)
	return name, nil
}

// serveMembers answers the other members from a store, says that it is ready once the store knows what it holds, and follows
// the secrets, until ctx ends.
func (r *running) serveMembers(ctx context.Context) {
	c := r.cluster
	c.store, c.copies.Store = r.store, r.store
	c.heat.Follow(r.store.Served)
	taker := &cluster.Taker{Store: r.store, Rate: c.router.RepairRate, Unpin: unpinnedSince(r.store), Log: c.log}
	c.server = (&cluster.Peer{Store: r.store, Identity: c.who, Traffic: &c.traffic, Heat: c.heat, Taker: taker, Doing: c.doing, Log: c.log}).Server()
	r.servers.Go(func() {
		if err := c.server.ServeTLS(c.line, "", ""); !errors.Is(err, http.ErrServerClosed) {
			r.broken <- fmt.Errorf("the server for members at %s: %w", c.line.Addr(), err)
		}
	})
	ctx, c.end = context.WithCancel(ctx)
	c.running.Go(func() { _ = c.copies.Run(ctx) })
	c.running.Go(func() { c.follow(ctx) })
	c.hears(ctx, r.hubs)
	c.running.Go(func() {
		c.whenScanned(ctx, r.store)
		follow := []func([][]byte) error{c.members.Follow}
		if papers, given := r.cfg.Cluster.Papers(); given {
			c.running.Go(func() { c.who.FollowPapers(ctx, papers, c.complain) })
		} else {
			follow = append(follow, c.who.Follow)
		}
		cluster.FollowSecrets(ctx, r.cfg.Cluster.SecretFile, c.secrets, c.complain, follow...)
	})
}

// follow forgets the ways to members that are gone, until ctx ends.
func (c *clustering) follow(ctx context.Context) {
	for {
		changed := c.members.Changed()
		c.router.Remotes.Keep(c.members.View().Members)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// whenScanned has the other members know that this one is ready.
func (c *clustering) whenScanned(ctx context.Context, store *cache.Cache) {
	const often = 50 * time.Millisecond
	for tick := time.NewTicker(often); ; {
		if store.Stats().Scanned {
			tick.Stop()
			c.members.SetState(cluster.Ready)
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

// complain says that new secrets or certificates could not be taken: those of before count.
func (c *clustering) complain(err error) {
	c.log.Warn("secrets or certificates could not be read anew: those of before count", zap.Error(err))
}

// drain takes this member off the ring, so that the others ask it for nothing new.
func (c *clustering) drain() {
	if c != nil {
		c.members.SetState(cluster.Draining)
	}
}

// handOver gives to other members what only this one holds, until ctx ends.
func (c *clustering) handOver(ctx context.Context) {
	if c == nil {
		return
	}
	began := time.Now()
	taken, all := c.copies.HandOver(ctx)
	if taken > 0 || !all {
		c.log.Info("handed over to other members", zap.Int("taken", taken), zap.Bool("all", all), zap.Duration("took", time.Since(began)))
	}
}

// leave tells the others that it is gone.
func (c *clustering) leave(ctx context.Context) {
	if c == nil {
		return
	}
	if err := c.members.Leave(ctx); err != nil {
		c.log.Warn("not left in good order", zap.Error(err))
	}
}

// close ends what is left of it.
func (c *clustering) close(ctx context.Context) error {
	if c == nil {
		return nil
	}
	c.end()
	c.running.Wait()
	c.unbusy(ctx)
	return errors.Join(c.server.Close(), c.members.Close(), c.router.Remotes.Close())
}

// unbusy waits for what other members are being sent; what is left of it when ctx ends they have from elsewhere. It is not
// http.Server's Shutdown, which waits five seconds for connections that nobody has used yet, as members keep some.
func (c *clustering) unbusy(ctx context.Context) {
	const often = 10 * time.Millisecond
	for c.traffic.Busy.Load() > 0 && ctx.Err() == nil {
		pause(ctx, often)
	}
}

// abandon ends what has not begun to serve.
func (c *clustering) abandon() error {
	if c == nil {
		return nil
	}
	return errors.Join(c.line.Close(), c.members.Close())
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/metrics"
	"github.com/tidepool-oci/tidepool/proxy"
	"github.com/tidepool-oci/tidepool/proxy/access"
	"github.com/tidepool-oci/tidepool/proxy/admin"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// world is what the demo and tests put in place of the machine, and what start cannot see of it. The zero value is the
// machine itself.
type world struct {
	listen func(network, addr string) (net.Listener, error)
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	fs     cache.FS
	now    func() time.Time

	dropped func() uint64 // log lines that were lost; nil: none can be
}

// running is a tidepool that serves. Whoever started it must stop it.
type running struct {
	addr, adminAddr net.Addr // where clients and operators come in; adminAddr is nil where admin is off

	cfg      config.Config
	log      *zap.Logger
	hubs     *upstream.Hubs
	store    *cache.Cache
	tls      *access.Door   // nil: clients come in by plain http
	tunnels  *proxy.Tunnels // nil: we are nobody's proxy
	door     *http.Server
	admin    *http.Server
	servers  sync.WaitGroup
	broken   chan error // a server that ended by itself
	draining atomic.Bool
	saved    *metrics.Saved
	began    beginning
	warming  sync.WaitGroup     // the rules for what is fetched ahead
	cool     context.CancelFunc // ends all that is fetched ahead
	written  sync.WaitGroup     // what writes states down
	write    context.CancelFunc // has them written for the last time
	cluster  *clustering        // nil: there is none
	secret   string             // of the watchdog, and of this process alone

	answers sync.WaitGroup // under way at the door
	mu      sync.Mutex     // guards over
	over    bool           // no answer begins any more
}

// start opens the doors, builds the rooms upon each other and serves. It needs no upstream to be up. What runs in the
// background ends with stop, not with ctx.
func start(ctx context.Context, cfg config.Config, log *zap.Logger, w world) (*running, error) {
	r := &running{cfg: cfg, log: log, broken: make(chan error, 3), secret: rand.Text()}
	doors, err := openDoors(ctx, cfg, w) // first: where a tidepool runs already, nothing else is touched
	if err != nil {
		return nil, err
	}
	if err := r.build(ctx, w); err != nil {
		for _, l := range doors {
			err = errors.Join(err, l.Close())
		}
		return nil, err
	}
	r.addr = doors[0].Addr()
	r.serve(r.door, proxy.Limit(doors[0], cfg.Connections, log.Named("proxy")))
	r.serveTunnels()
	if len(doors) > 1 {
		r.adminAddr = doors[1].Addr()
		r.serve(r.admin, doors[1])
	}
	return r, nil
}

// build makes everything that is between the doors and the world.
func (r *running) build(ctx context.Context, w world) (err error) {
	cfg, log := r.cfg, r.log
	id := "tidepool-" + strings.ToLower(rand.Text()[:8]) // ours alone: two tidepools may stand before each other
	stead, err := r.guard()
	if err != nil {
		return usageError{err}
	}
	if r.hubs, err = dialUp(cfg, id, log, w); err != nil {
		return usageError{err}
	}
	if err := r.openStore(context.WithoutCancel(ctx), w); err != nil {
		return errors.Join(err, r.hubs.Close())
	}
	if err = r.lead(); err != nil {
		return errors.Join(err, r.store.Close(), r.hubs.Close())
	}
	var books state
	r.saved, books = openSaved(cfg, w.now, log)
	r.began = beginning{time.Now(), saved(r.saved.Report()).Ever}
	r.keep(ctx, books, limits(cfg, r.hubs, log))
	ahead := r.warmUp(ctx)
	numbers := metrics.New(metrics.Sources{
		Cache: r.store.Stats, Upstreams: r.counted, Dropped: w.dropped, Saved: r.saved, Warmed: ahead.counted, Cluster: r.cluster.counted, Version: build().Version,
	})
	r.door = proxy.Server(r.counting(r.watched(&proxy.Handler{
		Store: r.store, Names: names(cfg), Candidates: cfg.Candidates(), DeniedIsMissing: cfg.DeniedIsMissing, Memory: r.store, Stead: stead, Tunnels: r.tunnels, ID: id, Hold: time.Duration(cfg.Hold), Log: log.Named("proxy"),
		Observe: func(x proxy.Exchange) { numbers.Observe(answer(x)); saving(r.saved, x) },
	})), log)
	r.dress(r.door)
	r.admin = adminServer(admin.Handler{
		Ready: r.ready, Health: r.health, Offline: r.hubs, Saved: func() any { return r.saved.Report() },
		Status: func(ctx context.Context) any { return r.status(ctx) }, Warmer: ahead, Ring: func(ctx context.Context, what string) (any, error) { return r.cluster.ring(ctx, what, ahead.Find) }, History: ahead.history,
		Metrics: numbers.Handler(), Build: build(),
	}.Routes(), log)
	return nil
}

// openStore opens the store over the registries, and where there is a cluster over its other members before those.
func (r *running) openStore(ctx context.Context, w world) (err error) {
	var source cache.Source = r.hubs
	options := storeOptions(r.cfg, r.log, w)
	if r.cfg.Cluster.On() {
		if r.cluster, err = join(ctx, r.cfg, r.hubs, w, r.log); err != nil {
			return err
		}
		source, options.Keep, options.Owns = r.cluster.router, r.cluster.router.Keep, r.cluster.router.Owns
		options.Lied = r.cluster.router.Lied
		options.Landed, options.Named = r.cluster.copies.Landed, r.cluster.copies.Named
		options.Moved = r.cluster.moved
	}
	if r.store, err = cache.New(ctx, source, options); err != nil {
		return errors.Join(fmt.Errorf("the store in %s (--data): %w", r.cfg.Data, err), r.cluster.abandon())
	}
	if r.cluster != nil {
		r.serveMembers(ctx)
	}
	return nil
}

// keep has states written down until the end.
func (r *running) keep(ctx context.Context, states ...state) {
	ctx, r.write = context.WithCancel(context.WithoutCancel(ctx))
	for _, s := range states {
		r.written.Go(func() { s.run(ctx) })
	}
}

// dialUp makes the upstreams' clients.
func dialUp(cfg config.Config, id string, log *zap.Logger, w world) (*upstream.Hubs, error) {
	return upstream.New(cfg.Hubs(), upstream.Options{
		Offline: cfg.Offline, AnyUpstream: cfg.AnyUpstream, Uplink: cfg.Uplink.At, ID: id, Version: build().Version,
		Dial: w.dial, Log: log.Named("upstream"), Ledger: readState(limitsPath(cfg), log),
	})
}

func storeOptions(cfg config.Config, log *zap.Logger, w world) cache.Options {
	scrub := int64(cfg.Scrub)
	if scrub == 0 {
		scrub = -1 // off
	}
	return cache.Options{
		Dir: cfg.Data, Disk: cfg.Disk.Of(config.Space(cfg.Data)), Memory: int64(cfg.Memory),
		Aging: cfg.Aging, Absence: absence(cfg), Private: cfg.Private, Callers: cfg.Callers, ProvenRanges: cfg.Ranges == "proven",
		Fill:      map[config.Fill]cache.Fill{"auto": cache.FillAuto, "whole": cache.FillWhole, "asked": cache.FillAsked}[cfg.Fill],
		ScrubRate: scrub, FS: w.fs, Now: w.now, Log: log.Named("cache"),
	}
}

// absence is how long a source is believed that something is missing; negative: not at all.
func absence(cfg config.Config) time.Duration {
	if cfg.Missing == 0 {
		return -1
	}
	return time.Duration(cfg.Missing)
}

// names is what the door must know of the upstreams to read a request.
func names(cfg config.Config) proxy.Names {
	n := proxy.Names{Upstreams: map[string]proxy.Upstream{}, Default: cfg.DefaultUpstream, Hosts: cfg.Hosts, Forward: cfg.Forward(), Any: cfg.AnyUpstream}
	for name, u := range cfg.Upstreams {
		n.Upstreams[name] = proxy.Upstream{Library: config.Library(name), Prefix: u.Prefix || u.Type == config.Virtual, Callers: cfg.AsksCallers(name)}
	}
	for _, name := range cfg.Aliased() {
		n.Upstreams[name] = proxy.Upstream{Library: config.Library(name), Callers: cfg.AsksCallers(name)}
	}
	return n
}

// The admin listener answers short questions: who is slower than this is not asking.
const adminTimeout = 10 * time.Second

func adminServer(h http.Handler, log *zap.Logger) *http.Server {
	return &http.Server{Handler: h, ReadTimeout: adminTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: zap.NewStdLog(log.Named("admin"))}
}

// openDoors listens for clients and then, where admin is not off, for operators.
func openDoors(ctx context.Context, cfg config.Config, w world) (doors []net.Listener, err error) {
	if w.listen == nil {
		w.listen = func(network, addr string) (net.Listener, error) { return proxy.Listen(ctx, network, addr) }
	}
	clients, err := listen(w, "listen", cfg.Listen)
	if err != nil || cfg.Admin == config.Off {
		return []net.Listener{clients}, err
	}
	operators, err := listen(w, "admin", cfg.Admin)
	if err != nil {
		return nil, errors.Join(err, clients.Close())
	}
	return []net.Listener{clients, operators}, nil
}

// listen says, where it cannot, which flag to change.
func listen(w world, flag string, addr config.Address) (net.Listener, error) {
	l, err := w.listen("tcp", string(addr))
	if err != nil {
		return nil, inUse(flag, string(addr), fmt.Errorf("cannot listen on %s (--%s): %w", addr, flag, err))
	}
	return l, nil
}

// inUse is err, or, where that is why, that another program has the address of flag.
func inUse(flag, addr string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), syscall.EADDRINUSE.Error()) { // memberlist has it as text
		return fmt.Errorf("%s is in use by another program: choose another address with --%s", addr, flag)
	}
	return err
}

func (r *running) serve(s *http.Server, l net.Listener) {
	enter := s.Serve
	if s.TLSConfig != nil { // seen now: a server may put one there once it serves
		enter = func(l net.Listener) error { return s.ServeTLS(l, "", "") } // its config has the certificate
	}
	r.servers.Go(func() {
		if err := enter(l); !errors.Is(err, http.ErrServerClosed) {
			r.broken <- fmt.Errorf("the server at %s: %w", l.Addr(), err)
		}
	})
}

// counting counts the answers under way, so that the store is closed after the last of them. A request that comes when
// all is over gets none.
func (r *running) counting(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !r.begin() {
			panic(http.ErrAbortHandler)
		}
		defer r.answers.Done()
		h.ServeHTTP(w, req)
	})
}

func (r *running) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.answers.Add(1)
	}
	return !r.over
}

// wait returns when ctx ends, or with the error of a server that ended before.
func (r *running) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-r.broken:
		return err
	}
}

// stop refuses new clients, lets running answers end for as long as the configuration gives them, and closes all.
func (r *running) stop(ctx context.Context) error {
	r.draining.Store(true)
	r.log.Info("shutting down", zap.Duration("delay", time.Duration(r.cfg.ShutdownDelay)), zap.Duration("drain", time.Duration(r.cfg.Drain)))
	pause(ctx, time.Duration(r.cfg.ShutdownDelay))
	drain, cancel := context.WithTimeout(ctx, time.Duration(r.cfg.Drain))
	defer cancel()
	r.cluster.drain()
	var handing sync.WaitGroup
	handing.Go(func() { r.cluster.handOver(drain) })
	if err := r.door.Shutdown(drain); err != nil {
		r.log.Warn("answers cut off: they did not end in time (--drain)")
	}
	handing.Wait()
	r.cluster.leave(ctx) // which takes five seconds at most, though the drain be over
	err := r.close(ctx)
	if err == nil {
		r.log.Info("stopped in good order")
	}
	return err
}

// close ends what is left: the doors first, so that nobody asks for what is closed already.
func (r *running) close(ctx context.Context) error {
	r.cool()
	r.warming.Wait()
	err := r.door.Close()
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.answers.Wait() // their connections are gone: they end
	short, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	err = errors.Join(err, r.cluster.close(short), r.admin.Shutdown(short), r.store.Close(), r.hubs.Close())
	r.servers.Wait()
	r.write()
	r.written.Wait()
	return err
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

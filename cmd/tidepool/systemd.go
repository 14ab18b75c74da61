package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
)

// underSystemd waits as wait does. Where systemd started us and wants to know (sd_notify(3)), it is told that clients may
// come, that they may not any more, and in between, for its watchdog, that they are served.
func (r *running) underSystemd(ctx context.Context) error {
	within, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		r.log.Warn("systemd's watchdog is not answered: what it asks for cannot be read", zap.Error(err))
	}
	r.tell(daemon.SdNotifyReady, "STATUS=serves pulls at "+r.addr.String())
	beating, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if within > 0 {
			watchdog(beating, within, r.beat)
		}
	}()
	err = r.wait(ctx)
	stop() // systemd watches no service that stops
	<-ended
	r.tell(daemon.SdNotifyStopping, "STATUS=lets running answers end, for at most "+time.Duration(r.cfg.Drain).String())
	return err
}

// tell sends systemd one message; without systemd, nothing. That it fails is no reason not to serve.
func (r *running) tell(lines ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		r.log.Warn("systemd cannot be told: "+lines[0], zap.Error(err))
	}
}

// A beat that fails is tried again before systemd loses patience: four fit.
const beatsWithin = 4

// watchdog calls beat in time for a watchdog that wants it done within a time, until ctx ends.
func watchdog(ctx context.Context, within time.Duration, beat func(context.Context)) {
	every := within / beatsWithin
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		one, cancel := context.WithTimeout(ctx, every)
		beat(one)
		cancel()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// beat tells systemd that clients are served, if they are: a process whose goroutines run and whose door is stuck is
// one to be restarted.
func (r *running) beat(ctx context.Context) {
	if err := r.serves(ctx); err == nil {
		r.tell(daemon.SdNotifyWatchdog)
	} else if !errors.Is(err, context.Canceled) {
		r.log.Warn("our own door does not answer us: unless it soon does, systemd ends this process", zap.Error(err))
	}
}

// watchHeader has the secret by which the door knows that it is asked by its own watchdog.
const watchHeader = "Tidepool-Watchdog"

// serves comes in at the door by a connection of its own, as every client does, and wants an answer: whichever, as the
// door may want a login or TLS. A connection that the door resets is one that it finds too many from this machine:
// it is at work.
func (r *running) serves(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.scheme()+"://"+reachable(r.addr.String())+"/v2/", nil)
	if err != nil {
		return err
	}
	req.Header.Set(watchHeader, r.secret)
	client := http.Client{Transport: &http.Transport{ // by no proxy: it is here, under no name that a certificate may have
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	resp, err := client.Do(req)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("no answer at %s: %w", r.addr, err)
	}
	return resp.Body.Close()
}

// watched answers the watchdog in h's stead: no client asked, so nothing is logged or counted. It goes through the
// rooms' locks, which are never held for long.
func (r *running) watched(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get(watchHeader) != r.secret {
			h.ServeHTTP(w, req)
			return
		}
		r.store.Stats()
		r.hubs.Stats()
		w.WriteHeader(http.StatusNoContent)
	})
}

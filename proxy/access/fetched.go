package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// fetched are keys that an issuer publishes at a URL. They are asked for when they are first needed, and by one who needs
// them at a time: there is nobody else who would have to wait, or be ended.
type fetched struct {
	name string
	Issuer
	log  *zap.Logger
	turn chan struct{} // holds one while somebody asks

	mu    sync.Mutex // guards all below
	keys  []key
	asof  time.Time // when the issuer listed them; zero: never
	tried time.Time // when it was last asked
	err   error     // what came of that
}

const (
	// keysFresh is how long Kubernetes lets its list be kept.
	keysFresh = time.Hour
	// keysLast bounds how long a key is believed that its issuer may have taken back, while that cannot be asked.
	keysLast = 24 * time.Hour
	// A key that is not listed may have been made since, but strangers can name any: so often is one looked for.
	unknownPause = time.Minute
	// failedPause keeps requests from waiting, each of them, for an issuer that is down.
	failedPause = 10 * time.Second
	// fetchTime is what a request that needs the keys can wait for them.
	fetchTime = 5 * time.Second
)

func newFetched(name string, i Issuer, log *zap.Logger) *fetched {
	return &fetched{name: name, Issuer: i, log: log, turn: make(chan struct{}, 1)}
}

// find is the issuer's keys, asked for where they are not known, or one that a token calls kid is not among them.
func (f *fetched) find(ctx context.Context, kid string) ([]key, error) {
	keys, due, err := f.look(kid)
	if !due {
		return keys, err
	}
	if anyFits(keys, kid) {
		select {
		case f.turn <- struct{}{}:
		default: // somebody asks already, and what is known will do
			return keys, nil
		}
	} else {
		select {
		case f.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	defer func() { <-f.turn }()
	if keys, due, err = f.look(kid); !due { // who asked meanwhile has asked for us too
		return keys, err
	}
	f.refresh(ctx)
	keys, _, err = f.look(kid)
	return keys, err
}

// look is what is known, and whether the issuer is to be asked, of one key in particular.
func (f *fetched) look(kid string) (keys []key, due bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	pause := unknownPause
	if f.err != nil {
		pause = failedPause
	}
	known := !f.asof.IsZero() && time.Since(f.asof) < keysLast
	if known {
		keys = f.keys
	}
	wanted := !known || time.Since(f.asof) > keysFresh || !anyFits(keys, kid)
	due = wanted && (f.tried.IsZero() || time.Since(f.tried) >= pause)
	switch {
	case known:
		return keys, due, nil
	case f.err != nil:
		return nil, due, unavailable{f.err}
	}
	return nil, due, unavailable{fmt.Errorf("the keys of door.issuers.%s are not known yet", f.name)}
}

// refresh asks the issuer. Who left before there was an answer has tried nothing.
func (f *fetched) refresh(ctx context.Context) {
	short, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	keys, err := f.fetch(short)
	if err != nil && ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried = time.Now()
	if err == nil {
		f.keys, f.asof, f.err = keys, f.tried, nil
		return
	}
	if f.err == nil {
		f.log.Warn("the keys of an issuer of tokens cannot be had; they are asked for again when they are needed",
			zap.String("issuer", f.name), zap.Error(err))
	}
	f.err = err
}

// fetch gets the list. No redirect is followed: the configuration alone says where keys are from, and where a token goes.
func (f *fetched) fetch(ctx context.Context) ([]key, error) {
	failed := func(err error) ([]key, error) {
		return nil, fmt.Errorf("the keys of door.issuers.%s: %w", f.name, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.KeysURL, nil)
	if err != nil {
		return failed(err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	if f.TokenFile != "" {
		token, err := readFile(f.TokenFile)
		if err != nil {
			return failed(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	transport, err := f.transport()
	if err != nil {
		return failed(err)
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return failed(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return failed(fmt.Errorf("%s says %s", f.KeysURL, res.Status))
	}
	text, err := readAll(res.Body)
	if err != nil {
		return failed(err)
	}
	keys, err := parseKeys(text)
	if err != nil {
		return failed(fmt.Errorf("%s: %w", f.KeysURL, err))
	}
	return keys, nil
}

// transport is made for each request: there is one an hour, and the authorities may have changed.
func (f *fetched) transport() (*http.Transport, error) {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if f.CAFile == "" {
		return t, nil
	}
	text, err := os.ReadFile(f.CAFile)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New(f.CAFile + ": there is no certificate in it (PEM)")
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

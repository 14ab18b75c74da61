package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// manifestSize is that of a small image's manifest, in bytes.
const manifestSize = 1024

// bench is the origin with what it holds, and the contestants before it.
type bench struct {
	options
	origin   *origin
	hot      *blob
	manifest string // the digest; its tag is "latest"
	servers  []*server
	leftOut  map[string]string // why, by contestant or load
	waited   time.Duration     // for the machine to become quiet
	noisy    int               // measurements that began though it was not
}

func newBench(o options) (*bench, error) {
	b := &bench{options: o, leftOut: map[string]string{}}
	var err error
	if b.origin, err = newOrigin(o.dir); err != nil {
		return nil, err
	}
	if b.hot, err = b.origin.add(o.size, 0); err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.manifest = b.origin.tag("latest", manifestOf(b.hot))
	return b, nil
}

func (b *bench) close() error {
	var errs []error
	for _, s := range b.servers {
		errs = append(errs, s.stop())
	}
	return errors.Join(append(errs, b.origin.close())...)
}

// manifestOf describes an image of that one layer, filled up to manifestSize by an annotation.
func manifestOf(layer *blob) []byte {
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int64  `json:"size"`
	}
	m := struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Config        descriptor        `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Annotations   map[string]string `json:"annotations"`
	}{
		2, manifestType,
		descriptor{"application/vnd.oci.image.config.v1+json", layer.digest, layer.size},
		[]descriptor{{"application/vnd.oci.image.layer.v1.tar", layer.digest, layer.size}},
		map[string]string{"org.opencontainers.image.description": ""},
	}
	short, _ := json.Marshal(m) // plain structs of strings and numbers: it cannot fail
	m.Annotations["org.opencontainers.image.description"] = strings.Repeat("x", manifestSize-len(short))
	whole, _ := json.Marshal(m)
	return whole
}

// enter starts every contestant that was asked for and keeps those that serve the right bytes.
func (b *bench) enter(ctx context.Context) {
	for _, c := range contestants {
		if !b.wants(c.name) {
			continue
		}
		s, err := b.admit(ctx, c)
		if err != nil {
			b.leftOut[c.name] = err.Error()
			fmt.Fprintf(os.Stderr, "%s is left out: %v\n", c.name, err)
			continue
		}
		b.servers = append(b.servers, s)
	}
}

// admit starts c and pulls everything through it once, hashed: cold, then again from what it kept.
func (b *bench) admit(ctx context.Context, c contestant) (*server, error) {
	s, err := launch(ctx, c, site{origin: b.origin.addr, size: b.size, tidepool: b.binary}, b.dir)
	if err != nil {
		return nil, err
	}
	for range 2 {
		for path, digest := range map[string]string{
			b.hot.path():       b.hot.digest,
			b.manifestPath():   b.manifest,
			b.manifestByName(): b.manifest,
		} {
			if err := verify(ctx, s.listen, path, digest); err != nil {
				return nil, errors.Join(err, s.stop())
			}
		}
	}
	return s, nil
}

func (b *bench) manifestPath() string   { return repo + "/manifests/" + b.manifest }
func (b *bench) manifestByName() string { return repo + "/manifests/latest" }

// runAll puts the loads that were asked for on the contestants, in turn within each repetition.
func (b *bench) runAll(ctx context.Context) (all []*result, err error) {
	for _, l := range loads {
		if len(b.rows) > 0 && !slices.Contains(b.rows, l.key) {
			continue
		}
		if err := l.possible(); err != nil {
			b.leftOut[l.title(b)] = err.Error()
			continue
		}
		results := l.results(b)
		reps := l.reps(b)
		for rep := range reps {
			fmt.Fprintf(os.Stderr, "%s, %d of %d\n", l.title(b), rep+1, reps)
			b.runOnce(ctx, l, rep, results)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		all = append(all, results...)
	}
	return all, nil
}

// runOnce lets each contestant meet l. Who begins changes from repetition to repetition. One that failed is out.
func (b *bench) runOnce(ctx context.Context, l load, rep int, results []*result) {
	for i := range b.servers {
		s := b.servers[(i+rep)%len(b.servers)]
		if results[0].Failed[s.name] != "" || s.only != "" && s.only != l.key {
			continue
		}
		values, err := b.measure(ctx, l, s)
		for j, r := range results {
			if err != nil {
				r.Failed[s.name] = err.Error()
			} else {
				r.Samples[s.name] = append(r.Samples[s.name], values[j])
			}
		}
	}
}

func (b *bench) measure(ctx context.Context, l load, s *server) ([]float64, error) {
	if l.fresh {
		var err error
		if s, err = b.admit(ctx, contestants[slices.Index(contestantNames(), s.name)]); err != nil {
			return nil, err
		}
		defer s.stop()
	}
	b.hush(ctx)
	if b.profile != "" && s.name == contestants[0].name {
		stop, err := record(b.profile, l.title(b), s.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		defer stop()
	}
	return l.run(ctx, b, s)
}

// hush waits until the machine is quiet: five seconds for one measurement, a minute for all.
func (b *bench) hush(ctx context.Context) {
	began := time.Now()
	if !quiet(ctx, min(5*time.Second, time.Minute-b.waited)) {
		b.noisy++
	}
	b.waited += time.Since(began)
}

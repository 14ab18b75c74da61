package main

import (
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/metrics"
	"github.com/tidepool-oci/tidepool/proxy"
)

// openSaved goes on counting what is saved where the last process stopped.
func openSaved(cfg config.Config, now func() time.Time, log *zap.Logger) (*metrics.Saved, state) {
	if now == nil {
		now = time.Now
	}
	path := filepath.Join(cfg.Data, "saved.json")
	s, err := metrics.NewSaved(readState(path, log), now)
	if err != nil {
		log.Warn("what was saved so far cannot be read, and is counted anew", zap.String("file", path), zap.Error(err))
	}
	return s, state{path: path, written: s.Written, log: log}
}

// saving counts what an answer has saved: all of it, unless the upstream was asked for its content.
func saving(s *metrics.Saved, x proxy.Exchange) {
	if x.Ref.Registry == "" || x.Tier == "" || x.Tier == cache.FromUpstream.String() || x.Method != http.MethodGet ||
		x.Status != http.StatusOK && x.Status != http.StatusPartialContent {
		return
	}
	sum := metrics.Sum{Bytes: uint64(max(x.Sent, 0))}
	if x.Ref.Kind == cache.KindManifest {
		sum.Pulls = 1
	}
	s.Add(x.Ref.Registry, x.Ref.Repo, network(x.Client), sum)
}

// network is the group that a client is counted in: its neighbours' addresses begin as its own does.
func network(client string) string {
	ip, err := netip.ParseAddr(client)
	if err != nil {
		return "unknown"
	}
	bits := 24
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return "unknown"
	}
	return p.String()
}

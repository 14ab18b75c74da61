package cluster_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/cluster"
)

func TestWithoutASecretNothingLeavesLoopback(t *testing.T) {
	for what, o := range map[string]cluster.Options{
		"bind everywhere":     {Bind: "0.0.0.0:0"},
		"bind everywhere (6)": {Bind: "[::]:0"},
		"bind without a host": {Bind: ":0"},
		"bind to a network":   {Bind: "192.0.2.1:0"},
		"advertise":           {Bind: "127.0.0.1:0", Advertise: "192.0.2.1:7946"},
		"join an address":     {Bind: "127.0.0.1:0", Join: []string{"127.0.0.2", "192.0.2.1"}},
		"join a name":         {Bind: "127.0.0.1:0", Join: []string{"tidepool-headless"}},
		"peers from anywhere": {Bind: "127.0.0.1:0", PeerAddr: "192.0.2.1:5002"},
	} {
		m, err := cluster.Join(t.Context(), o)
		if err == nil {
			m.Close()
			t.Errorf("%s: joined without a secret", what)
		} else if !strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", what, err)
		}
	}
	m, err := cluster.Join(t.Context(), cluster.Options{
		Bind: "127.0.0.1:0", Advertise: "127.0.0.1", PeerAddr: "127.0.0.1:5002", Join: []string{"localhost", "[::1]:7946", "127.0.0.9:1"}})
	if err != nil {
		t.Fatalf("all of it on loopback: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestOptionsThatCannotWork(t *testing.T) {
	for what, o := range map[string]cluster.Options{
		"a short secret":    {Secrets: secrets("short")},
		"no name":           {Name: "No Name"},
		"a bad peer":        {PeerAddr: "here"},
		"a long zone":       {Zone: strings.Repeat("z", 64)},
		"a weight":          {Weight: cluster.MaxWeight + 1},
		"a join":            {Bind: "127.0.0.1:0", Secrets: secrets(secretA), Join: []string{"a", "b:x"}},
		"a path to join":    {Bind: "127.0.0.1:0", Secrets: secrets(secretA), Join: []string{"http://b/"}},
		"nothing to join":   {Bind: "127.0.0.1:0", Secrets: secrets(secretA), Join: []string{""}},
		"a name to bind":    {Bind: "tidepool.local:7946", Secrets: secrets(secretA)},
		"no port":           {Bind: "127.0.0.1:x", Secrets: secrets(secretA)},
		"a name to say":     {Bind: "127.0.0.1:0", Advertise: "tidepool.local", Secrets: secrets(secretA)},
		"another's address": {Bind: "192.0.2.1:0", Secrets: secrets(secretA)},
	} {
		m, err := cluster.Join(t.Context(), o)
		if err == nil {
			m.Close()
			t.Errorf("%s: joined", what)
		} else {
			t.Log(err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cluster.Join(ended, cluster.Options{Bind: "127.0.0.1:0"}); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

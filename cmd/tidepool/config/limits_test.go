package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

func TestLimits(t *testing.T) {
	for text, want := range map[string]config.Pace{
		"100/m": {100, time.Minute}, "10/s": {10, time.Second}, "5000/h": {5000, time.Hour}, "off": {},
	} {
		var p config.Pace
		if err := p.UnmarshalText([]byte(text)); err != nil || p != want || p.String() != text {
			t.Errorf("%q is read as %v, %v", text, p, err)
		}
	}
	for text, want := range map[string]config.Share{"10%": 10, "0%": -1, "90%": 90} {
		var s config.Share
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want || s.String() != text {
			t.Errorf("%q is read as %v, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "100", "100/d", "0/m", "-1/m", "1e3/m", "99999999999/m", "/m", "on", "10", "91%", "-1%", "%"} {
		var p config.Pace
		var s config.Share
		if p.UnmarshalText([]byte(text)) == nil || s.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q is taken", text)
		}
	}
	if _, err := load(t, "upstreams: {docker.io: {requests: 200000/m}}", config.Inputs{}); err == nil || !strings.Contains(err.Error(), "100000") {
		t.Errorf("more requests than can be counted: %v", err)
	}
	l, err := load(t, "upstreams: {docker.io: {requests: 100/m, reserve: 0%, credentials_together: true}, quay.io: }", config.Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range l.Hubs() {
		switch h.Name {
		case "docker.io":
			if h.Requests.Requests != 100 || h.Requests.Window != time.Minute || h.Reserve >= 0 || !h.CredentialsTogether {
				t.Errorf("%+v", h)
			}
		case "quay.io":
			if h.Requests.Requests != 0 || h.Reserve != 10 || h.CredentialsTogether {
				t.Errorf("%+v", h)
			}
		}
	}
}

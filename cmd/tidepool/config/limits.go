package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// Share is a percentage: 10%. Nothing said is 0, and 0% is negative.
type Share int

// UnmarshalText reads a percentage from 0 to 90: who keeps more of a limit than that does not use it.
func (s *Share) UnmarshalText(b []byte) error {
	text, ok := strings.CutSuffix(string(b), "%")
	n, err := strconv.ParseUint(text, 10, 8)
	if !ok || err != nil || n > 90 {
		return fmt.Errorf("%q is no share: write 10%%, or anything from 0%% to 90%%", b)
	}
	*s = Share(n)
	if n == 0 {
		*s = -1
	}
	return nil
}

func (s Share) String() string { return strconv.Itoa(max(0, int(s))) + "%" }

// MarshalText writes s as String does.
func (s Share) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Pace is a number of requests in a time: 100/m, or off.
type Pace upstream.Pace

var windows = []struct {
	name string
	time time.Duration
}{{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}}

// UnmarshalText reads requests by the second, the minute or the hour, or off.
func (p *Pace) UnmarshalText(b []byte) error {
	if string(b) == "off" {
		*p = Pace{}
		return nil
	}
	text, per, _ := strings.Cut(string(b), "/")
	n, err := strconv.ParseUint(text, 10, 31)
	for _, w := range windows {
		if w.name == per && err == nil && n > 0 {
			*p = Pace{Requests: int(n), Window: w.time}
			return nil
		}
	}
	return fmt.Errorf("%q is no pace: write 100/m, 10/s or 5000/h, or off", b)
}

func (p Pace) String() string {
	for _, w := range windows {
		if w.time == p.Window {
			return strconv.Itoa(p.Requests) + "/" + w.name
		}
	}
	return "off"
}

// MarshalText writes p as String does.
func (p Pace) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

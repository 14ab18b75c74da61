package cluster

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestComplaint: what the log says last of this member's trouble is so after a minute, and it is no more than a line or two a
// minute, whatever comes and goes.
func TestComplaint(t *testing.T) {
	const round = rejoinEvery
	one, two := errors.New("one"), errors.New("one; two")
	for name, c := range map[string]struct {
		trouble func(round int) error // in each round of an hour
		least   int
		most    int
	}{
		"none":                      {func(int) error { return nil }, 0, 0},
		"it lasts":                  {func(int) error { return one }, 6, 7},
		"one of two comes and goes": {func(n int) error { return []error{one, two}[n%2] }, 6, 61},
		"it comes and goes":         {func(n int) error { return []error{one, nil}[n%2] }, 6, 122},
		"it is back":                {func(n int) error { return []error{one, nil, one}[min(n/40, 2)] }, 8, 9},
	} {
		t.Run(name, func(t *testing.T) {
			core, seen := observer.New(zapcore.InfoLevel)
			var said complaint
			now := time.Unix(1e9, 0)
			for n := range int(time.Hour / round) {
				said.say(c.trouble(n), now, zap.New(core))
				now = now.Add(round)
			}
			if n := seen.Len(); n < c.least || n > c.most {
				t.Errorf("%d lines in an hour, want %d to %d", n, c.least, c.most)
			}
		})
	}
}

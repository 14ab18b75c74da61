package cluster

import (
	"bytes"
	"log"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/time/rate"
)

// lines writes what memberlist logs to our log. A stranger who sends garbage makes it log a line for each packet, so
// lines beyond ten a second are counted and not written.
type lines struct {
	to      *zap.Logger
	rate    *rate.Limiter
	counts  *counts
	skipped atomic.Uint64
}

func gossipLog(to *zap.Logger, c *counts) *log.Logger {
	return log.New(&lines{to: to, rate: rate.NewLimiter(10, 50), counts: c}, "", 0)
}

var levels = []struct {
	begins []byte
	level  zapcore.Level
}{
	{[]byte("[DEBUG] "), zapcore.DebugLevel},
	{[]byte("[INFO] "), zapcore.InfoLevel},
	{[]byte("[WARN] "), zapcore.WarnLevel},
	{[]byte("[ERR] "), zapcore.WarnLevel}, // of what others send: nothing here is broken by it
}

// Write takes one line.
func (l *lines) Write(line []byte) (int, error) {
	level, text := zapcore.InfoLevel, bytes.TrimSpace(line)
	for _, is := range levels {
		if rest, ok := bytes.CutPrefix(text, is.begins); ok {
			level, text = is.level, rest
			if bytes.Equal(is.begins, []byte("[ERR] ")) {
				l.counts.refused.Add(1)
			}
		}
	}
	if bytes.Contains(text, noPackets) {
		l.counts.streamed(time.Now())
	}
	if entry := l.to.Check(level, string(text)); entry == nil {
		return len(line), nil
	} else if !l.rate.Allow() {
		l.skipped.Add(1)
	} else if skipped := l.skipped.Swap(0); skipped > 0 {
		entry.Write(zap.Uint64("lines_left_out", skipped))
	} else {
		entry.Write()
	}
	return len(line), nil
}

package main

import (
	"context"
	"time"
)

// stopped is many clients that ask for a large blob that is held, read its header and then nothing more. What the
// kernel keeps for them, at both ends, is shown beside what the server does.
var stopped = load{
	key: "stopped", name: "1000 clients of a hot SIZE blob that stop reading", fresh: true,
	most: 3, // it hardly varies, and each takes seconds
	metrics: []metric{
		{name: "user memory each", unit: "KiB", digits: 1, atMost: 32},
		{name: "kernel socket memory each", unit: "KiB"},
	},
	run: func(ctx context.Context, b *bench, s *server) ([]float64, error) {
		user, kernel, err := settled(ctx, s.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		conns, err := connect(s, stoppedClients)
		defer hangUp(conns)
		if err != nil {
			return nil, err
		}
		for _, c := range conns {
			if _, err := c.ask(b.hot.path(), b.hot.size); err != nil {
				return nil, err
			}
		}
		full, buffers, err := settled(ctx, s.cmd.Process.Pid)
		return []float64{each(full - user), each(buffers - kernel)}, err
	},
}

// each is a client's share of so many bytes, in KiB.
func each(total int64) float64 { return float64(total) / stoppedClients / 1024 }

// settled waits until neither the memory of pid and its children nor that of the kernel's sockets has moved for
// half a second, and returns both in bytes.
func settled(ctx context.Context, pid int) (user, kernel int64, err error) {
	const still, tick = 5, 100 * time.Millisecond
	for calm := 0; calm < still; {
		select {
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-time.After(tick):
		}
		u, err := anonymous(pid)
		if err != nil {
			return 0, 0, err
		}
		k, err := socketMemory()
		if err != nil {
			return 0, 0, err
		}
		calm++
		if differ(u, user) || differ(k, kernel) {
			user, kernel, calm = u, k, 0
		}
	}
	return user, kernel, nil
}

// differ reports a change by more than a hundredth, and by more than a megabyte: the kernel's own noise.
func differ(a, b int64) bool { return max(a-b, b-a) > max(b/100, 1<<20) }

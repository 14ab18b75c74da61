package upstream

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// scarcePause is how long a connection that this machine has no room for waits before it is tried again. Meanwhile
	// another may become free, which is as good: requests take whichever comes first.
	scarcePause = 50 * time.Millisecond
	// scarceTries bounds that to a second: the one who waits may have been served long since, and then only takes from
	// others what becomes free.
	scarceTries = 20
)

// scarce says what this machine or process has run out of, and what to do about it; empty: err is about something else.
// It is no registry's fault: to hold one to be down for it would take it from those who need no new connection.
func scarce(err error) string {
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return "this machine has no port left for another connection there: widen net.ipv4.ip_local_port_range, or lower fetches"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return "no file descriptor is left for another connection: raise the limit of open files (ulimit -n, LimitNOFILE)"
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return "the kernel has no memory left for another connection"
	}
	return ""
}

// pause waits, and reports whether ctx allows it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

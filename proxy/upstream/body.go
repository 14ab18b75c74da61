package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// body is an answer's body under watch. While somebody reads, it fails when no byte has come for a while; a reader who
// pauses costs the upstream nothing. It ends with io.EOF only where what was announced has come, no less and no more.
type body struct {
	r     *reply
	left  int64 // bytes still to come; negative: not announced
	stall time.Duration
	watch *time.Timer
	ended error // what every Read after the last returns; only the reader touches it

	count   func(n int)
	brought atomic.Bool // anything
	once    sync.Once
	done    func(brought bool, err error) // how it ended: nil for read to the end or given up
}

// newBody watches r's body, of which left bytes were announced.
func newBody(r *reply, left int64, stall time.Duration, count func(int), done func(bool, error)) *body {
	b := &body{r: r, left: left, stall: stall, count: count, done: done}
	b.watch = time.AfterFunc(stall, func() { r.cancel(broken("%s sent no byte for %v", r.host, stall)) })
	b.watch.Stop()
	return b
}

func (b *body) Read(p []byte) (int, error) {
	if b.ended != nil {
		return 0, b.ended
	}
	var extra [1]byte
	switch {
	case b.left == 0:
		p = extra[:] // to see that nothing follows
	case b.left > 0 && int64(len(p)) > b.left:
		p = p[:b.left]
	}
	b.watch.Reset(b.stall)
	n, err := b.r.Body.Read(p)
	b.watch.Stop()
	b.count(n)
	if n > 0 {
		b.brought.Store(true)
		if wait := b.r.lines.take(b.r.ctx, n); wait != nil && err == nil {
			err = wait
		}
	}
	if b.left == 0 {
		return 0, b.end(n, err)
	}
	if b.left > 0 {
		b.left -= int64(n)
	}
	if err != nil {
		return n, b.end(0, err)
	}
	return n, nil
}

// end turns the error of the last read into what it means, and settles the request.
func (b *body) end(extra int, err error) error {
	switch {
	case extra > 0:
		err = broken("the answer is longer than announced")
	case err == nil: // nothing yet behind the last byte announced
		return nil
	case err == io.EOF && b.left <= 0:
		b.ended = io.EOF
		b.settle(nil)
		return io.EOF
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		err = &fault{kind: cache.ErrUnavailable, cause: io.ErrUnexpectedEOF, blame: true, text: b.short()}
	default:
		err = b.r.readFault(err)
	}
	b.ended = err
	b.settle(err)
	return err
}

func (b *body) short() string {
	if b.left > 0 {
		return fmt.Sprintf("the answer ended %d bytes early", b.left)
	}
	return "the answer ended in the middle"
}

// readFault says why a read failed: our own reasons before the transport's.
func (r *reply) readFault(err error) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	return &fault{kind: cache.ErrUnavailable, cause: err, blame: true, text: r.host + ": " + r.clean(err.Error())}
}

// Close gives the answer up.
func (b *body) Close() error {
	b.settle(nil)
	return nil
}

func (b *body) settle(err error) {
	b.once.Do(func() {
		b.watch.Stop()
		b.r.cancel(context.Canceled)
		_ = b.r.Body.Close()
		b.done(b.brought.Load(), err)
	})
}

package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// body is an answer's body under watch. While somebody reads, it fails when no byte has come for a while; a reader who
// pauses costs the upstream nothing. It ends with io.EOF only where what was announced has come, no less and no more.
type body struct {
	from  io.ReadCloser
	left  int64 // bytes still to come; negative: not announced
	stall time.Duration
	watch *time.Timer

	ctx    context.Context // the request's: its cause says why a read failed
	cancel context.CancelCauseFunc

	ended error // what every Read after the last returns; only the reader touches it
	count func(n int)
	once  sync.Once
	done  func(err error) // how it ended: nil for read to the end or given up
}

func newBody(r *reply, left int64, stall time.Duration, count func(int), done func(error)) *body {
	b := &body{from: r.Body, left: left, stall: stall, ctx: r.ctx, cancel: r.cancel, count: count, done: done}
	b.watch = time.AfterFunc(stall, func() {
		b.cancel(broken("%s sent no byte for %v", r.host, stall))
	})
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
	n, err := b.from.Read(p)
	b.watch.Stop()
	b.count(n)
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
		err = readFault(b.ctx, err)
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

// readFault says why a request or a read under ctx failed: our own reasons, which are ctx's cause, before the
// transport's.
func readFault(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return &fault{kind: cache.ErrUnavailable, cause: err, blame: !errors.Is(err, errInside), text: clean(err.Error())}
	}
	return context.Cause(ctx)
}

// Close gives the answer up.
func (b *body) Close() error {
	b.settle(nil)
	return nil
}

func (b *body) settle(err error) {
	b.once.Do(func() {
		b.watch.Stop()
		b.cancel(context.Canceled)
		_ = b.from.Close()
		b.done(err)
	})
}

package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// absences remember what a source does not have, so that who asks again at once is told without its being asked. They
// know what each caller was told, and tell it to nobody else. Blobs are not among them: a manifest names them, so that
// one that is missing is a registry's slip, which the next asking may find mended.
type absences struct {
	Source
	last time.Duration // how long they are believed

	mu    sync.Mutex
	until *simplelru.LRU[asked, time.Time]
}

const (
	// defaultAbsence is long enough for a client that tries each of its names again and again, and short enough for
	// one who has just pushed.
	defaultAbsence = 30 * time.Second
	// mostAbsences bounds what a client can make us remember by asking for what there is not.
	mostAbsences = 10_000
)

// remembering is src with a memory for what it does not have.
func remembering(src Source, last time.Duration) *absences {
	until, _ := simplelru.NewLRU[asked, time.Time](mostAbsences, nil) // fails for a size below 1 only
	return &absences{Source: src, last: last, until: until}
}

// Resolve asks the source, unless it has just said that there is no such thing.
func (a *absences) Resolve(ctx context.Context, ref Ref, want Want) (Answer, error) {
	return a.ask(ctx, ref, want, a.Source.Resolve)
}

// Open asks the source, unless it has just said that there is no such thing.
func (a *absences) Open(ctx context.Context, ref Ref, want Want) (Answer, error) {
	return a.ask(ctx, ref, want, a.Source.Open)
}

func (a *absences) ask(ctx context.Context, ref Ref, want Want,
	ask func(context.Context, Ref, Want) (Answer, error)) (Answer, error) {
	if ref.Kind == KindBlob {
		return ask(ctx, ref, want)
	}
	who := asked{ref, CallerOf(ctx)}
	if a.absent(who) {
		return Answer{}, fmt.Errorf("%s: the upstream had no such thing less than %v ago: %w", ref, a.last, ErrNotFound)
	}
	answer, err := ask(ctx, ref, want)
	switch {
	case errors.Is(err, ErrNotFound):
		a.note(who)
	case err == nil:
		a.forget(who)
	}
	return answer, err
}

func (a *absences) absent(who asked) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	until, ok := a.until.Peek(who)
	return ok && time.Now().Before(until)
}

func (a *absences) note(who asked) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.until.Add(who, time.Now().Add(a.last))
}

func (a *absences) forget(who asked) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.until.Remove(who)
}

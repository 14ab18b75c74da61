package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// Keeper is the store of a member that keeps what others have it keep.
type Keeper interface {
	Store
	Holds(cache.Digest) bool
	Rank(d cache.Digest, hotCopy bool)
	Room() float64
	Learn(ref cache.Ref, d cache.Desc, asOf time.Time)
	Pin(ctx context.Context, p cache.Pin) error
	Pins() []cache.Pin
	PinsIn(scope cache.Ref) []cache.Pin
}

// Taker takes what other members offer. It fetches it from them as from anybody, held-only and by digest, so that an
// offer can cost time and room, and never be believed.
type Taker struct {
	Store Keeper
	Rate  int64                  // bytes a second of what is in no hurry; 0: without bound
	Unpin func(p cache.Pin) bool // whether a pin that is offered was taken back since; nil: none was
	Log   *zap.Logger            // nil: silence
	once  sync.Once
	slots chan struct{} // full: what is offered next waits
	pace  pace
}

const (
	// takes is how many things are taken at the same time.
	takes = 4
	// leastRoom is the part of the disk that must be free for what is taken in no hurry: it would push out what is in
	// use here, for what may not be in use anywhere.
	leastRoom = 0.05
	// mostOffer bounds the document of an offer: a pin of ten thousand parts.
	mostOffer = 4 << 20
)

// serve answers an offer of a member, and reports whether it was one.
func (t *Taker) serve(w http.ResponseWriter, r *http.Request, from string) bool {
	if r.Method != http.MethodPost {
		return false
	}
	t.once.Do(func() { t.slots, t.pace.line = make(chan struct{}, takes), make(chan struct{}, 1) })
	line := http.NewResponseController(w)
	_ = line.SetReadDeadline(time.Now().Add(headTime))
	body := http.MaxBytesReader(w, r.Body, mostOffer)
	var do func(context.Context, *json.Decoder) (any, error)
	switch r.URL.Path {
	case offerPath:
		do = t.offer
	case takePath:
		do = func(ctx context.Context, d *json.Decoder) (any, error) { return t.take(ctx, d, from) }
	case namesPath:
		do = t.names
	case pinnedPath:
		do = t.pinned
	case pinPath:
		do = func(ctx context.Context, d *json.Decoder) (any, error) { return t.pin(ctx, d, from) }
	default:
		return false
	}
	out, err := do(r.Context(), json.NewDecoder(body))
	_, _ = io.Copy(io.Discard, body)
	if err != nil {
		t.log().Debug("not taken", zap.String("member", from), zap.Error(err))
		(&Peer{}).refuse(w, cache.Answer{}, err)
		return true
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // who is gone needs no answer
	return true
}

// offer says which of some things are lacking here, and would be taken.
func (t *Taker) offer(_ context.Context, body *json.Decoder) (any, error) {
	var o offer
	if err := body.Decode(&o); err != nil || len(o.Things) > mostThings {
		return nil, errQuestion
	}
	a := lacking{Lacks: []int{}}
	for i, x := range o.Things {
		ref, err := x.ref()
		switch {
		case err != nil:
			return nil, err
		case t.Store.Holds(ref.Digest):
			t.Store.Rank(ref.Digest, false) // it is this member's to keep
		case o.Hurry || t.Store.Room() > leastRoom:
			a.Lacks = append(a.Lacks, i)
		default:
			a.Full = true
		}
	}
	return a, nil
}

// take fetches one thing from the member that offers it, and answers when it has landed.
func (t *Taker) take(ctx context.Context, body *json.Decoder, from string) (any, error) {
	var o offer
	if err := body.Decode(&o); err != nil || len(o.Things) != 1 {
		return nil, errQuestion
	}
	ref, err := o.Things[0].ref()
	if err != nil {
		return nil, err
	}
	done, err := t.turn(ctx, o.Things[0].Size, o.Hurry)
	if err != nil {
		return nil, err
	}
	defer done()
	return struct{}{}, t.fetch(ctx, ref, from, o.Things[0].Callers)
}

// turn waits until something may be taken, so as not to be in the way of what clients wait for.
func (t *Taker) turn(ctx context.Context, size int64, hurry bool) (done func(), err error) {
	if !hurry { // without a slot, which somebody in a hurry may need
		size = min(size, t.Rate*int64(mostTake/time.Second)) // which is only what somebody says
		if err := t.pace.wait(ctx, size, t.Rate); err != nil {
			return nil, err
		}
	}
	select {
	case t.slots <- struct{}{}:
		return func() { <-t.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fetch has one thing be here, by a member that holds it. callers: its registry asks for their logins.
func (t *Taker) fetch(ctx context.Context, ref cache.Ref, from string, callers bool) error {
	if callers {
		ctx = cache.WithCaller(ctx, cache.Member)
	}
	ctx = cache.WithKeep(cache.WithUrgency(withOffer(ctx, from), cache.Repair))
	b, err := t.Store.Open(ctx, ref, cache.Whole)
	if err != nil {
		return err
	}
	if err := errors.Join(b.Prove(ctx), b.Close()); err != nil {
		return err
	}
	if !t.Store.Holds(ref.Digest) { // it went by: there is no room, or the disk takes no writes
		return fmt.Errorf("%s came and could not be kept: %w", ref, cache.ErrNoRoom)
	}
	return nil
}

// names learns what names stand for.
func (t *Taker) names(_ context.Context, body *json.Decoder) (any, error) {
	var list []named
	if err := body.Decode(&list); err != nil || len(list) > mostThings {
		return nil, errQuestion
	}
	for _, n := range list {
		ref, err := n.ref()
		d, bad := cache.ParseDigest(n.Digest)
		if err = errors.Join(err, bad); err != nil || !ref.Mutable() || ref.Kind != cache.KindManifest {
			return nil, errQuestion
		}
		t.Store.Learn(ref, cache.Desc{MediaType: plain(n.Type), Digest: d, Size: n.Size}, n.AsOf)
	}
	return struct{}{}, nil
}

// pin keeps what another member has pinned, and all of it.
func (t *Taker) pin(ctx context.Context, body *json.Decoder, from string) (any, error) {
	var doc pinned
	if err := body.Decode(&doc); err != nil {
		return nil, errQuestion
	}
	p, err := doc.pin()
	if err != nil {
		return nil, err
	}
	if t.Unpin != nil && t.Unpin(p) || hasPin(t.Store.Pins(), p) {
		return struct{}{}, nil
	}
	for _, x := range p.Parts {
		if t.Store.Holds(x.Digest) {
			continue
		}
		done, err := t.turn(ctx, x.Size, true)
		if err == nil {
			err = t.fetch(ctx, x.Content(), from, false)
			done()
		}
		if err != nil {
			return nil, fmt.Errorf("%s, a part of the pinned %s: %w", x.Ref, p.Ref, err)
		}
	}
	return struct{}{}, t.Store.Pin(ctx, p)
}

// hasPin reports whether p, or a later one, is among pins.
func hasPin(pins []cache.Pin, p cache.Pin) bool {
	for _, q := range pins {
		if q.Owner == p.Owner && q.Ref == p.Ref && !q.At.Before(p.At) {
			return true
		}
	}
	return false
}

func (t *Taker) log() *zap.Logger {
	if t.Log == nil {
		return zap.NewNop()
	}
	return t.Log
}

// pace spreads bytes over time. Who waits stands in line, so that one who gives up has taken no time from the others.
type pace struct {
	line chan struct{} // full while somebody is at its head; guards next
	next time.Time     // when the next may begin
}

// wait waits until n bytes may go at rate bytes a second.
func (p *pace) wait(ctx context.Context, n, rate int64) error {
	if rate <= 0 {
		return ctx.Err()
	}
	select {
	case p.line <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.line }()
	if err := rest(ctx, time.Until(p.next)); err != nil {
		return err
	}
	p.next = time.Now().Add(time.Duration(float64(max(n, 0)) / float64(rate) * float64(time.Second)))
	return nil
}

// rest waits for d, or until ctx ends.
func rest(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	alarm := time.NewTimer(d)
	defer alarm.Stop()
	select {
	case <-alarm.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type offerKey struct{}

// withOffer returns ctx for what is to come from a member that has offered it.
func withOffer(ctx context.Context, member string) context.Context {
	return context.WithValue(ctx, offerKey{}, member)
}

// offered has a thing come from the member that offered it, and reports whether that is all there is to do: where it does
// not come, and somebody else waits for it by now, it is fetched as if nobody had offered it.
func (r *Router) offered(ctx context.Context, v *View, q question) (a cache.Answer, done bool, err error) {
	name, ok := ctx.Value(offerKey{}).(string)
	if !ok {
		return a, false, nil
	}
	m, there := v.Members[name]
	q.vouched = cache.CallerOf(ctx) == cache.Member
	if there && q.doubts == 0 { // else it has sent something else just now
		if a, err = r.askHeld(ctx, m, q); err == nil {
			return a, true, nil
		}
	}
	if q.vouched {
		return a, true, fmt.Errorf("%s was offered by %s and does not come: %w", q.ref, name, cache.ErrDenied) // whoever waits asks for himself
	}
	if cache.UrgencyOf(ctx) < cache.Repair {
		return a, false, nil
	}
	return a, true, fmt.Errorf("%s was offered by %s and does not come: %w", q.ref, name, cache.ErrUnavailable)
}

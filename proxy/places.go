package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tidepool-oci/tidepool/cache"
)

// A client's name may stand for another one, or for several of which the first that there is wins (Candidates). That is
// settled here; a Store is asked by canonical names only.
//
// Only a clear no (404) leads from one place to the next. One that cannot be asked is no place that does not have it:
// else whoever can disturb the way to the first would choose what clients get. So a name that a later place answered is
// remembered, and only for such a name an earlier one that cannot be asked is passed over.

// Memory is what the door remembers of what was found where. *cache.Cache is one.
type Memory interface {
	Sure(ctx context.Context, ref cache.Ref) bool // it is known, without asking, that ref is there
	Hint(key string) string
	LeaveHint(key, word string)
}

// place finds out under which names the thing is to be looked for.
func (h *Handler) place(a *answer) error {
	if h.Candidates == nil || a.ask.root {
		return nil
	}
	places, err := h.Candidates(a.ask.ref)
	switch {
	case err != nil:
		return refuse(denied, "%v", err)
	case len(places) == 0 || len(places) == 1 && places[0] == a.ask.ref:
		return nil
	}
	a.ask.called, a.ask.ref = repository(a.ask.ref), places[0]
	if len(places) > 1 {
		a.ask.places = places
	}
	return nil
}

// everywhere are all places to look in.
func (a *asked) everywhere() []cache.Ref {
	if len(a.places) == 0 {
		return []cache.Ref{a.ref}
	}
	return a.places
}

// turn has a be about what is at ref, and returns the ctx of one who asks there: it is another one at each registry.
func (h *Handler) turn(ctx context.Context, a *answer, ref cache.Ref) (context.Context, error) {
	a.ask.ref = ref
	return h.identify(ctx, a)
}

// pick answers with a manifest or a blob from the first place that has it.
func (h *Handler) pick(ctx context.Context, a *answer) error {
	hinted := h.hinted(a)
	if i := h.sure(ctx, a, a.ask.places, hinted); i > 0 {
		if err := h.contentAt(ctx, a, a.ask.places[i]); !h.missing(a, err) {
			return err
		}
	}
	var absent, out error
	for i, ref := range a.ask.places {
		err := h.contentAt(ctx, a, ref)
		switch {
		case err == nil:
			h.leaveHint(a, i)
			return nil
		case h.missing(a, err):
			absent = nor(absent, ref, err)
		case i < hinted && a.status == 0 && unanswered(err):
			out = errors.Join(out, err)
			continue
		default:
			return err
		}
		if out != nil && i >= hinted {
			return out // where it was it is no more, and where it may be cannot be asked
		}
	}
	a.ask.ref = a.ask.places[0]
	return absent
}

func (h *Handler) contentAt(ctx context.Context, a *answer, ref cache.Ref) error {
	ctx, err := h.turn(ctx, a, ref)
	if err != nil {
		return err
	}
	return h.content(ctx, a)
}

// missing reports whether err says that there is no such thing where a's is looked for.
func (h *Handler) missing(a *answer, err error) bool {
	if a.status != 0 {
		return false // something went out already
	}
	return errors.Is(err, cache.ErrNotFound) ||
		errors.Is(err, cache.ErrDenied) && h.DeniedIsMissing != nil && h.DeniedIsMissing(a.ask.ref.Registry)
}

// unanswered reports whether err is no answer.
func unanswered(err error) bool {
	return errors.Is(err, cache.ErrUnavailable) || errors.Is(err, cache.ErrLimited) || errors.Is(err, context.DeadlineExceeded)
}

// nor is first, and that there is nothing at ref either.
func nor(first error, ref cache.Ref, err error) error {
	switch {
	case first == nil && errors.Is(err, cache.ErrNotFound):
		return err
	case first == nil: // what this registry says of what it does not have
		return fmt.Errorf("%w, taken for %w", err, cache.ErrNotFound)
	}
	return fmt.Errorf("%w, nor has %s", first, ref)
}

// sure is the place of which it is known that it has what is asked for, so that no other need be asked; negative: none.
// Of a tag it can only be the one that answered last.
func (h *Handler) sure(ctx context.Context, a *answer, places []cache.Ref, hinted int) int {
	return slices.IndexFunc(places, func(ref cache.Ref) bool {
		if h.Memory == nil || ref.Mutable() && (hinted == 0 || ref != places[hinted]) {
			return false
		}
		ctx, err := h.turn(ctx, a, ref)
		return err == nil && h.Memory.Sure(ctx, ref)
	})
}

// repository is the name of ref's, its registry first.
func repository(ref cache.Ref) string { return ref.Registry + "/" + ref.Repo }

// hintKey is the tag as the client calls it.
func (a *answer) hintKey() string { return a.ask.called + ":" + a.ask.ref.Tag }

// hinted is the place that answered for a tag when it was last looked for, if that was a later one; else 0.
func (h *Handler) hinted(a *answer) int {
	if h.Memory == nil || a.ask.ref.Tag == "" || h.byCaller(a.ask.places) {
		return 0 // where it was for one caller says nothing of where it is for the next
	}
	hint := h.Memory.Hint(a.hintKey())
	return max(0, slices.IndexFunc(a.ask.places, func(ref cache.Ref) bool { return repository(ref) == hint }))
}

// leaveHint remembers which place answered for a tag.
func (h *Handler) leaveHint(a *answer, i int) {
	switch {
	case h.Memory == nil || a.ask.ref.Tag == "" || h.byCaller(a.ask.places):
	case i > 0:
		h.Memory.LeaveHint(a.hintKey(), repository(a.ask.ref))
	case h.Memory.Hint(a.hintKey()) != "":
		h.Memory.LeaveHint(a.hintKey(), "")
	}
}

// byCaller reports whether one of the places is asked with its callers' logins.
func (h *Handler) byCaller(places []cache.Ref) bool {
	return slices.ContainsFunc(places, func(ref cache.Ref) bool { return h.Names.Upstreams[ref.Registry].Callers })
}

// locate turns to the place that has the manifest whose referrers are asked for: a registry lists none of what it does
// not have, and that would be taken for an answer.
func (h *Handler) locate(ctx context.Context, a *answer) error {
	subjects := slices.Clone(a.ask.places)
	for i := range subjects {
		subjects[i].Kind = cache.KindManifest
	}
	if i := h.sure(ctx, a, subjects, 0); i >= 0 {
		a.ask.ref = a.ask.places[i]
		return nil
	}
	for i, ref := range subjects {
		at, err := h.turn(ctx, a, a.ask.places[i])
		if err == nil {
			_, err = h.Store.Stat(at, ref)
		}
		if !h.missing(a, err) {
			return err
		}
	}
	a.ask.ref = a.ask.places[0]
	return nil
}

// gather is every tag of a repository, wherever it is; a place that does not have the repository adds none. found is
// that of the least certain part.
func (h *Handler) gather(ctx context.Context, a *answer) (tags []string, found cache.Found, err error) {
	var absent error
	var said cache.Ref // the place that the answer's headers are about
	for _, ref := range a.ask.everywhere() {
		list, f, err := h.tagsAt(ctx, a, ref)
		if h.missing(a, err) {
			absent = nor(absent, ref, err)
			continue
		}
		if err != nil {
			return nil, found, err
		}
		tags = append(tags, list...)
		switch {
		case said == (cache.Ref{}):
			found, said = f, ref
			continue
		case f.Stale() && !found.Stale():
			said = ref
		}
		found = lesser(found, f)
	}
	if said == (cache.Ref{}) {
		a.ask.ref = a.ask.everywhere()[0]
		return nil, found, absent
	}
	a.ask.ref = said
	return tags, found, nil
}

func (h *Handler) tagsAt(ctx context.Context, a *answer, ref cache.Ref) ([]string, cache.Found, error) {
	ctx, err := h.turn(ctx, a, ref)
	if err != nil {
		return nil, cache.Found{}, err
	}
	return h.tagList(ctx, ref)
}

// lesser is what can be said of two answers together.
func lesser(a, b cache.Found) cache.Found {
	a.From, a.Aged, a.Over = max(a.From, b.From), max(a.Aged, b.Aged), max(a.Over, b.Over)
	if a.AsOf.IsZero() || !b.AsOf.IsZero() && b.AsOf.Before(a.AsOf) {
		a.AsOf = b.AsOf
	}
	return a
}

// keyed says in Cache-Status which name answered, where that is not the one that was asked for (RFC 9211, section 2.7).
func (a *answer) keyed() {
	if a.ask.otherwise() == "" || a.ask.ref.Kind == cache.KindTags {
		return
	}
	status := a.w.Header()["Cache-Status"]
	a.set("Cache-Status", status[0]+`; key="`+repository(a.ask.ref)+`"`)
}

// otherwise is the repository as the client called it, where the one that answers has another name; else "".
func (a *asked) otherwise() string {
	if a.called == "" || a.called == repository(a.ref) {
		return ""
	}
	return a.called
}

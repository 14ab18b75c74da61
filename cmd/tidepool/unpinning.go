package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cluster"
)

// unpinned is what POST /api/v1/unpin answers.
type unpinned struct {
	Schema int           `json:"schema"`
	Silent []string      `json:"silent,omitempty"` // members that did not say what they pin: they unpin it when they hear
	Images []unpinnedDoc `json:"images"`
}

type unpinnedDoc struct {
	Image    string   `json:"image"`
	Unpinned bool     `json:"unpinned"`
	At       []string `json:"members,omitempty"` // where it was pinned; of a cluster
	Gone     []string `json:"gone,omitempty"`    // members whose rules pinned it, and that are gone: their copies are unpinned
	Rules    []string `json:"rules,omitempty"`   // members whose rules pin it, which they keep
	Error    string   `json:"error,omitempty"`
}

// Unpin takes pins back, at all members of the cluster.
func (w *warming) Unpin(ctx context.Context, images []string) any {
	answer := unpinned{Schema: thisSchema, Images: []unpinnedDoc{}}
	found := make([]lookedUp, len(images))
	for i, text := range images {
		found[i] = w.lookUp(text)
	}
	pins, silent := w.pinnedIn(ctx, found)
	answer.Silent = silent
	for i, x := range found {
		one := unpinnedDoc{Image: cmp.Or(x.name, images[i])}
		err := x.err
		if err == nil {
			err = w.unpin(&one, x.places, pins[i], silent)
		}
		if err != nil {
			one.Error = err.Error()
		}
		if w.cluster == nil {
			one.At, one.Rules = nil, nil
		}
		answer.Images = append(answer.Images, one)
	}
	return answer
}

// lookedUp is an image that somebody has named.
type lookedUp struct {
	name   string
	places []cache.Ref // where it is looked for, in order
	err    error
}

func (w *warming) lookUp(text string) lookedUp {
	ref, places, err := w.Find(text)
	if err != nil {
		return lookedUp{err: err}
	}
	return lookedUp{ref.String(), places, nil}
}

// pinnedIn is what a purge of each image would take something from, here and at the other members, and who of these does
// not say.
func (w *warming) pinnedIn(ctx context.Context, images []lookedUp) (pins [][]cluster.PinnedAt, silent []string) {
	pins = make([][]cluster.PinnedAt, len(images))
	var scopes []cache.Ref
	var of []int // which image each scope is of
	for i, x := range images {
		for _, at := range x.places {
			for _, p := range w.store.PinsIn(at) {
				pins[i] = append(pins[i], cluster.PinnedAt{Pin: p, Member: w.cluster.self()})
			}
			scopes, of = append(scopes, at), append(of, i)
		}
	}
	if w.cluster == nil {
		return pins, nil
	}
	others, silent := w.cluster.router.Remotes.Pinned(ctx, w.cluster.members.View(), scopes)
	for _, p := range others {
		pins[of[p.Scope]] = append(pins[of[p.Scope]], p)
	}
	return pins, silent
}

// unpin takes back what was pinned by hand, wherever, and what is left of rules of members that are gone, at the first
// place where there is any of it.
func (w *warming) unpin(one *unpinnedDoc, places []cache.Ref, pins []cluster.PinnedAt, silent []string) error {
	for _, at := range places {
		before := len(one.Rules)
		gone := w.sort(one, at, pins)
		if len(one.At) == 0 && len(gone) == 0 {
			continue
		}
		one.Image, one.Unpinned, one.Rules = at.String(), true, one.Rules[before:]
		return w.takeBack(at, gone)
	}
	for _, at := range places {
		w.forget(at) // who is away, or does not say, has it pinned perhaps
	}
	switch others := w.cluster.others(); {
	case len(one.Rules) > 0 && w.cluster == nil:
		return errors.New("it is pinned by a rule: take it out of warm in the configuration")
	case len(one.Rules) > 0:
		return fmt.Errorf("it is pinned by a rule of %s: take it out of warm in the configuration there", strings.Join(one.Rules, ", "))
	case len(silent) > 0:
		return fmt.Errorf("no member that answers has it pinned; %s did not answer, and will unpin it upon hearing of this", strings.Join(silent, ", "))
	case others > 0:
		return errors.New("no member that is there has it pinned (tidepool pin lists what a member has); one that is away will unpin it when it is back, unless a rule pins it there")
	}
	return errors.New("it is not pinned: tidepool pin lists what is")
}

// sort notes who pins an image, and returns the owners of what is left of rules of members that are gone.
func (w *warming) sort(one *unpinnedDoc, at cache.Ref, pins []cluster.PinnedAt) (gone []string) {
	note := func(list *[]string, name string) {
		if !slices.Contains(*list, name) {
			*list = append(*list, name)
		}
	}
	for _, p := range pins {
		home, owner := cluster.HomeOf(p)
		switch {
		case p.Ref != at:
		case owner == byHand:
			note(&one.At, p.Member)
		case w.cluster.means(p):
			note(&one.Rules, home)
		default:
			note(&one.Gone, home)
			note(&gone, p.Owner)
		}
	}
	return gone
}

// takeBack unpins what was pinned by hand, and copies by their owners, here and, by telling them, at all other members.
func (w *warming) takeBack(at cache.Ref, copies []string) error {
	_, err := w.store.Unpin(byHand, at)
	_, e := unpinOlder(w.store, at, time.Now())
	err = errors.Join(err, e)
	w.forget(at)
	for _, owner := range copies {
		_, e := w.store.Unpin(owner, at)
		err = errors.Join(err, e)
		w.cluster.tell(cluster.Event{Kind: cluster.Unpinned, Ref: at, Of: owner})
	}
	return err
}

// self is this member's name; empty: there is no cluster.
func (c *clustering) self() string {
	if c == nil {
		return ""
	}
	return c.name
}

// means reports whether the member that made a pin is there and means it still: also one that has left since it said that it
// has it, for what it has itself is no copy that is left behind.
func (c *clustering) means(p cluster.PinnedAt) bool {
	home, _ := cluster.HomeOf(p)
	if c == nil || home == p.Member {
		return home == p.Member
	}
	_, there := c.members.View().Members[home]
	return there
}

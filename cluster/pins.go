package cluster

import (
	"context"
	"maps"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// tendPins has pins be kept where they are to be, soon after they were made and after each change of the ring, until ctx
// ends.
func (c *Copies) tendPins(ctx context.Context) {
	look := time.NewTicker(pinsEvery)
	defer look.Stop()
	given := map[string]time.Time{}
	var last *Ring
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
		v := c.Router.view()
		if v == nil {
			continue
		}
		if v.Ring != last {
			if !c.quiet(ctx, v) {
				continue
			}
			clear(given)
			last = v.Ring
		}
		c.givePins(ctx, v, given)
		c.dropPins(v)
	}
}

// A pin that another member keeps for the one that made it says so by its owner.
const heldFor = "copy of "

// homeOf is the member that made a pin, and what its owner is called there.
func homeOf(p cache.Pin, self string) (home, owner string) {
	if rest, ok := strings.CutPrefix(p.Owner, heldFor); ok {
		home, owner, _ = strings.Cut(rest, "/")
		return home, owner
	}
	return self, p.Owner
}

// OwnerOf is who wants a pin, whether it was made here or is a copy.
func OwnerOf(p cache.Pin) string {
	_, owner := homeOf(p, "")
	return owner
}

// HeldFor is the owner of a copy of a pin that a member has made.
func HeldFor(member, owner string) string { return heldFor + member + "/" + owner }

// givePins has pins be kept by as many members as are to: those made here, and those whose member is gone. given says
// which ones were given, or could not be, and until when that will do.
func (c *Copies) givePins(ctx context.Context, v *View, given map[string]time.Time) (taken int) {
	maps.DeleteFunc(given, func(_ string, until time.Time) bool { return !time.Now().Before(until) })
	for _, p := range c.Store.Pins() {
		home, owner := homeOf(p, v.Self)
		if _, there := v.Members[home]; home != v.Self && there || c.Router.alone(p.Ref) {
			continue
		}
		doc := pinnedOf(p)
		doc.Owner = HeldFor(home, owner)
		for _, m := range without(c.keepersOf(v, p.Ref, home), v.Self) {
			key := m.Name + "\x00" + doc.Owner + "\x00" + p.Ref.String() + "\x00" + p.At.String()
			if _, there := given[key]; there {
				continue
			}
			sending, cancel := context.WithTimeout(ctx, mostTake+time.Duration(p.Bytes()/slowTake)*time.Second)
			err := c.Router.Remotes.to(m).post(sending, pinPath, doc, &struct{}{})
			cancel()
			given[key] = time.Now().Add(roundEvery)
			if err != nil {
				given[key] = time.Now().Add(pinAgain)
				c.log().Warn("a pin has fewer copies than it is to have", zap.String("member", m.Name), zap.Stringer("image", p.Ref), zap.Error(err))
				continue
			}
			taken++
			c.count.pins.Add(1)
		}
	}
	return taken
}

// keepersOf are the members that are to keep a pin, besides the one that made it. Of one that leaves, at least one.
func (c *Copies) keepersOf(v *View, ref cache.Ref, home string) []Member {
	n := max(1, c.Router.Replicas)
	if isAmong(v.Ring.members, home) {
		n--
	}
	keepers := without(v.Ring.Owners(KeyOf(ref), n+1), home)
	return keepers[:min(n, len(keepers))]
}

// dropPins takes back copies of pins that others are to keep now, as long as the member that made them has them.
func (c *Copies) dropPins(v *View) {
	for _, p := range c.Store.Pins() {
		home, _ := homeOf(p, v.Self)
		if home == v.Self || !isAmong(v.Ring.members, home) || isAmong(c.keepersOf(v, p.Ref, home), v.Self) {
			continue
		}
		if _, err := c.Store.Unpin(p.Owner, p.Ref); err != nil {
			c.log().Warn("a copy of a pin stays, though others are to keep it", zap.Stringer("image", p.Ref), zap.Error(err))
		}
	}
}

func without(members []Member, name string) []Member {
	var rest []Member
	for _, m := range members {
		if m.Name != name {
			rest = append(rest, m)
		}
	}
	return rest
}

package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// Maker makes a login for the endpoint on a host, as a cloud does for who it knows us to be. It may be asked by several
// goroutines at once, and need not heed how often.
type Maker func(ctx context.Context, host string) (Made, error)

// Made is a login that was made, and how long it is good for.
type Made struct {
	Username string
	Password Secret
	Until    time.Time

	// Exchange says that Password is no password but a token of the cloud's, which the endpoint itself exchanges for a
	// login (Azure's container registries).
	Exchange bool
}

const (
	makeTime = 15 * time.Second // as long as a helper has; metadata servers answer at once, or are not there

	// A cloud that gave no login is not asked at each request; and where a registry refuses what was made just now,
	// more of the same would not help.
	makePause, remakePause = 10 * time.Second, time.Minute

	// shortestMade is what a login is good for at the least, whatever clocks say: else it would be made for each request.
	shortestMade = 30 * time.Second
)

// madeKey is one login of those that are made.
type madeKey struct {
	registry   string
	credential int
	at         origin
}

// madeLogin is a login that was made. It is replaced when it is soft, and no longer shown when it is over.
type madeLogin struct {
	login
	soft, over time.Time
	next       time.Time // it is not made anew before
	why        error     // until then, where there is none
}

// made is the login that the credential i makes for e. All who want it at once wait for one making; one that is only
// soft is used while another is made.
func (k *keys) made(ctx context.Context, i int, e *endpoint) (login, error) {
	key := madeKey{k.registry, i, e.origin}
	held, now := k.heldLogin(key), time.Now()
	anew := func(ctx context.Context) (login, error) { return k.makeAnew(ctx, key, e) }
	switch {
	case now.Before(held.soft):
		return held.login, nil
	case now.Before(held.over):
		if !now.Before(held.next) {
			k.makers.Start(ctx, key, anew)
		}
		return held.login, nil
	case now.Before(held.next):
		return login{}, held.why
	}
	ctx, cancel := context.WithTimeoutCause(ctx, makeTime, fmt.Errorf("no login was made within %v", makeTime))
	defer cancel()
	l, _, err := k.makers.Do(ctx, key, 0, anew)
	return l, err
}

// makeAnew makes the login of key, and keeps the old one where that fails.
func (k *keys) makeAnew(ctx context.Context, key madeKey, e *endpoint) (login, error) {
	ctx, cancel := context.WithTimeout(ctx, makeTime)
	defer cancel()
	asked, held := time.Now(), k.heldLogin(key)
	if asked.Before(held.soft) {
		return held.login, nil // made since the asker looked
	}
	l, until, err := k.make(ctx, k.credentials[key.credential], e)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == nil {
		k.held = map[madeKey]madeLogin{}
	}
	if err != nil {
		held = k.held[key] // which may have been refused meanwhile
		held.next, held.why = time.Now().Add(makePause), err
		k.held[key] = held
		k.log.Warn("no login was made", zap.String("registry", k.registry), zap.Bool("the old one is good", asked.Before(held.over)), zap.Error(err))
		return login{}, err
	}
	life := max(until.Sub(asked), shortestMade)
	k.held[key] = madeLogin{login: l, soft: asked.Add(life * 4 / 5), over: asked.Add(life), next: asked.Add(makePause)}
	return l, nil
}

func (k *keys) heldLogin(key madeKey) madeLogin {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held[key]
}

var errMadeRefused = errors.New("the login that was made is refused")

// spent notes that l, if it was made, is refused: another is made, at once where l was good before.
func (k *keys) spent(l login, accepted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, held := range k.held {
		if held.login != l {
			continue
		}
		next := madeLogin{why: errMadeRefused}
		if !accepted {
			next.next = time.Now().Add(remakePause)
		}
		k.held[key] = next
	}
}

// makeLogin has a login made, which for some clouds the endpoint has a part in.
func (h *hub) makeLogin(ctx context.Context, c Credential, e *endpoint) (login, time.Time, error) {
	if err := h.offline.err(); err != nil {
		return login{}, time.Time{}, err
	}
	made, err := c.Make(ctx, e.origin.host)
	switch {
	case err != nil && ctx.Err() != nil:
		return login{}, time.Time{}, fmt.Errorf("no login was made within %v: %s", makeTime, clean(err.Error()))
	case err != nil: // of other people's making: it may say anything
		return login{}, time.Time{}, errors.New(clean(err.Error()))
	case made.Password == "":
		return login{}, time.Time{}, errors.New("the login that was made is empty")
	case made.Exchange:
		return h.exchange(ctx, e, made)
	}
	return login{username: made.Username, password: made.Password}, made.Until, nil
}

// errReplaced is the cause of a refusal of a login that was good a while ago: it may have been replaced since.
var errReplaced = errors.New("the login was good before")

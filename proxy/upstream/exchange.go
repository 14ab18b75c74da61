package upstream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// exchangeLife is how long what an exchange gave is believed where it does not say: Azure's registries mean three hours.
const exchangeLife = time.Hour

// exchange has e turn a token of the cloud's into an identity token of its own (Azure/acr, "AAD-OAuth": POST
// /oauth2/exchange). The cloud's token goes to e itself and nowhere else.
func (h *hub) exchange(ctx context.Context, e *endpoint, made Made) (login, time.Time, error) {
	if err := h.turn(ctx, e); err != nil {
		return login{}, time.Time{}, err
	}
	u := *e.base
	u.Path = "/oauth2/exchange"
	form := url.Values{"grant_type": {"access_token"}, "service": {e.origin.host}, "access_token": {string(made.Password)}}
	asked := time.Now()
	r := newReply(ctx, e.origin, false, []Secret{made.Password})
	r.at = e
	h.count.requests.Add(1)
	if err := r.come(h.roads.pick(true, false), h.post(r.ctx, &u, form)); err != nil {
		return login{}, time.Time{}, r.fail(err)
	}
	if r.StatusCode != http.StatusOK {
		return login{}, time.Time{}, h.refusal(r)
	}
	b, err := h.readAll(r, maxToken)
	if err != nil {
		return login{}, time.Time{}, err
	}
	var doc struct {
		RefreshToken string `json:"refresh_token"`
	}
	if json.Unmarshal(b, &doc) != nil || doc.RefreshToken == "" {
		return login{}, time.Time{}, errors.New(r.host + " gave no refresh token in exchange for the cloud's")
	}
	return login{identity: Secret(doc.RefreshToken)}, expiry(doc.RefreshToken, asked.Add(exchangeLife)), nil
}

// expiry is when a token that is a JWT ends, as it says itself; otherwise where it does not.
func expiry(token string, otherwise time.Time) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return otherwise
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	var doc struct {
		Exp int64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(b, &doc) != nil || doc.Exp <= 0 {
		return otherwise
	}
	return time.Unix(doc.Exp, 0)
}

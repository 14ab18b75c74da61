package access

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cache"
)

// Issuer is who makes tokens that are believed: a cluster of Kubernetes, for its service accounts.
type Issuer struct {
	Issuer   string // as its tokens name it ("iss")
	Audience string // that they must be for

	// Where its keys are: one of the two. A file is a JWKS (RFC 7517) or public keys in PEM, as Kubernetes' sa.pub, and
	// read anew when it changes; a URL is asked for a JWKS when that is first needed.
	KeysFile, KeysURL string
	CAFile            string // authorities to trust for KeysURL besides the system's (PEM)
	TokenFile         string // of a token that KeysURL is asked with; read anew each time
}

// issuer is an Issuer at work.
type issuer struct {
	Issuer
	name   string
	parser *jwt.Parser
	keys   func(ctx context.Context, kid string) ([]key, error)
}

const (
	// leeway is how far clocks may be apart.
	leeway = 30 * time.Second
	// accountPrefix begins the subjects of service accounts.
	accountPrefix = "system:serviceaccount:"
)

// methods are those that Kubernetes signs by. None takes a text as its key: so no public key can be taken for one.
var methods = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"}

func newIssuer(name string, i Issuer, log *zap.Logger) *issuer {
	one := &issuer{Issuer: i, name: name, parser: jwt.NewParser(jwt.WithValidMethods(methods), jwt.WithIssuer(i.Issuer),
		jwt.WithAudience(i.Audience), jwt.WithLeeway(leeway), jwt.WithExpirationRequired())}
	if i.KeysFile != "" {
		one.keys = keysOfFile(i.KeysFile, log)
	} else {
		one.keys = newFetched(name, i, log).find
	}
	return one
}

// claims are what is looked at in a token.
type claims = jwt.RegisteredClaims

// issuerOf is who a token says that it is from, which proves nothing; "": it is no token.
func issuerOf(token string) string {
	if strings.Count(token, ".") != 2 {
		return ""
	}
	var c claims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &c); err != nil {
		return ""
	}
	return c.Issuer
}

// knows reports whether a text is a token, good or not, that says that it is of one of ours.
func (c *Callers) knows(token string) bool {
	said := ""
	if len(c.issuers) > 0 {
		said = issuerOf(token)
	}
	for _, i := range c.issuers {
		if said != "" && said == i.Issuer.Issuer {
			return true
		}
	}
	return false
}

// verify is the service account that a token is proven to be of, and the name of its issuer. Two clusters may go by the
// same issuer: then it is that one whose key has signed it.
func (c *Callers) verify(ctx context.Context, token string) (account, by string, err error) {
	said := issuerOf(token)
	for _, i := range c.issuers {
		if said == "" || said != i.Issuer.Issuer {
			continue
		}
		one, why := i.verify(ctx, token)
		if why == nil {
			return one, i.name, nil
		}
		if err == nil || errors.Is(err, cache.ErrDenied) { // who cannot be asked may be the one
			err = why
		}
	}
	if err == nil {
		err = denied("the Authorization is no token of an issuer that is known here (door.issuers): send a service account's " +
			"token of a cluster that is, or a username and a password (Basic)")
	}
	return "", "", err
}

// verify is the service account that a token is proven to be of.
func (i *issuer) verify(ctx context.Context, token string) (account string, err error) {
	var c claims
	_, err = i.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string) // nothing else of the header is heeded
		return i.candidates(ctx, kid, t.Method.Alg())
	})
	switch {
	case errors.Is(err, context.Canceled):
		return "", err
	case errors.Is(err, cache.ErrUnavailable), errors.Is(err, context.DeadlineExceeded): // which the log has told
		return "", unavailable{fmt.Errorf("the token cannot be verified, as the keys of its issuer (door.issuers.%s) cannot be had: "+
			"try again in a moment; tidepool's log says why", i.name)}
	case errors.Is(err, jwt.ErrTokenExpired):
		return "", denied("the token has ended: send a new one; what writes it into a file must do so before it ends")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return "", denied("the token is for another audience: ask for one for " + i.Audience)
	case err != nil:
		return "", denied("the token does not hold: " + strings.ReplaceAll(err.Error(), "\n", ", "))
	}
	account, ok := strings.CutPrefix(c.Subject, accountPrefix)
	if !ok || !accountName.MatchString(account) {
		return "", denied("the token is no service account's: send one whose subject begins with " + accountPrefix)
	}
	return account, nil
}

// candidates are the keys that a token may be signed by.
func (i *issuer) candidates(ctx context.Context, kid, method string) (jwt.VerificationKeySet, error) {
	var set jwt.VerificationKeySet
	keys, err := i.keys(ctx, kid)
	for _, k := range keys {
		if k.fits(kid) && (k.method == "" || k.method == method) {
			set.Keys = append(set.Keys, k.public)
		}
	}
	if err == nil && len(set.Keys) == 0 {
		err = errors.New("it is signed by a key that its issuer does not have")
	}
	return set, err
}

// deniedError is a sentence about what a client shows.
type deniedError string

func denied(sentence string) error { return deniedError(sentence) }

func (e deniedError) Error() string        { return string(e) }
func (e deniedError) Is(target error) bool { return target == cache.ErrDenied }

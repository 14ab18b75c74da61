package hubtest

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Entra is Microsoft's token service at a host, for one tenant: it knows an application by its secret or by the token of
// a pod's service account.
func (g *Gate) Entra(host, tenant, client, secret, assertion string) http.Handler {
	return g.entra(host, tenant, func(form url.Values) bool {
		return form.Get("client_id") == client && (secret != "" && form.Get("client_secret") == secret ||
			assertion != "" && form.Get("client_assertion") == assertion)
	})
}

// EntraByCertificate is Entra for an application that signs with the key of a certificate.
func (g *Gate) EntraByCertificate(host, tenant, client string, key *rsa.PublicKey) http.Handler {
	return g.entra(host, tenant, func(form url.Values) bool {
		text, signature, _ := lastCut(form.Get("client_assertion"), ".")
		b, err := base64.RawURLEncoding.DecodeString(signature)
		hash := sha256.Sum256([]byte(text))
		return form.Get("client_id") == client && err == nil && rsa.VerifyPSS(key, crypto.SHA256, hash[:], b, nil) == nil
	})
}

func lastCut(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// entra is the service for those whom knows recognises by what they sent.
func (g *Gate) entra(host, tenant string, knows func(url.Values) bool) http.Handler {
	at := "https://" + host + "/" + tenant
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // what cannot be read is not there
		form := r.PostForm
		switch {
		case r.URL.Path == "/common/discovery/instance":
			reply(w, map[string]any{"tenant_discovery_endpoint": at + "/v2.0/.well-known/openid-configuration",
				"metadata": []any{map[string]any{"preferred_network": host, "preferred_cache": host, "aliases": []string{host}}}})
		case r.URL.Path == "/"+tenant+"/v2.0/.well-known/openid-configuration":
			reply(w, map[string]string{"issuer": at + "/v2.0", "authorization_endpoint": at + "/oauth2/v2.0/authorize",
				"token_endpoint": at + "/oauth2/v2.0/token"})
		case r.URL.Path != "/"+tenant+"/oauth2/v2.0/token":
			w.WriteHeader(http.StatusNotFound)
		case !knows(form):
			w.WriteHeader(http.StatusUnauthorized)
			reply(w, map[string]string{"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."})
		default:
			g.entraToken(w, form.Get("scope"))
		}
	})
}

// ManagedIdentity is the endpoint that tells a machine or an app in Azure who it is (IDENTITY_ENDPOINT).
func (g *Gate) ManagedIdentity(header string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Identity-Header") != header {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		g.entraToken(w, r.URL.Query().Get("resource")+"/.default")
	})
}

func (g *Gate) entraToken(w http.ResponseWriter, scope string) {
	pass, ok := g.issue("entra")
	if !ok || !strings.Contains(scope, "https://containerregistry.azure.net") {
		w.WriteHeader(http.StatusUnauthorized)
		reply(w, map[string]string{"error": "unauthorized_client", "error_description": "AADSTS700016: Application was not found."})
		return
	}
	reply(w, map[string]any{"access_token": pass, "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599,
		"expires_on": fmt.Sprint(time.Now().Add(time.Hour).Unix()), "resource": "https://containerregistry.azure.net"})
}

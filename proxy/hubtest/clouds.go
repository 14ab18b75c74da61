package hubtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// AWSKey is who asks an API of Amazon's.
type AWSKey struct{ ID, Secret string }

// ECRAPI is the API that gives out the passwords of a gate's ECR, to those who sign with key for the region. public is
// the one of ECR Public, which answers a little differently.
func (g *Gate) ECRAPI(key AWSKey, region string, public bool) http.Handler {
	service, target := "ecr", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
	if public {
		service, target = "ecr-public", "SpencerFrontendService.GetAuthorizationToken"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("X-Amz-Target") != target || !signed(r, body, key, region, service) {
			w.WriteHeader(http.StatusBadRequest)
			reply(w, map[string]string{"__type": "com.amazon#UnrecognizedClientException", "message": "The security token included in the request is invalid."})
			return
		}
		pass, ok := g.issue("ecr")
		if !ok {
			w.WriteHeader(http.StatusBadRequest)
			reply(w, map[string]string{"__type": "AccessDeniedException", "message": "not authorized to perform: ecr:GetAuthorizationToken"})
			return
		}
		one := map[string]any{
			"authorizationToken": base64.StdEncoding.EncodeToString([]byte("AWS:" + pass)),
			"expiresAt":          float64(time.Now().Add(12 * time.Hour).Unix()),
		}
		if public {
			reply(w, map[string]any{"authorizationData": one})
			return
		}
		reply(w, map[string]any{"authorizationData": []any{one}})
	})
}

// signed checks a request's signature (AWS Signature Version 4).
func signed(r *http.Request, body []byte, key AWSKey, region, service string) bool {
	auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	part := map[string]string{}
	for p := range strings.SplitSeq(auth, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		part[name] = value
	}
	date := r.Header.Get("X-Amz-Date")
	if !ok || len(date) < 8 || !slices.Contains(strings.Split(part["SignedHeaders"], ";"), "x-amz-target") {
		return false
	}
	scope := strings.Join([]string{date[:8], region, service, "aws4_request"}, "/")
	var headers string
	for name := range strings.SplitSeq(part["SignedHeaders"], ";") {
		value := r.Header.Get(name)
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		headers += name + ":" + value + "\n"
	}
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, headers, part["SignedHeaders"], sum(body)}, "\n")
	text := strings.Join([]string{"AWS4-HMAC-SHA256", date, scope, sum([]byte(canonical))}, "\n")
	k := []byte("AWS4" + key.Secret)
	for p := range strings.SplitSeq(scope, "/") {
		k = mac(k, p)
	}
	return part["Credential"] == key.ID+"/"+scope && part["Signature"] == hex.EncodeToString(mac(k, text))
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// GoogleMetadata is the metadata server of a machine whose service account's tokens are passwords of the gate's.
func (g *Gate) GoogleMetadata() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		switch {
		case r.Header.Get("Metadata-Flavor") != "Google":
			w.WriteHeader(http.StatusForbidden)
		case strings.HasSuffix(r.URL.Path, "/service-accounts/default/token"):
			pass, ok := g.issue("google")
			if !ok {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			reply(w, map[string]any{"access_token": pass, "expires_in": 3599, "token_type": "Bearer"})
		case strings.HasSuffix(r.URL.Path, "/project/project-id"):
			fmt.Fprint(w, "tidepool-test")
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

// Entra is Microsoft's token service at a host, for one tenant: it knows an application by its secret or by the token of
// a pod's service account.
func (g *Gate) Entra(host, tenant, client, secret, assertion string) http.Handler {
	at := "https://" + host + "/" + tenant
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // what cannot be read is not there
		form := r.PostForm
		known := form.Get("client_id") == client && (form.Get("client_secret") == secret || assertion != "" && form.Get("client_assertion") == assertion)
		switch {
		case r.URL.Path == "/common/discovery/instance":
			reply(w, map[string]any{"tenant_discovery_endpoint": at + "/v2.0/.well-known/openid-configuration",
				"metadata": []any{map[string]any{"preferred_network": host, "preferred_cache": host, "aliases": []string{host}}}})
		case r.URL.Path == "/"+tenant+"/v2.0/.well-known/openid-configuration":
			reply(w, map[string]string{"issuer": at + "/v2.0", "authorization_endpoint": at + "/oauth2/v2.0/authorize",
				"token_endpoint": at + "/oauth2/v2.0/token"})
		case r.URL.Path != "/"+tenant+"/oauth2/v2.0/token":
			w.WriteHeader(http.StatusNotFound)
		case !known:
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

// ACR is what Azure's registries have beside the API: they exchange Entra's tokens for refresh tokens, and those for
// access tokens.
func (g *Gate) ACR(registry string, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/oauth2/exchange" && r.URL.Path != "/oauth2/token" {
			api.ServeHTTP(w, r)
			return
		}
		_ = r.ParseForm() // what cannot be read is not there
		form := r.PostForm
		repo := strings.TrimSuffix(strings.TrimPrefix(form.Get("scope"), "repository:"), ":pull")
		switch {
		case form.Get("service") != registry:
			refuse(w, http.StatusBadRequest, "UNKNOWN", "service")
		case r.URL.Path == "/oauth2/exchange" && form.Get("grant_type") == "access_token" && g.knows(form.Get("access_token"), "entra"):
			g.answerToken(w, "acr", "refresh_token")
		case r.URL.Path == "/oauth2/token" && form.Get("grant_type") == "refresh_token" && g.knows(form.Get("refresh_token"), "acr"):
			g.answerToken(w, repo, "access_token")
		default:
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required, visit https://aka.ms/acr/authorization for more information.")
		}
	})
}

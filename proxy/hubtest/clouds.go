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

// Container is the endpoint that tells a container its role's credentials, for who shows the token that it was given.
func (key AWSKey) Container(authorization string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != authorization {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		reply(w, map[string]string{"AccessKeyId": key.ID, "SecretAccessKey": key.Secret, "Token": Marker + "-session",
			"Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
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

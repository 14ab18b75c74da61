package cloud

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// metadataAt serves a metadata server whose tokens are text.
func metadataAt(t *testing.T, text string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		if r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/token" || r.URL.Query().Get("scopes") != googleScope ||
			r.Header.Get("Metadata-Flavor") != "Google" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Write([]byte(text))
	}))
	t.Cleanup(s.Close)
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(s.URL, "http://"))
}

// Without a file of credentials the metadata server is asked, each time.
func TestGoogleByMachine(t *testing.T) {
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("HOME", t.TempDir())
	metadataAt(t, `{"access": "s3cr3t"}`)
	if _, err := Google(t.Context(), "gcr.io"); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("%v", err)
	}
	metadataAt(t, `{"access_token": "s3cr3t", "expires_in": 3599, "token_type": "Bearer"}`)
	made, err := Google(t.Context(), "gcr.io")
	if err != nil || made.Username != "oauth2accesstoken" || string(made.Password) != "s3cr3t" || time.Until(made.Until) < 59*time.Minute {
		t.Errorf("%+v, %v", made, err)
	}
}

// A file of credentials stands before the machine's own, also where it cannot be used.
func TestGoogleByFile(t *testing.T) {
	metadataAt(t, `{"access_token": "the machine's", "expires_in": 3599}`)
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Header().Set("Content-Type", "application/json")
		if r.FormValue("refresh_token") != "s3cr3t" {
			w.WriteHeader(http.StatusBadRequest)
			w.Write([]byte(`{"error": "invalid_grant", "error_description": "Bad Request", "was": "` + r.FormValue("refresh_token") + `"}`))
			return
		}
		w.Write([]byte(`{"access_token": "the file's", "expires_in": 3599, "token_type": "Bearer"}`))
	}))
	defer s.Close()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	for file, env := range map[string]bool{gcloudFile(): false, filepath.Join(home, "key.json"): true} {
		t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", map[bool]string{true: file}[env])
		for doc, want := range map[string]string{
			`{"type": "external_account_authorized_user", "audience": "a", "refresh_token": "s3cr3t", "token_url": "` + s.URL + `", "client_id": "c", "client_secret": "s"}`:       "the file's",
			`{"type": "external_account_authorized_user", "audience": "a", "refresh_token": "s3cr3t-wrong", "token_url": "` + s.URL + `", "client_id": "c", "client_secret": "s"}`: "",
			`no JSON s3cr3t`: "",
		} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(doc), 0o600)); err != nil {
				t.Fatal(err)
			}
			made, err := Google(t.Context(), "gcr.io")
			if string(made.Password) != want || (err == nil) != (want != "") || err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("%s: %q, %v", doc, string(made.Password), err)
			}
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	if asked == 0 {
		t.Error("the file's own server was not asked")
	}
}

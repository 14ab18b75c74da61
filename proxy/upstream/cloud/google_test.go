package cloud

import (
	"net/http"
	"net/http/httptest"
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

// A metadata server that was not there at first is asked all the same.
func TestMachine(t *testing.T) {
	metadataAt(t, `{"access_token": "s3cr3t", "expires_in": 3599, "token_type": "Bearer"}`)
	made, err := machine(t.Context())
	if err != nil || made.Username != "oauth2accesstoken" || string(made.Password) != "s3cr3t" || time.Until(made.Until) < 59*time.Minute {
		t.Errorf("%+v, %v", made, err)
	}
	metadataAt(t, `{"access": "s3cr3t"}`)
	if _, err := machine(t.Context()); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("%v", err)
	}
}

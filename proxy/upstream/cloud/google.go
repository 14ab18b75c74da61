package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloud.google.com/go/compute/metadata"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// googleScope is what Artifact Registry and Container Registry ask of a token; the roles of who it is for say what it
// may do.
const googleScope = "https://www.googleapis.com/auth/cloud-platform"

// googleUser is whose password an access token is.
const googleUser = "oauth2accesstoken"

// Google makes logins at Google's registries, as whom the application default credentials are for: the file in
// GOOGLE_APPLICATION_CREDENTIALS, gcloud's own, or the service account of the machine or the pod that this runs on. It
// is an upstream.Maker.
func Google(ctx context.Context, _ string) (upstream.Made, error) {
	if os.Getenv("GOOGLE_APPLICATION_CREDENTIALS") == "" && !exists(gcloudFile()) {
		return machine(ctx)
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client())
	who, err := google.FindDefaultCredentials(ctx, googleScope)
	if err != nil {
		return upstream.Made{}, fmt.Errorf("credentials of Google's cannot be used: %w", err)
	}
	t, err := who.TokenSource.Token()
	if err != nil {
		return upstream.Made{}, fmt.Errorf("Google gave no token: %s", withoutAnswer(err))
	}
	return upstream.Made{Username: googleUser, Password: upstream.Secret(t.AccessToken), Until: t.Expiry}, nil
}

// withoutAnswer is err without the answer that the library repeats in it whole, but for the reason that it gives.
func withoutAnswer(err error) string {
	text, answer, found := strings.Cut(err.Error(), "{")
	if !found {
		return text
	}
	var said struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.NewDecoder(strings.NewReader("{"+answer)).Decode(&said) != nil || said.Error == "" {
		said.Error = "it did not say why"
	}
	return strings.TrimSpace(text + said.Error + " " + said.Description)
}

// gcloudFile is where `gcloud auth application-default login` leaves credentials.
func gcloudFile() string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".config", "gcloud", "application_default_credentials.json")
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// machine asks the metadata server. The library's own way there looks for it once in a process, so that a pod that asked
// too early would never find it, and heeds no time but its own.
func machine(ctx context.Context) (upstream.Made, error) {
	asked := time.Now()
	text, err := metadata.NewClient(direct()).GetWithContext(ctx, "instance/service-accounts/default/token?scopes="+url.QueryEscape(googleScope))
	if err != nil {
		return upstream.Made{}, fmt.Errorf("Google knows no credentials for us: there is no file of them, and the metadata server gives none: %w", err)
	}
	var doc struct {
		Token string `json:"access_token"`
		Life  int    `json:"expires_in"`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil || doc.Token == "" {
		return upstream.Made{}, errors.New("Google gave no token: the metadata server's answer holds none")
	}
	return upstream.Made{Username: googleUser, Password: upstream.Secret(doc.Token), Until: asked.Add(time.Duration(doc.Life) * time.Second)}, nil
}

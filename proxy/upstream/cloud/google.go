package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
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
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client())
	who, err := google.FindDefaultCredentials(ctx, googleScope)
	switch {
	case err != nil && strings.Contains(err.Error(), "could not find default credentials"):
		return machine(ctx)
	case err != nil:
		return upstream.Made{}, fmt.Errorf("Google knows no credentials for us: %w", err)
	}
	t, err := who.TokenSource.Token()
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused) && refused.Response != nil: // its text is the whole answer
		return upstream.Made{}, fmt.Errorf("Google gave no token: %s %s %s", refused.Response.Status, refused.ErrorCode, refused.ErrorDescription)
	case err != nil:
		return upstream.Made{}, fmt.Errorf("Google gave no token: %w", err)
	}
	return upstream.Made{Username: googleUser, Password: upstream.Secret(t.AccessToken), Until: t.Expiry}, nil
}

// machine asks the metadata server without believing that there is none: the library looks for it once, and where that
// was too early, as in a pod that has just started, it never would again.
func machine(ctx context.Context) (upstream.Made, error) {
	asked := time.Now()
	text, err := metadata.NewClient(client()).GetWithContext(ctx, "instance/service-accounts/default/token?scopes="+url.QueryEscape(googleScope))
	if err != nil {
		return upstream.Made{}, fmt.Errorf("Google knows no credentials for us: there is no file of them, and no metadata server: %w", err)
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

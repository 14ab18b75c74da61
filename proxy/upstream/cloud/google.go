package cloud

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// googleScope is what Artifact Registry and Container Registry ask of a token; the roles of who it is for say what it
// may do.
const googleScope = "https://www.googleapis.com/auth/cloud-platform"

// Google makes logins at Google's registries, as whom the application default credentials are for: the file in
// GOOGLE_APPLICATION_CREDENTIALS, gcloud's own, or the service account of the machine or the pod that this runs on. It
// is an upstream.Maker.
func Google(ctx context.Context, _ string) (upstream.Made, error) {
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client())
	who, err := google.FindDefaultCredentials(ctx, googleScope)
	if err != nil {
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
	return upstream.Made{Username: "oauth2accesstoken", Password: upstream.Secret(t.AccessToken), Until: t.Expiry}, nil
}

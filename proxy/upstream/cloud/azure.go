package cloud

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// azureScope is the registries' own, in each of Azure's clouds.
const azureScope = "https://containerregistry.azure.net/.default"

// The identities that Azure may know us by.
const (
	AzureDefault     = "default"     // the first of the SDK's chain that answers: environment, workload, managed, the az command
	AzureManaged     = "managed"     // the machine's, or with a client that which is assigned to it
	AzureWorkload    = "workload"    // a pod's, by its service account
	AzureSecret      = "secret"      // an application's, by a secret
	AzureCertificate = "certificate" // an application's, by a certificate
)

// Azure makes logins at Azure's registries. The zero value is AzureDefault.
type Azure struct {
	Identity        string // one of the above
	Tenant          string // of the application; empty, for a workload: as the environment has it
	Client          string // its ID, or that of a managed or workload identity
	SecretFile      string // of AzureSecret; its last line end does not count
	CertificateFile string // of AzureCertificate: PEM, its key included, or PKCS #12 without a password
	Authority       string // "https://login.microsoftonline.us/"; empty: AZURE_AUTHORITY_HOST, or the public cloud's
}

// Make asks Microsoft Entra for a token, which the registry itself exchanges. It is an upstream.Maker.
func (a Azure) Make(ctx context.Context, _ string) (upstream.Made, error) {
	who, secret, err := a.credential()
	if err != nil {
		return upstream.Made{}, fmt.Errorf("Azure knows no %s identity for us: %s", a.Identity, oneCause(err, secret))
	}
	t, err := who.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{azureScope}})
	if err != nil {
		return upstream.Made{}, fmt.Errorf("Azure gave no token: %s", oneCause(err, secret))
	}
	return upstream.Made{Password: upstream.Secret(t.Token), Until: t.ExpiresOn, Exchange: true}, nil
}

// credential is who we are to Azure, and the secret that says so, if there is one.
func (a Azure) credential() (who azcore.TokenCredential, secret string, err error) {
	o := azcore.ClientOptions{Transport: client()}
	private := a.Authority != "" // nobody else is asked whether it is one of Azure's
	if private {
		o.Cloud = azcloud.Configuration{ActiveDirectoryAuthorityHost: a.Authority}
	}
	switch a.Identity {
	case AzureManaged:
		o.Transport = direct()
		m := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: o}
		if a.Client != "" {
			m.ID = azidentity.ClientID(a.Client)
		}
		who, err = azidentity.NewManagedIdentityCredential(m)
	case AzureWorkload:
		who, err = azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
			ClientOptions: o, ClientID: a.Client, TenantID: a.Tenant, DisableInstanceDiscovery: private})
	case AzureSecret:
		var b []byte
		if b, err = os.ReadFile(a.SecretFile); err != nil {
			return nil, "", err
		}
		secret = strings.TrimRight(string(b), "\r\n")
		who, err = azidentity.NewClientSecretCredential(a.Tenant, a.Client, secret,
			&azidentity.ClientSecretCredentialOptions{ClientOptions: o, DisableInstanceDiscovery: private})
	case AzureCertificate:
		who, err = a.certificate(o, private)
	default:
		who, err = azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
			ClientOptions: o, TenantID: a.Tenant, DisableInstanceDiscovery: private})
	}
	return who, secret, err
}

func (a Azure) certificate(o azcore.ClientOptions, private bool) (azcore.TokenCredential, error) {
	b, err := os.ReadFile(a.CertificateFile)
	if err != nil {
		return nil, err
	}
	certs, key, err := azidentity.ParseCertificates(b, nil)
	if err != nil {
		return nil, errors.New(a.CertificateFile + " holds no certificate with its key, in PEM or PKCS #12 without a password")
	}
	return azidentity.NewClientCertificateCredential(a.Tenant, a.Client, certs, key,
		&azidentity.ClientCertificateCredentialOptions{ClientOptions: o, DisableInstanceDiscovery: private})
}

// oneCause is the part of an error that a person needs: the SDK's runs over a page, with the whole answer in it.
func oneCause(err error, secret string) string {
	text := err.Error()
	if i := strings.Index(text, "AADSTS"); i >= 0 { // Entra's own reason
		text = text[i:]
		if end := strings.IndexAny(text, "\r\n\"\\"); end > 0 {
			text = text[:end]
		}
	}
	if secret != "" {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "-----", "")), " ")
}

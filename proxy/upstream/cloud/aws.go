package cloud

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// AWS makes logins at Amazon's registries, as whom the SDK's default chain finds: the AWS_ variables, a profile of the
// shared files, a web identity, a container's or an instance's role. The zero value works on the registries' own hosts.
type AWS struct {
	Registry string // its name, which tells the region where the endpoint's host does not
	Region   string // empty: as the host, the name or the AWS configuration has it
	Profile  string // of the shared configuration files, with the role that it assumes; empty: the usual one
}

// public is the registry that is one for the whole world, and publicRegion where its API is.
const public, publicRegion = "public.ecr.aws", "us-east-1"

// privateHost is a private registry's host: its account, its kind, its region and its partition.
var privateHost = regexp.MustCompile(`^\d{12}\.dkr([.-])ecr(-fips)?\.([a-z0-9-]+)\.([a-z0-9.-]+)$`)

// Make asks for an authorization token, which is good for twelve hours. It is an upstream.Maker.
func (a AWS) Make(ctx context.Context, host string) (upstream.Made, error) {
	api := a.api(host)
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(api.region), config.WithSharedConfigProfile(a.Profile),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })))
	if err != nil {
		return upstream.Made{}, fmt.Errorf("the AWS configuration cannot be used: %w", harmless(err))
	}
	api.region = cmp.Or(api.region, cfg.Region)
	if api.region == "" {
		return upstream.Made{}, fmt.Errorf("the AWS region of %s is not known; name it (region under aws)", host)
	}
	who, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return upstream.Made{}, fmt.Errorf("AWS knows no credentials for us: %w", harmless(err))
	}
	return api.token(ctx, cfg.HTTPClient, who)
}

// harmless is err without what a program printed instead of credentials, which may be credentials.
func harmless(err error) error {
	text, _, _ := strings.Cut(err.Error(), "process output:")
	return errors.New(text)
}

// ecrAPI is one of the APIs that hand out authorization tokens.
type ecrAPI struct{ url, service, region, target string }

// api is the API for the registry on a host.
func (a AWS) api(host string) ecrAPI {
	if host == public || a.Registry == public {
		return ecrAPI{
			url:     cmp.Or(endpoint("ECR_PUBLIC"), "https://api.ecr-public."+publicRegion+".amazonaws.com/"),
			service: "ecr-public", region: publicRegion, target: "SpencerFrontendService",
		}
	}
	at := privateHost.FindStringSubmatch(host)
	if at == nil {
		at = privateHost.FindStringSubmatch(a.Registry)
	}
	if at == nil {
		at = []string{"", ".", "", "", ""}
	}
	region := cmp.Or(a.Region, at[3])
	return ecrAPI{
		url:     cmp.Or(endpoint("ECR"), apiURL(region, at[1] == "-", at[2], at[4])),
		service: "ecr", region: region, target: "AmazonEC2ContainerRegistry_V20150921",
	}
}

// apiURL is where the API of a region is; empty where the region is not known.
func apiURL(region string, dual bool, fips, partition string) string {
	switch china := strings.HasPrefix(region, "cn-"); {
	case region == "":
		return ""
	case dual && china:
		return "https://ecr" + fips + "." + region + ".api.amazonwebservices.com.cn/"
	case dual:
		return "https://ecr" + fips + "." + region + ".api.aws/"
	case china:
		partition = "amazonaws.com.cn"
	}
	name := "api.ecr."
	if fips != "" {
		name = "ecr-fips."
	}
	return "https://" + name + region + "." + cmp.Or(partition, "amazonaws.com") + "/"
}

// endpoint is what the SDK's variables say of where a service is.
func endpoint(service string) string {
	return cmp.Or(os.Getenv("AWS_ENDPOINT_URL_"+service), os.Getenv("AWS_ENDPOINT_URL"))
}

// maxAnswer bounds what an API says, in bytes; a token has about two thousand.
const maxAnswer = 64 << 10

// token asks the API for a token. The one call is signed and read here: the client of the whole service would make the
// program larger by a third of what all of AWS does.
func (api ecrAPI) token(ctx context.Context, client aws.HTTPClient, who aws.Credentials) (upstream.Made, error) {
	if api.url == "" { // the region came from the AWS configuration
		api.url = apiURL(api.region, false, "", "")
	}
	body := []byte("{}")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, api.url, bytes.NewReader(body))
	if err != nil {
		return upstream.Made{}, errors.New("the endpoint of AWS in the environment is no URL")
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", api.target+".GetAuthorizationToken")
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, who, req, hex.EncodeToString(sum[:]), api.service, api.region, time.Now()); err != nil {
		return upstream.Made{}, fmt.Errorf("a request to %s cannot be signed: %w", req.URL.Host, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return upstream.Made{}, fmt.Errorf("%s gave no login: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return upstream.Made{}, fmt.Errorf("%s gave no login: %w", req.URL.Host, err)
	}
	if resp.StatusCode != http.StatusOK {
		return upstream.Made{}, fmt.Errorf("%s gave no login: %s", req.URL.Host, refusal(resp.Status, b, who.SecretAccessKey, who.SessionToken))
	}
	made, err := parseToken(b)
	if err != nil {
		return upstream.Made{}, fmt.Errorf("%s gave no login: %w", req.URL.Host, err)
	}
	return made, nil
}

// refusal is what AWS says of why not: the name of the exception, and the first line of its message, which names who
// asked and for what. Those behind it may repeat the whole request, with the session's token.
func refusal(status string, body []byte, secrets ...string) string {
	var doc struct {
		Type    string `json:"__type"`
		Message string
	}
	if json.Unmarshal(body, &doc) != nil || doc.Type == "" {
		return status
	}
	message, _, _ := strings.Cut(doc.Message, "\n")
	for _, secret := range secrets {
		if secret != "" {
			message = strings.ReplaceAll(message, secret, "***")
		}
	}
	return strings.TrimSuffix(doc.Type[strings.LastIndexByte(doc.Type, '#')+1:]+": "+message, ": ")
}

type authorization struct {
	Token string  `json:"authorizationToken"`
	Until float64 `json:"expiresAt"` // seconds since 1970
}

// parseToken reads an answer: a list from the private registry, one from the public.
func parseToken(b []byte) (upstream.Made, error) {
	var doc struct{ AuthorizationData json.RawMessage }
	var one authorization
	var list []authorization
	if err := json.Unmarshal(b, &doc); err != nil {
		return upstream.Made{}, errors.New("the answer is no JSON document")
	}
	if json.Unmarshal(doc.AuthorizationData, &list) == nil && len(list) > 0 {
		one = list[0]
	} else if json.Unmarshal(doc.AuthorizationData, &one) != nil {
		return upstream.Made{}, errors.New("the answer holds no authorization")
	}
	text, err := base64.StdEncoding.DecodeString(one.Token)
	username, password, ok := strings.Cut(string(text), ":")
	if err != nil || !ok || password == "" {
		return upstream.Made{}, errors.New("the answer holds no token")
	}
	return upstream.Made{Username: username, Password: upstream.Secret(password), Until: time.Unix(int64(one.Until), 0)}, nil
}

package cloud

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The region and the API follow from the registry's host; where that says nothing, from its name or from what was said.
func TestAPI(t *testing.T) {
	for _, c := range []struct {
		host string
		a    AWS
		url  string
	}{
		{"123456789012.dkr.ecr.eu-west-1.amazonaws.com", AWS{}, "https://api.ecr.eu-west-1.amazonaws.com/"},
		{"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", AWS{}, "https://api.ecr.cn-north-1.amazonaws.com.cn/"},
		{"123456789012.dkr.ecr-fips.us-east-1.amazonaws.com", AWS{}, "https://ecr-fips.us-east-1.amazonaws.com/"},
		{"123456789012.dkr-ecr.eu-west-1.on.aws", AWS{}, "https://ecr.eu-west-1.api.aws/"},
		{"123456789012.dkr-ecr-fips.us-east-1.on.aws", AWS{}, "https://ecr-fips.us-east-1.api.aws/"},
		{"123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn", AWS{}, "https://ecr.cn-north-1.api.amazonwebservices.com.cn/"},
		{"ecr.corp", AWS{Registry: "123456789012.dkr.ecr.ap-south-1.amazonaws.com"}, "https://api.ecr.ap-south-1.amazonaws.com/"},
		{"ecr.corp", AWS{Region: "eu-west-3"}, "https://api.ecr.eu-west-3.amazonaws.com/"},
		{"ecr.corp", AWS{Region: "cn-north-1"}, "https://api.ecr.cn-north-1.amazonaws.com.cn/"},
		{"ecr.corp", AWS{}, ""}, // the AWS configuration may know
		{"public.ecr.aws", AWS{}, "https://api.ecr-public.us-east-1.amazonaws.com/"},
		{"mirror.corp", AWS{Registry: "public.ecr.aws"}, "https://api.ecr-public.us-east-1.amazonaws.com/"},
		// Another's host leads to nobody's API.
		{"123456789012.dkr.ecr.eu-west-1.amazonaws.com/x", AWS{}, ""},
		{"x.123456789012.dkr.ecr.eu-west-1.amazonaws.com", AWS{}, ""},
	} {
		if got := c.a.api(c.host).url; got != c.url {
			t.Errorf("%s, %+v: got %q, want %q", c.host, c.a, got, c.url)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL_ECR", "http://127.0.0.1:1/")
	if got := (AWS{}).api("123456789012.dkr.ecr.eu-west-1.amazonaws.com"); got.url != "http://127.0.0.1:1/" || got.region != "eu-west-1" {
		t.Errorf("%+v", got)
	}
}

func TestParseToken(t *testing.T) {
	token := base64.StdEncoding.EncodeToString([]byte("AWS:s3cr3t:with:colons"))
	one := fmt.Sprintf(`{"authorizationToken": %q, "expiresAt": 1.7e9, "proxyEndpoint": "https://x"}`, token)
	for _, doc := range []string{`{"authorizationData": [` + one + `]}`, `{"authorizationData": ` + one + `}`} {
		got, err := parseToken([]byte(doc))
		if err != nil || got.Username != "AWS" || string(got.Password) != "s3cr3t:with:colons" || !got.Until.Equal(time.Unix(1.7e9, 0)) {
			t.Errorf("%s: %+v, %v", doc, got, err)
		}
	}
	for _, doc := range []string{``, `[]`, `{}`, `{"authorizationData": []}`, `{"authorizationData": [{}]}`, `{"authorizationData": "x"}`,
		`{"authorizationData": [{"authorizationToken": "QVdTOg=="}]}`, `{"authorizationData": [{"authorizationToken": "s3cr3t"}]}`} {
		if got, err := parseToken([]byte(doc)); err == nil {
			t.Errorf("%q: %+v", doc, got)
		} else if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%v", err)
		}
	}
}

func TestErrorsSayWhyAndNoSecret(t *testing.T) {
	for got, want := range map[string]string{
		refusal("400 Bad Request", []byte(`{"__type": "com.amazon#AccessDeniedException", "message": "not authorized"}`)):                                                                    "AccessDeniedException: not authorized",
		refusal("403 Forbidden", []byte(`{"__type": "InvalidSignatureException", "message": "no match for s3cr3t.\n\nThe Canonical String was x-amz-security-token:s3cr3t"}`), "", "s3cr3t"): "InvalidSignatureException: no match for ***.",
		refusal("502 Bad Gateway", []byte(`<html>`)):                                      "502 Bad Gateway",
		harmless(errors.New("parse failed of process output: {s3cr3t, error: x")).Error(): "parse failed of ",
		oneCause(errors.New("POST https://x\n--------\n{\n  \"error_description\": \"AADSTS7000215: Invalid client secret provided s3cr3t.\\r\\nTrace ID: 1\"\n}"), "s3cr3t"): "AADSTS7000215: Invalid client secret provided ***.",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

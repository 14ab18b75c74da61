package origintest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Push puts the image into a real registry at base, "http://user:password@127.0.0.1:5000" or without a login: blobs
// first, the top manifest last, under tag unless that is empty.
func (img *Image) Push(ctx context.Context, base, repo, tag string) error {
	u, err := url.Parse(base)
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	p := pusher{u.JoinPath("v2", repo), u.User}
	for _, b := range img.Blobs {
		if err := p.blob(ctx, b); err != nil {
			return fmt.Errorf("push blob %s: %w", b.Digest, err)
		}
	}
	for _, m := range img.Manifests {
		ref := m.Digest.String()
		if tag != "" && m.Digest == img.Top.Digest {
			ref = tag
		}
		if _, err := p.do(ctx, http.MethodPut, p.repo.JoinPath("manifests", ref), m); err != nil {
			return fmt.Errorf("push manifest %s: %w", ref, err)
		}
	}
	return nil
}

// pusher speaks the distribution spec's push side, in one piece ("Single POST and PUT").
type pusher struct {
	repo  *url.URL
	login *url.Userinfo
}

func (p pusher) blob(ctx context.Context, b Item) error {
	begin, err := p.do(ctx, http.MethodPost, p.repo.JoinPath("blobs", "uploads/"), Item{})
	if err != nil {
		return err
	}
	to, err := begin.Request.URL.Parse(begin.Header.Get("Location"))
	if err != nil {
		return err
	}
	q := to.Query()
	q.Set("digest", b.Digest.String())
	to.RawQuery = q.Encode()
	b.MediaType = "application/octet-stream"
	_, err = p.do(ctx, http.MethodPut, to, b)
	return err
}

// do sends it as a request's body, and returns the answer, its body closed, where it is a success.
func (p pusher) do(ctx context.Context, method string, to *url.URL, it Item) (*http.Response, error) {
	var body io.Reader = http.NoBody
	if it.Size > 0 {
		body = it.Content.Reader(0, -1)
	}
	req, err := http.NewRequestWithContext(ctx, method, to.String(), body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = it.Size
	if it.MediaType != "" {
		req.Header.Set("Content-Type", it.MediaType)
	}
	if password, ok := p.login.Password(); ok {
		req.SetBasicAuth(p.login.Username(), password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // as much as there is: it is for people
		return nil, fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(said)))
	}
	return resp, nil
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// there is a tidepool that runs, as the commands that talk to one find it: by its admin listener.
type there struct {
	url    string // of the admin listener, without a slash at its end
	client *http.Client
}

const (
	// answerTime is for a short question: who takes longer does not answer. Docker's own limit for a health check is 30 s.
	answerTime = 5 * time.Second
	// mostAnswer is ten times the longest document of the admin API, a full table of what was saved.
	mostAnswer = 4 << 20
	// mostReason is as much of a refusal's text as is shown.
	mostReason = 1 << 10
	// thisSchema is the one of all documents of the admin API.
	thisSchema = 1
)

// server gives cmd the flags that say where a tidepool runs, and returns what finds it.
func server(cmd *cobra.Command) func() (*there, error) {
	load := settings(cmd, "admin")
	flag := cmd.Flags().String("server", "", "`URL` of the admin listener (default: $TIDEPOOL_SERVER, else what the configuration says)")
	return func() (*there, error) {
		said := *flag
		if said == "" && !cmd.Flags().Changed("admin") {
			said = os.Getenv("TIDEPOOL_SERVER")
		}
		if said != "" {
			url, err := adminURL(said)
			if err != nil {
				return nil, err
			}
			return at(url), nil
		}
		cfg, err := load()
		if err != nil {
			return nil, fmt.Errorf("no configuration to find the admin listener by (--server URL says where it is): %v", err) // no %w: the exit code is 1
		}
		if cfg.Admin == config.Off {
			return nil, fmt.Errorf("there is no admin listener to ask: admin is %s", config.Off)
		}
		return at("http://" + reachable(string(cfg.Admin))), nil
	}
}

// adminURL reads what a person writes for the address of an admin listener.
func adminURL(said string) (string, error) {
	text := said
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" {
		return strings.TrimRight(text, "/"), nil
	}
	if strings.Contains(said, "@") {
		said = "what has an @ in it" // and so may have a password
	}
	return "", usageError{fmt.Errorf("--server (or TIDEPOOL_SERVER): %q is not the URL of an admin listener: write it as http://127.0.0.1:5001", said)}
}

// at is the tidepool whose admin listener has a URL. It is asked itself: by no proxy, and nobody that it would lead to.
func at(url string) *there {
	return &there{url: url, client: &http.Client{
		Transport:     &http.Transport{MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// document asks for a document of the admin API, reads it into doc, and returns it as it came.
func (t *there) document(ctx context.Context, path string, doc any) (json.RawMessage, error) {
	status, body, err := t.ask(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return t.read(path, status, body, doc)
}

// show asks for a document and shows it: as it came, or as people read it.
func show[D any](cmd *cobra.Command, t *there, path string, asJSON bool, forPeople func(io.Writer, D) error) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
	defer cancel()
	var doc D
	raw, err := t.document(ctx, path, &doc)
	switch {
	case err != nil:
		return err
	case asJSON:
		_, err = fmt.Fprintln(cmd.OutOrStdout(), string(raw))
		return err
	}
	return forPeople(cmd.OutOrStdout(), doc)
}

// read reads a document of the admin API.
func (t *there) read(path string, status int, body []byte, doc any) (json.RawMessage, error) {
	var head struct {
		Schema int
		Error  string
	}
	err := json.Unmarshal(body, &head)
	switch {
	case status != http.StatusOK && head.Schema == thisSchema && head.Error != "":
		return nil, fmt.Errorf("%s%s: %s", t.url, path, reason([]byte(head.Error)))
	case status != http.StatusOK:
		return nil, t.stranger(path, "the answer is "+spelled(status))
	case err != nil || head.Schema == 0:
		return nil, t.stranger(path, "the answer is no such document")
	case head.Schema != thisSchema:
		return nil, fmt.Errorf("%s%s is of schema %d, and this tidepool (%s) reads %d: ask with the version that runs there",
			t.url, path, head.Schema, build().Version, thisSchema)
	}
	if err := json.Unmarshal(body, doc); err != nil {
		return nil, t.stranger(path, "the answer is no such document: "+printable(err.Error()))
	}
	return body, nil
}

// text asks for something that is no document, and wants a 200.
func (t *there) text(ctx context.Context, path string) (string, error) {
	status, body, err := t.ask(ctx, http.MethodGet, path, nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s%s: %s: %s", t.url, path, spelled(status), reason(body))
	}
	return string(body), err
}

// ask brings an answer, whole.
func (t *there) ask(ctx context.Context, method, path string, said any) (status int, body []byte, err error) {
	began := time.Now()
	resp, err := t.begin(ctx, method, path, said)
	if err == nil {
		defer resp.Body.Close()
		status = resp.StatusCode
		body, err = io.ReadAll(io.LimitReader(resp.Body, mostAnswer+1))
	}
	return status, body, t.trouble(ctx, path, began, len(body), err)
}

// begin sends a request, with a body where something is said, and returns the head of its answer.
func (t *there) begin(ctx context.Context, method, path string, said any) (*http.Response, error) {
	var body io.Reader
	if said != nil {
		b, err := json.Marshal(said)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, t.url+path, body)
	if err != nil {
		return nil, err
	}
	if said != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return t.client.Do(req)
}

// trouble is what there is to say of an answer of so many bytes that ended with err.
func (t *there) trouble(ctx context.Context, path string, began time.Time, got int, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("interrupted before %s had answered", t.url)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("no tidepool answers at %s within %v: does it hang, or is something else there?", t.url, time.Since(began).Round(time.Second))
	case err != nil:
		return fmt.Errorf("no tidepool answers at %s: %w; is it running, and is this its admin listener? (--server URL names another)", t.url, plain(err))
	case got > mostAnswer:
		return t.stranger(path, fmt.Sprintf("the answer has no end within %d MiB", mostAnswer>>20))
	}
	return nil
}

// stranger is the error for an answer that no tidepool gives.
func (t *there) stranger(path, why string) error {
	return fmt.Errorf("%s is no tidepool's admin listener, or that of a version without %s: %s; --server URL names another (clients' own listener is not it)",
		t.url, path, why)
}

// plain is err without what is said already.
func plain(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		return outer.Err
	}
	return err
}

func spelled(status int) string {
	return strings.TrimSpace(fmt.Sprint(status, " ", http.StatusText(status)))
}

// reason is what there is to read in the text of a refusal.
func reason(text []byte) string {
	return printable(strings.TrimSpace(string(text[:min(len(text), mostReason)])))
}

// reachable is an address at which this machine reaches what listens on addr: where that is every address, loopback.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

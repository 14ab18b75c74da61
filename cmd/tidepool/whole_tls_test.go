package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// secure is a tidepool before o that clients come to by TLS, over loopback.
func secure(t *testing.T, o *origintest.Origin) (*doors, *pool) {
	t.Helper()
	d := newDoors(t)
	p := plan{hubs: map[string]string{"docker.io": origintest.Serve(t, o).URL}}
	d.open(&p)
	return d, fill(t, p)
}

// speak has w's client come in by HTTP/2, or by HTTP/1.1.
func (d *doors) speak(w *pool, proto string) {
	w.client = w.newClient()
	w.client.Transport.(*http.Transport).ForceAttemptHTTP2 = proto == "HTTP/2.0"
}

// Over TLS an image comes by HTTP/2 and by HTTP/1.1 as it does without, in parts too; what turns out wrong does not end
// as if it were whole; and only TLS is spoken.
func TestPullsOverTLS(t *testing.T) {
	for _, proto := range []string{"HTTP/2.0", "HTTP/1.1"} {
		t.Run(proto, func(t *testing.T) {
			o := origintest.New()
			img := o.PutImage(repo, "latest", origintest.Spec{Layers: []origintest.Layer{{Size: 3 << 20, Form: origintest.Raw}, {Size: 1 << 20, Form: origintest.Raw}}})
			d, w := secure(t, o)
			d.speak(w, proto)
			defer w.client.CloseIdleConnections()
			for _, when := range []string{"cold", "warm"} {
				w.pulls("latest", img)
				res, err := w.ask(t.Context(), http.MethodGet, blobPath(img.Blobs[1].Digest), "Range", "bytes=100-99999")
				if err != nil {
					t.Fatal(err)
				}
				part, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || res.Proto != proto || !bytes.Equal(part, img.Blobs[1].Content.Bytes()[100:100000]) {
					t.Errorf("%s: %s, %d bytes, %v", when, res.Proto, len(part), err)
				}
			}
			bad := o.PutImage(repo, "bad", origintest.Spec{Seed: 9, Layers: []origintest.Layer{{Size: 2 << 20, Form: origintest.Raw}}})
			o.When(origintest.Blob).Flip(1 << 20)
			if a := w.get(blobPath(bad.Blobs[1].Digest)); a.err == nil && a.status == http.StatusOK {
				t.Errorf("a wrong blob ended as if it were whole: %v", a)
			}
			o.Heal()
			if a := w.get(strings.Replace(w.url, "https", "http", 1) + "/v2/"); a.status != http.StatusBadRequest {
				t.Errorf("plain http: %v", a)
			}
			if err := w.serves(t.Context()); err != nil {
				t.Errorf("the watchdog: %v", err)
			}
			w.keepsOnlyTruth()
		})
	}
}

// A client that shakes no hands, or reads nothing of what it asked for by HTTP/2, holds nobody else up, and the tidepool
// ends all the same.
func TestStuckOverTLS(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{Layers: []origintest.Layer{{Size: 8 << 20, Form: origintest.Raw}}})
	d, w := secure(t, o)
	silent, err := net.Dial("tcp", w.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d.speak(w, "HTTP/2.0")
	var unread []*http.Response
	for range 8 {
		res, err := w.ask(t.Context(), http.MethodGet, blobPath(img.Blobs[1].Digest))
		if err != nil {
			t.Fatal(err)
		}
		unread = append(unread, res)
	}
	own := w.client
	d.speak(w, "HTTP/2.0")
	w.pulls("latest", img)
	w.client.CloseIdleConnections()
	if _, err := bufio.NewReader(silent).ReadByte(); err == nil {
		t.Error("who shakes no hands is answered")
	} // within headerTimeout
	w.client = own
	for _, res := range unread {
		_ = res.Body.Close()
	}
}

// While certificates change, pulls that are under way go on, and new ones see the new.
func TestCertificateReplacedWhilePulling(t *testing.T) {
	o := origintest.New()
	img := o.PutImage(repo, "latest", origintest.Spec{Layers: []origintest.Layer{{Size: 4 << 20, Form: origintest.Raw}}})
	d, w := secure(t, o)
	d.speak(w, "HTTP/2.0")
	w.pulls("latest", img)
	res, err := w.ask(t.Context(), http.MethodGet, blobPath(img.Blobs[1].Digest))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	d.renew(time.Now().Add(time.Hour), "127.0.0.1", "renewed")
	conn, err := tls.Dial("tcp", w.addr.String(), d.trust)
	if err != nil {
		t.Fatal(err)
	}
	if names := conn.ConnectionState().PeerCertificates[0].DNSNames; len(names) != 1 || names[0] != "renewed" {
		t.Errorf("the certificate of %v is shown", names)
	}
	_ = conn.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Equal(body, img.Blobs[1].Content.Bytes()) {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

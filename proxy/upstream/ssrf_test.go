package upstream_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
	"github.com/tidepool-oci/tidepool/proxy/upstream"
)

// dns answers with the addresses of a name, one list for each time it is asked, the last for ever.
type dns struct {
	mu      sync.Mutex
	answers map[string][]string
}

func (d *dns) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go d.serve(server)
		return client, nil
	}}
}

// serve answers queries over a stream, where each message has its length before it (RFC 1035 section 4.2.2).
func (d *dns) serve(c net.Conn) {
	defer c.Close()
	for {
		var n uint16
		if binary.Read(c, binary.BigEndian, &n) != nil {
			return
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		b = d.answer(b)
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
			return
		}
	}
}

func (d *dns) answer(query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil
	}
	m.Response, m.Additionals = true, nil
	q := m.Questions[0]
	for _, text := range strings.Fields(d.next(q)) {
		a := netip.MustParseAddr(text)
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// next takes the answer to a question about a name; each type of question has its own turn.
func (d *dns) next(q dnsmessage.Question) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := strings.TrimSuffix(q.Name.String(), ".")
	key := name + " " + q.Type.String()
	all, ok := d.answers[key]
	if !ok {
		all = d.answers[name]
	}
	if len(all) == 0 {
		return ""
	}
	if len(all) > 1 {
		d.answers[key] = all[1:]
	}
	return all[0]
}

// insideAddrs are addresses that no name may lead to.
var insideAddrs = []string{
	"127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
	"169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1",
	"224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1",
	"::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1",
	"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::127.0.0.1",
}

// An address is refused when it is known, not when a name is: no name leads inside, at the first look or the second.
func TestSSRF_NamesThatLeadInside(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	s := origintest.Serve(t, o)
	for _, inside := range insideAddrs {
		t.Run(inside, func(t *testing.T) {
			d := &dns{answers: map[string][]string{"ok.example": {inside}}}
			w := &world{rest: s.Addr()}
			h := hubs(t, upstream.Options{AnyUpstream: true, Dial: w.Dial, Resolver: d.resolver()}, upstream.Config{})
			ref := tagRef("latest")
			ref.Registry = "ok.example"
			_, err := h.Resolve(soon(t), ref, cache.Whole)
			wantErr(t, err, cache.ErrUnavailable)
			if strings.Contains(err.Error(), "no such host") {
				t.Skip("the resolver gives no such address")
			}
			wantErr(t, err, cache.ErrUnavailable, "ok.example is at the private address", `add "ok.example" to redirect_hosts under upstreams.ok.example`)
			if len(w.Dialled()) != 0 || o.Count() != 0 {
				t.Errorf("dialled %v", w.Dialled())
			}
		})
	}
}

// The same through the system's dialer, whose Control sees the address last, just before it connects.
func TestSSRF_ControlOfTheDialer(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		t.Run(addr, func(t *testing.T) {
			l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
			if err != nil {
				t.Skip(err)
			}
			came := make(chan bool, 1)
			go func() {
				c, err := l.Accept()
				if err == nil {
					c.Close()
				}
				came <- err == nil
			}()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			d := &dns{answers: map[string][]string{"ok.example": {addr}}}
			h := hubs(t, upstream.Options{AnyUpstream: true, Resolver: d.resolver()}, upstream.Config{})
			for _, name := range []string{"ok.example", addr, "localhost"} {
				ref := tagRef("latest")
				ref.Registry = net.JoinHostPort(name, port)
				_, err = h.Resolve(soon(t), ref, cache.Whole)
				wantErr(t, err, cache.ErrUnavailable, "private address")
			}
			l.Close()
			if <-came {
				t.Error("it was connected to")
			}
		})
	}
}

// A name that leads outside first and inside later is refused later: each connection resolves anew.
func TestSSRF_Rebinding(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	s := origintest.ServeTLS(t, o, origintest.TLS{Names: []string{"ok.example"}})
	d := &dns{answers: map[string][]string{"ok.example": {"93.184.216.34", "127.0.0.1"}}}
	w := &world{routes: map[string]string{"93.184.216.34:443": s.Addr(), "127.0.0.1:443": s.Addr()}}
	// as a redirect's target: nobody wrote its name down
	front := origintest.New()
	front.PutImage(repo, "latest", origintest.Spec{})
	front.When().Redirect("https://ok.example/v2/library/app/manifests/latest")
	w.routes["hub.test:80"] = origintest.Serve(t, front).Addr()
	d.answers["hub.test"] = []string{"10.0.0.1"}
	w.routes["10.0.0.1:80"] = w.routes["hub.test:80"]
	h := hubs(t, upstream.Options{Dial: w.Dial, Resolver: d.resolver()},
		upstream.Config{Endpoints: []string{"http://hub.test"}, CAFile: file(t, "ca.pem", s.CA.PEM())})
	mustSlurp(t, h, tagRef("latest"))
	s.Close() // and with it the connection
	if err := s.Reopen(); err != nil {
		t.Fatal(err)
	}
	before := o.Count()
	_, err := h.Open(soon(t), tagRef("latest"), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable, "ok.example is at the private address 127.0.0.1")
	if n := o.Count() - before; n != 0 {
		t.Errorf("%d requests inside", n)
	}
}

// Only what an operator wrote may be private: his endpoints, and the redirect hosts that he named.
func TestSSRF_RedirectInside(t *testing.T) {
	o := origintest.New()
	blob := o.PutBlob(repo, origintest.Synthetic(1, 1000))
	s, store := origintest.Serve(t, o), origintest.Serve(t, o)
	o.RedirectBlobs(store.URL, time.Minute)
	c := at(s)
	_, err := hubs(t, upstream.Options{}, c).Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
	wantErr(t, err, cache.ErrUnavailable, `add "127.0.0.1" to redirect_hosts under upstreams.reg.test`)
	if n := o.Count(origintest.CDN); n != 0 {
		t.Errorf("%d requests inside", n)
	}
	for _, allowed := range []string{"127.0.0.1", store.Addr(), "127.0.0.0/8", "::ffff:127.0.0.1"} {
		c.RedirectHosts = []string{allowed}
		h := hubs(t, upstream.Options{}, c)
		if allowed == "::ffff:127.0.0.1" { // another spelling, and not what the redirect says
			_, err := h.Open(t.Context(), blobRef(blob.Digest()), cache.Whole)
			wantErr(t, err, cache.ErrUnavailable, "private address")
			continue
		}
		mustSlurp(t, h, blobRef(blob.Digest()))
	}
}

// What a client asks for never decides who is dialled: an unknown registry is not looked up, let alone asked.
func TestCVE_2026_0600_ClientsCannotChooseWhomWeDial(t *testing.T) {
	w := &world{}
	h := hubs(t, upstream.Options{Dial: w.Dial}, upstream.Config{})
	for _, registry := range []string{"169.254.169.254", "evil.tld", "reg.test.evil.tld", "reg.test:80", "REG.TEST", "reg.test@evil.tld", "", "reg.test/x"} {
		ref := tagRef("latest")
		ref.Registry = registry
		_, err := h.Resolve(t.Context(), ref, cache.Whole)
		wantErr(t, err, cache.ErrDenied, "no upstream")
	}
	if d := w.Dialled(); len(d) != 0 {
		t.Errorf("dialled %v", d)
	}
}

func TestAnyUpstream(t *testing.T) {
	o := origintest.New()
	o.PutImage(repo, "latest", origintest.Spec{})
	s := origintest.ServeTLS(t, o, origintest.TLS{Names: []string{"other.example"}})
	w := &world{rest: s.Addr()}
	h := hubs(t, upstream.Options{AnyUpstream: true, Dial: w.Dial}, upstream.Config{})
	ref := tagRef("latest")
	ref.Registry = "other.example"
	_, err := h.Resolve(t.Context(), ref, cache.Whole)
	wantErr(t, err, cache.ErrUnavailable, "certificate") // it got that far
	for _, bad := range []string{"user@other.example", "other.example/x", "other.example?x", "Other.example", "", "a b", "other.example#"} {
		ref.Registry = bad
		_, err := h.Resolve(t.Context(), ref, cache.Whole)
		wantErr(t, err, cache.ErrDenied)
	}
	for i := range 200 {
		ref.Registry = strings.Repeat("a", i%100+1) + ".example"
		h.Resolve(t.Context(), ref, cache.Whole)
	}
	if n := len(h.Stats()); n > 65 {
		t.Errorf("%d registries are remembered", n)
	}
}

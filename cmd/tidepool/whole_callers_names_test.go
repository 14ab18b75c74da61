package main

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// otherNames lead to corp.test, which is asked with its clients' logins, and to a registry that is open to all.
const otherNames = asking + `aliases: [{from: "old.test/**", to: "corp.test/**"}]
`

// By an alias or a virtual upstream nobody gets what he would not get by its own name, whoever has had it before.
func TestOtherNamesOfWhatIsSecret(t *testing.T) {
	for _, hides := range []bool{false, true} {
		bubble(t, map[bool]string{false: "denies", true: "hides"}[hides], func(t *testing.T) {
			h := callers(t, hides)
			h.close()
			open := origintest.New()
			origintest.ServeIn(t, h.plan.net, "open.test:80", open)
			open.PutImage(secretRepo, "latest", origintest.Spec{Seed: 50})
			open.PutImage(secretRepo, "mine", origintest.Spec{Seed: 51})
			h.plan.file = strings.Replace(otherNames, "upstreams:\n", "upstreams:\n  open.test: {endpoints: ['http://open.test']}\n"+
				"  all: {type: virtual, of: [corp.test, open.test]}\n  shut: {type: virtual, of: [corp.test, open.test], inside: ['team/**'], inside_of: [corp.test]}\n", 1) + agings[1]
			h.open()
			bases := []string{"/v2/old.test/" + secretRepo, "/v2/shut/" + secretRepo, "/v2/all/" + secretRepo}
			for range 3 {
				for _, base := range bases {
					open.Forget()
					for _, who := range []string{"alice", "carol"} {
						a := h.get(base+"/manifests/latest", as(who)...)
						a.brings(t, h.img.Top.Content)
						if who := a.header.Get("Cache-Status"); !strings.Contains(who, `key="corp.test/`) {
							t.Errorf("%s: %s", base, who)
						}
						h.get(base+"/manifests/mine", as(who)...)
						for _, b := range h.img.Blobs {
							h.get(base+"/blobs/"+b.Digest.String(), as(who)...).brings(t, b.Content)
						}
					}
					for who, header := range h.outsiders {
						tails := []string{"manifests/latest", "manifests/" + h.img.Top.Digest.String(), "tags/list", "referrers/" + h.img.Top.Digest.String()}
						for _, b := range h.img.Blobs {
							tails = append(tails, "blobs/"+b.Digest.String())
						}
						for _, tail := range tails {
							for _, method := range []string{http.MethodHead, http.MethodGet} {
								a := h.do(method, base+"/"+tail, header...)
								if a.status < 400 && !strings.HasPrefix(tail, "referrers") && !(hides && strings.Contains(base, "all")) {
									t.Errorf("%s of %s by %s: %v", tail, who, base, a)
								}
								for _, c := range append(h.img.Blobs, h.img.Top, h.signed.Top) {
									if bytes.Contains(a.body, c.Content.Bytes()) || strings.Contains(string(a.body), h.signed.Top.Digest.String()) {
										t.Errorf("%s of %s by %s: the secret", tail, who, base)
									}
								}
							}
						}
					}
					if n := open.Count(); n > 0 && !strings.HasPrefix(base, "/v2/all/") {
						t.Errorf("%s was asked for outside %d times", base, n)
					}
				}
				time.Sleep(20 * time.Minute)
			}
		})
	}
}

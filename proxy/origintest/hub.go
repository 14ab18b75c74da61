package origintest

import (
	"crypto/hmac"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/tidepool-oci/tidepool/cache"
)

// RedirectBlobs answers blobs with a redirect to a signed address at the host base ("http://127.0.0.1:1234", where
// this origin has to be served too) that is good for life. As real ones do, that host refuses requests that carry
// Authorization. An empty base ends it.
func (o *Origin) RedirectBlobs(base string, life time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cdn, o.cdnLife = base, life
}

// sign is the address of a blob at the CDN.
func (o *Origin) sign(repo string, d cache.Digest) string {
	path := "/cdn/" + repo + "/blobs/" + d.String()
	expires := strconv.FormatInt(time.Now().Add(o.cdnLife).UnixNano(), 10)
	q := url.Values{"expires": {expires}, "signature": {o.mac(path + "?" + expires)}}
	return o.cdn + path + "?" + q.Encode()
}

// edge answers as the CDN.
func (o *Origin) edge(req *Request, r *http.Request) *answer {
	if req.Authorized() {
		return refuse(http.StatusBadRequest, "UNSUPPORTED", "only one way to authorize is allowed: the address is signed")
	}
	q := r.URL.Query()
	good := hmac.Equal([]byte(q.Get("signature")), []byte(o.mac(req.Path+"?"+q.Get("expires"))))
	until, err := strconv.ParseInt(q.Get("expires"), 10, 64)
	if !good || err != nil || time.Now().UnixNano() >= until {
		return refuse(http.StatusForbidden, "DENIED", "the address has expired or was never good")
	}
	d, err := cache.ParseDigest(req.Ref)
	repo := o.repos[req.Repo]
	if err != nil || repo == nil || repo.blobs[d] == nil {
		return refuse(http.StatusNotFound, "BLOB_UNKNOWN", "no such object")
	}
	a := whole(repo.blobs[d], d, "application/octet-stream")
	a.etag = `"` + o.mac(d.String())[:32] + `"` // an object store's: it tells nothing of the digest
	a.header.Set("ETag", a.etag)
	a.settle(r)
	return a
}

// limit counts pulls as Docker Hub does: every GET of a manifest is one.
type limit struct {
	on     bool
	pulls  int
	window time.Duration
	source string
	retry  bool // a refusal says when to come back
	used   int
	since  time.Time
}

// RateLimit allows so many pulls in each window, and says so in Docker Hub's headers; source is who is counted, as
// the header names him. A negative number ends the limit.
func (o *Origin) RateLimit(pulls int, window time.Duration, source string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.limit = limit{on: pulls >= 0, pulls: pulls, window: window, source: source}
}

// RetryAfter makes refusals by the limit say when the window ends.
func (o *Origin) RetryAfter() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.limit.retry = true
}

// take counts a request for a manifest where it is a pull, and refuses it where the limit is reached.
func (l *limit) take(pull bool) (headers map[string]string, refusal *answer) {
	if !l.on {
		return nil, nil
	}
	if time.Since(l.since) >= l.window {
		l.since, l.used = time.Now(), 0
	}
	over := pull && l.used >= l.pulls
	if pull && !over {
		l.used++
	}
	w := int(l.window.Seconds())
	headers = map[string]string{
		"Ratelimit-Limit":         fmt.Sprintf("%d;w=%d", l.pulls, w),
		"Ratelimit-Remaining":     fmt.Sprintf("%d;w=%d", l.pulls-l.used, w),
		"Docker-Ratelimit-Source": l.source,
	}
	if !over {
		return headers, nil
	}
	refusal = refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "the pull limit of this address is reached")
	for k, v := range headers {
		refusal.header.Set(k, v)
	}
	if l.retry {
		left := time.Until(l.since.Add(l.window))
		refusal.header.Set("Retry-After", strconv.Itoa(int(math.Ceil(left.Seconds()))))
	}
	return nil, refusal
}

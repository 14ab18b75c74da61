package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// ask is one request of a trace.
type ask struct {
	repo string     // of two parts or more: one alone would be short for another
	kind cache.Kind // blob or manifest
	name string     // a tag, or whatever the trace has for a digest
}

// readTrace reads requests from a file, a path a line: v2/REPOSITORY/manifests/NAME or v2/REPOSITORY/blobs/DIGEST. Others
// are passed over.
func readTrace(file string, most int) ([]ask, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	from := bufio.NewReader(f)
	var in io.Reader = from
	if magic, _ := from.Peek(4); bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		z, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		in = z
	}
	var all []ask
	lines := bufio.NewScanner(in)
	for lines.Scan() && len(all) < most {
		if a, ok := readAsk(lines.Text()); ok {
			all = append(all, a)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return all, nil
}

func readAsk(line string) (a ask, ok bool) {
	path, ok := strings.CutPrefix(strings.TrimPrefix(strings.TrimSpace(line), "/"), "v2/")
	parts := strings.Split(path, "/")
	if n := len(parts); ok && n >= 3 {
		a = ask{repo: "trace/" + strings.Join(parts[:n-2], "/"), kind: cache.KindBlob, name: parts[n-1]}
		switch parts[n-2] {
		case "blobs":
			return a, true
		case "manifests":
			a.kind = cache.KindManifest
			return a, true
		}
	}
	return a, false
}

// zipf is a trace of n requests or so for blobs: by Zipf's law with an exponent of 1 over a thousand of them, and so many
// for others that 68 % of all blobs are asked for once, as in the trace of a registry.
func zipf(n int) []ask {
	const ranks, once = 1000, 0.68
	random := rand.New(rand.NewPCG(3, 4))
	single := int(once / (1 - once) * ranks)
	all := make([]ask, 0, n)
	for i := range single {
		all = append(all, ask{repo: fmt.Sprintf("once/app%d", i%100), name: fmt.Sprint("once", i)})
	}
	total := 0.0 // of 1/rank
	for i := range ranks {
		total += 1 / float64(i+1)
	}
	for len(all) < n {
		at, rank := random.Float64()*total, 0
		for at -= 1; at > 0 && rank < ranks-1; rank++ {
			at -= 1 / float64(rank+2)
		}
		all = append(all, ask{repo: fmt.Sprintf("often/app%d", rank%100), name: fmt.Sprint("often", rank)})
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// mostSize bounds what is sent for one request of a trace: what is counted here are requests.
const mostSize = 64 << 10

// size is that of what a name stands for, by the model of the trace's sizes, up to mostSize: log-uniform between
// quantiles.
func size(u float64) int64 {
	quantiles := []struct{ u, bytes float64 }{{0, 32}, {0.25, 443}, {0.5, 7850}, {0.65, 1.05e6}}
	for i, q := range quantiles[1:] {
		if p := quantiles[i]; u < q.u {
			part := (u - p.u) / (q.u - p.u)
			return min(mostSize, int64(p.bytes*math.Pow(q.bytes/p.bytes, part)))
		}
	}
	return mostSize
}

// thing is what a request of a trace is for, at our registry.
type thing struct {
	ref     cache.Ref
	path    string
	content *origintest.Content
}

// stock puts what a trace asks for into a registry, and says for each request what it is.
func stock(o *origintest.Origin, trace []ask) []thing {
	known := map[ask]*origintest.Content{}
	all := make([]thing, len(trace))
	for i, a := range trace {
		key := a
		if a.kind == cache.KindBlob {
			key.repo = "" // a digest is one blob in all repositories
		}
		c, ok := known[key]
		if !ok {
			c = contentOf(a, uint64(len(known)))
			known[key] = c
		}
		all[i] = thing{cache.Ref{Registry: "docker.io", Repo: a.repo, Kind: a.kind}, "/v2/" + a.repo + "/manifests/" + a.name, c}
		if a.kind == cache.KindManifest {
			all[i].ref.Tag = a.name
			o.PutManifest(a.repo, a.name, origintest.OCIManifest, c)
			continue
		}
		all[i].ref.Digest, all[i].path = c.Digest(), "/v2/"+a.repo+"/blobs/"+c.Digest().String()
		o.PutBlob(a.repo, c)
	}
	return all
}

// contentOf makes what the n-th name of a trace stands for.
func contentOf(a ask, n uint64) *origintest.Content {
	if a.kind == cache.KindManifest {
		return origintest.Bytes(fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":`+
			`"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[],"annotations":{"of":%q}}`,
			origintest.OCIManifest, a.repo+":"+a.name))
	}
	return origintest.Synthetic(7<<32+n, size(float64(xxhash.Sum64String(a.name))/(1<<64)))
}

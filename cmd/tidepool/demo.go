package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// demoCmd shows the main job in one go, on this machine alone: a registry, a tidepool before it, clients before that.
func demoCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a registry pulled through a tidepool, cold, warm, by many at once and without the registry",
		Long: "Demo starts a registry with generated images and a tidepool before it, both on free ports of this machine, " +
			"and pulls: cold, warm, with 20 clients at once, and after the registry has stopped. " +
			"It needs nothing else, verifies every byte, and removes what it made.",
		Args: cobra.NoArgs,
	}
	asJSON := output(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		inJSON, err := asJSON()
		if err != nil {
			return err
		}
		rows, err := demo(cmd.Context(), cmd.ErrOrStderr())
		if err := errors.Join(err, printDemo(cmd.OutOrStdout(), rows, inJSON)); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		return nil
	}
	return cmd
}

const (
	// demoPace is what the demo's registry gives each connection, in bytes per second: a good line to a public hub.
	demoPace = 50 << 20
	// demoCrowd is how many clients come at once: a small cluster that starts a new version.
	demoCrowd = 20
	// demoDisk holds both images twice over, and is less than the smallest /tmp in memory that people have.
	demoDisk = "256MiB"
)

// demoRow is what one act of the demo showed.
type demoRow struct {
	Act       string  `json:"act"`
	Clients   int     `json:"clients"`
	Upstream  int64   `json:"upstream_bytes"`    // that the registry sent
	Requests  int     `json:"upstream_requests"` // that it was asked
	Served    int64   `json:"served_bytes"`      // that the clients received and verified
	FirstByte float64 `json:"first_byte_s"`      // of the first blob, the slowest client's
	Took      float64 `json:"took_s"`            // until the last client had all
}

// stage is what the demo plays on.
type stage struct {
	registry *origintest.Origin
	pool     *running
	bars     *bars
	rows     []demoRow
}

// demo plays the four acts. What it could show is returned also when an act fails.
func demo(ctx context.Context, progress io.Writer) ([]demoRow, error) {
	dir, err := os.MkdirTemp("", "tidepool-demo-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // of our own making; what cannot be removed is small
	s := &stage{registry: origintest.New(), bars: newBars(progress)}
	s.bars.say("making two images for two platforms each")
	one := s.registry.PutImage("library/shop", "1.0", demoSpec(1))
	two := s.registry.PutImage("library/shop", "1.1", demoSpec(2))
	s.registry.Pace(demoPace)

	hub, err := serveOrigin(s.registry)
	if err != nil {
		return nil, err
	}
	defer hub.Close()
	if s.pool, err = demoPool(ctx, dir, hub.url); err != nil {
		return nil, err
	}
	s.bars.say("a registry serves at %s, a tidepool before it at %s", hub.url, s.pool.addr)

	err = s.play(ctx, one, two, hub)
	return s.rows, errors.Join(err, s.pool.stop(context.WithoutCancel(ctx)))
}

func (s *stage) play(ctx context.Context, one, two *origintest.Image, hub *origin) error {
	acts := []struct {
		name    string
		clients int
		tag     string
		image   *origintest.Image
		before  func() error
	}{
		{"cold pull", 1, "1.0", one, nil},
		{"warm pull", 1, "1.0", one, nil},
		{"20 clients at once, cold", demoCrowd, "1.1", two, nil},
		{"20 clients, registry stopped", demoCrowd, "1.1", two, hub.Close},
	}
	for _, act := range acts {
		if act.before != nil {
			if err := act.before(); err != nil {
				return err
			}
		}
		if err := s.act(ctx, act.name, act.clients, act.tag, act.image); err != nil {
			return fmt.Errorf("%s: %w", act.name, err)
		}
	}
	return nil
}

// act has clients pull an image, all at once, and notes what that cost.
func (s *stage) act(ctx context.Context, name string, clients int, tag string, img *origintest.Image) error {
	s.registry.Forget()
	bar := s.bars.add(name, int64(clients)*img.Size())
	began := time.Now()
	var mu sync.Mutex
	var all sync.WaitGroup
	var errs []error
	row := demoRow{Act: name, Clients: clients}
	for range clients {
		all.Go(func() {
			p := puller{base: "http://" + s.pool.addr.String(), received: bar.add}
			err := p.pull(ctx, "shop", tag, img)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			row.Served += p.verified
			row.FirstByte = max(row.FirstByte, p.firstByte.Seconds())
		})
	}
	all.Wait()
	row.Took = time.Since(began).Seconds()
	row.Upstream, row.Requests = s.registry.Bytes(), s.registry.Count()
	err := errors.Join(errs...)
	if want := int64(clients) * img.Size(); err == nil && row.Served != want {
		err = fmt.Errorf("%d bytes were verified, the image has %d", row.Served, want)
	}
	bar.end(err)
	s.rows = append(s.rows, row)
	return err
}

// demoSpec is an image of 44 MiB: one layer that both platforms share, and some of their own.
func demoSpec(seed uint64) origintest.Spec {
	return origintest.Spec{
		Seed:      seed,
		Platforms: []string{"linux/amd64", "linux/arm64"},
		Layers: []origintest.Layer{
			{Size: 24 << 20, Form: origintest.Raw, Shared: true},
			{Size: 8 << 20, Form: origintest.Raw},
			{Size: 2 << 20, Form: origintest.TarGzip},
		},
	}
}

// demoPool starts a tidepool as serve does, but with nothing of this machine's configuration.
func demoPool(ctx context.Context, dir, hub string) (*running, error) {
	loaded, err := config.Load(config.Inputs{File: "-", Stdin: strings.NewReader(""), Flags: map[string][]string{
		"listen": {"127.0.0.1:0"}, "admin": {"127.0.0.1:0"}, "data": {dir}, "disk": {demoDisk},
		"upstream": {"docker.io=" + hub},
	}})
	if err != nil {
		return nil, err
	}
	return start(ctx, loaded.Config, zap.NewNop(), world{})
}

// origin is a registry that serves.
type origin struct {
	url  string
	stop func() error
	over sync.WaitGroup
}

func serveOrigin(o *origintest.Origin) (*origin, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := o.Server()
	s := &origin{url: "http://" + l.Addr().String(), stop: server.Close}
	s.over.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "the demo's registry:", err)
		}
	})
	return s, nil
}

// Close stops the registry; every connection to it breaks.
func (s *origin) Close() error {
	err := s.stop()
	s.over.Wait()
	return err
}

func printDemo(w io.Writer, rows []demoRow, inJSON bool) error {
	if inJSON {
		return json.NewEncoder(w).Encode(struct {
			Schema int       `json:"schema"`
			Acts   []demoRow `json:"acts"`
		}{1, rows})
	}
	if len(rows) == 0 {
		return nil // it failed before there was anything to show
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tfrom upstream\tupstream requests\tserved, verified\tfirst byte\tall done\t")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%.1f ms\t%.2f s\t\n", r.Act, humanize.IBytes(uint64(r.Upstream)), r.Requests,
			humanize.IBytes(uint64(r.Served)), 1000*r.FirstByte, r.Took)
	}
	return t.Flush()
}

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/tidepool-oci/tidepool/proxy/admin"
)

func warmCmd() *cobra.Command {
	return warmLike(&cobra.Command{
		Use:   "warm IMAGE… | -f FILE",
		Short: "Have a running tidepool fetch images before anybody asks for them",
		Long: `Have a running tidepool fetch images before anybody asks for them. What it holds is not fetched again: an image that has
not changed costs one HEAD, and who runs this a second time goes on where the first run ended. Clients go first: what
they wait for is fetched before this, and of a hub's pull limit the reserve is theirs.

In the place of a tag there may be a range of versions (app:~1.4, "app:>=1.2 <2", app:^2-alpine for tags that end so) or
a pattern (app:v1.*): then the registry's list of tags is asked for, and --newest bounds how many of them are meant.

The exit code is 3 if some images failed, 1 if all did.`,
		Example: "  tidepool warm alpine:3 ghcr.io/org/app:~1.4\n" +
			"  tidepool warm -f images.txt --platform linux/amd64 --platform linux/arm64 --pin\n" +
			"  tidepool warm --newest 3 'nginx:*-alpine'",
	}, false)
}

func pinCmd() *cobra.Command {
	return warmLike(&cobra.Command{
		Use:   "pin [IMAGE… | -f FILE]",
		Short: "Have a running tidepool keep images whatever comes; without any, show what is pinned",
		Long: `Have a running tidepool keep images whatever comes: fetch what it does not hold of them, never evict it, and serve it by
these names though the upstream be out of reach or all else that is known be lost. A tag that moves is pinned anew by
the next warm or pin, and by rules of the configuration (warm). Without an image, it shows what is pinned.`,
		Example: "  tidepool pin alpine:3\n  tidepool pin\n  tidepool unpin alpine:3",
	}, true)
}

// warmLike gives cmd what warm and pin have in common.
func warmLike(cmd *cobra.Command, pins bool) *cobra.Command {
	find, inJSON := server(cmd), output(cmd)
	var o admin.WarmOrder
	flags := cmd.Flags()
	file := flags.StringP("file", "f", "", "`FILE` of images, one on a line; # begins a comment, - is stdin")
	flags.StringSliceVar(&o.Platforms, "platform", nil, "`OS/ARCH` that is fetched of images that there are for several; without any, all are")
	flags.StringVar(&o.Referrers, "referrers", "once", "`WHEN` signatures, attestations and bills of materials are asked for: once for each image, always, or never")
	flags.Lookup("referrers").NoOptDefVal = "always"
	flags.IntVar(&o.Newest, "newest", 0, "`N` newest of the tags that a range or a pattern matches; 0: all of them")
	if o.Pin = pins; !pins {
		flags.BoolVar(&o.Pin, "pin", false, "keep the images whatever comes, until tidepool unpin")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asJSON, err := inJSON()
		if err != nil {
			return err
		}
		if err := whenApart(cmd, args); err != nil {
			return err
		}
		if o.Images, err = imagesOf(*file, args, cmd.InOrStdin()); err != nil {
			return usageError{err}
		}
		t, err := find()
		switch {
		case err != nil:
			return err
		case len(o.Images) == 0 && pins && *file == "":
			return show(cmd, t, "/api/v1/pins", asJSON, showPins)
		case len(o.Images) == 0:
			return usageError{errors.New("say which images: tidepool warm alpine:3, or -f FILE with one on a line")}
		}
		return warmBy(cmd, t, o, asJSON)
	}
	return cmd
}

// whenApart refuses --referrers never, which has "never" for an image: as --referrers alone means always, what it is to mean
// else stands behind a =.
func whenApart(cmd *cobra.Command, args []string) error {
	for _, when := range []string{"once", "always", "never"} {
		if cmd.Flags().Changed("referrers") && slices.Contains(args, when) {
			return usageError{fmt.Errorf("say --referrers=%[1]s, with the =; an image of that name is %[1]s:latest", when)}
		}
	}
	return nil
}

// longestLine of a file of images: far more than any name has.
const longestLine = 64 << 10

// imagesOf are the images of the command line and of a file.
func imagesOf(file string, args []string, stdin io.Reader) (images []string, err error) {
	images = args
	if file == "" {
		return images, nil
	}
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("--file: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		text, _, _ := strings.Cut(lines.Text(), "#") // no name has one
		if text = strings.TrimSpace(text); text != "" {
			images = append(images, text)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("--file: %s is no list of images: %w", file, err)
	}
	return images, nil
}

// warmed is what warm prints as JSON.
type warmed struct {
	warmSummary
	Results []warmEvent `json:"results"` // how each image ended
}

// warmBy sends an order and shows how it goes.
func warmBy(cmd *cobra.Command, t *there, o admin.WarmOrder, asJSON bool) error {
	all := warmed{Results: []warmEvent{}}
	show := newProgress(cmd.ErrOrStderr())
	err := t.stream(cmd.Context(), "/api/v1/warm", o, func(line []byte) error {
		var e warmEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		if e.State == stateOver {
			return json.Unmarshal(line, &all.warmSummary)
		}
		if show.event(e) {
			all.Results = append(all.Results, e)
		}
		return nil
	})
	show.end()
	if err == nil && all.State != stateOver {
		err = fmt.Errorf("%s ended before all was done: run the command again, it goes on from there", t.url)
	}
	if err != nil {
		return err
	}
	if err := sayWarmed(cmd.OutOrStdout(), all, asJSON); err != nil {
		return err
	}
	return all.verdict()
}

// verdict is what is to be said of the images that failed.
func (w warmed) verdict() error {
	switch {
	case w.Failed == 0:
		return nil
	case w.Failed == w.Images:
		return fmt.Errorf("none of %d images could be fetched", w.Images)
	}
	return partlyError{fmt.Errorf("%d of %d images could not be fetched", w.Failed, w.Images)}
}

func sayWarmed(out io.Writer, w warmed, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(w)
	}
	_, err := fmt.Fprintf(out, "%s: %d fetched (%s), %d unchanged, %d failed\n", counting(w.Images, "image"), w.Fetched,
		humanize.IBytes(uint64(max(0, w.Bytes))), w.Unchanged, w.Failed)
	return err
}

func counting(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// partlyError says that some of what was asked for could not be done.
type partlyError struct{ error }

func (e partlyError) Unwrap() error { return e.error }

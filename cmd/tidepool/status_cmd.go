package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// watchEvery is how often a status is shown anew: often enough to see downloads go by, seldom enough to cost nothing.
const watchEvery = 2 * time.Second

func statusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show on one screen how a running tidepool does",
		Long: "Show on one screen how a running tidepool does: where answers came from, what upstreams were spared, what is held,\n" +
			"how the upstreams do, and what is left of their limits. It is asked by its admin listener.",
		Example: "  tidepool status\n  tidepool status --watch --server http://tidepool.corp:5001\n  tidepool status --output json",
		Args:    cobra.NoArgs,
	}
	find, inJSON := server(cmd), output(cmd)
	watch := cmd.Flags().Bool("watch", false, fmt.Sprintf("show it anew every %v, until ctrl-C; as JSON, a line each time", watchEvery))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := inJSON()
		if err != nil {
			return err
		}
		t, err := find()
		if err != nil {
			return err
		}
		v := view{there: t, out: cmd.OutOrStdout(), trouble: cmd.ErrOrStderr(), json: asJSON}
		v.redraw, v.colour, v.height = onTerminal(v.out) && !asJSON, inColour(v.out), func() int { return linesOf(v.out) }
		if *watch {
			return v.watch(cmd.Context())
		}
		return v.once(cmd.Context())
	}
	return cmd
}

// view shows the status of a tidepool.
type view struct {
	there        *there
	out, trouble io.Writer
	json         bool       // the document itself
	redraw       bool       // in the place of what was shown before
	height       func() int // of what it is drawn on, in lines; 0: not known
	colour       bool
}

func (v view) once(ctx context.Context) error {
	s, raw, err := v.read(ctx)
	if err != nil {
		return err
	}
	if v.json {
		return printJSON(v.out, raw)
	}
	return screen(v.out, s, v.colour)
}

func (v view) read(ctx context.Context) (s status, raw json.RawMessage, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	raw, err = v.there.document(ctx, "/api/v1/status", &s)
	return s, raw, err
}

// watch shows the status until ctx ends. A tidepool that was there may be away for a while: it is being restarted.
func (v view) watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		s, raw, err := v.read(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		case err != nil:
			v.missing(err)
		default:
			if err := v.show(s, raw); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// missing says that nothing new is known, where the reader looks.
func (v view) missing(err error) {
	text := "tidepool: " + err.Error() + "\n"
	if v.redraw {
		_, _ = io.WriteString(v.out, v.overdrawn(text)) // the next one shows whether out still takes anything
		return
	}
	_, _ = io.WriteString(v.trouble, text) // what cannot be said is no reason to end
}

func (v view) show(s status, raw json.RawMessage) error {
	var b bytes.Buffer
	if v.json {
		if err := json.Compact(&b, raw); err != nil {
			return err
		}
		b.WriteByte('\n')
	} else if err := screen(&b, s, v.colour); err != nil {
		return err
	}
	text := b.String()
	if v.redraw {
		text = v.overdrawn(text)
	} else if !v.json {
		text += "\n"
	}
	_, err := io.WriteString(v.out, text)
	return err
}

// overdrawn is text in the place of what a terminal shows: line by line, so that nothing flickers, and only as much as
// there is room for, so that nothing scrolls.
func (v view) overdrawn(text string) string {
	const home, restOfLine, below = "\x1b[H", "\x1b[K", "\x1b[J"
	const wrapNot, wrap = "\x1b[?7l", "\x1b[?7h"
	lines := strings.SplitAfter(text, "\n")
	if room := v.height() - 1; room > 0 && len(lines) > room { // the last line is the cursor's
		lines = lines[:room]
	}
	return wrapNot + home + strings.ReplaceAll(strings.Join(lines, ""), "\n", restOfLine+"\n") + below + wrap
}

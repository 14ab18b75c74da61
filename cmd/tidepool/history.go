package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cache/warm"
)

// historyDoc is the document GET /api/v1/history.
type historyDoc struct {
	Schema int           `json:"schema"`
	Asked  string        `json:"asked"`
	Places []historyName `json:"places"`
}

// historyName is one name that an image is looked for by.
type historyName struct {
	Image    string       `json:"image"`
	Answered bool         `json:"answered"`
	Was      []historyWas `json:"was"`
}

type historyWas struct {
	Digest string    `json:"digest"`
	Since  time.Time `json:"since"`
	Held   bool      `json:"held"`
}

// history says what a tag was, by each name that it is looked for by.
func (w *warming) history(text string) (any, error) {
	item, err := warm.Parse(text)
	if err == nil && (!item.One() || item.Tag == "") {
		err = fmt.Errorf("%q is no tag: only tags have a history, as alpine:3", text)
	}
	if err != nil {
		return nil, err
	}
	ref := cache.Ref{Kind: cache.KindManifest, Tag: item.Tag}
	if ref.Registry, ref.Repo, err = w.Name(item.Name); err != nil {
		return nil, err
	}
	places := []cache.Ref{ref}
	if w.Places != nil {
		found, err := w.Places(ref)
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			places = found
		}
	}
	doc := historyDoc{Schema: thisSchema, Asked: ref.String(), Places: []historyName{}}
	var latest time.Time
	answered := -1
	for i, at := range places {
		one := historyName{Image: at.String(), Was: []historyWas{}}
		for _, was := range w.store.History(at) {
			one.Was = append(one.Was, historyWas{Digest: was.Digest.String(), Since: was.Since.UTC(), Held: w.store.Holds(was.Digest)})
		}
		if seen := w.store.AsOf(at); seen.After(latest) {
			latest, answered = seen, i
		}
		doc.Places = append(doc.Places, one)
	}
	if answered >= 0 {
		doc.Places[answered].Answered = true
	}
	return doc, nil
}

func historyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history IMAGE",
		Short: "Show what a tag stood for, as far as a running tidepool has seen, and which name answered for it",
		Long: "Show what a tag stood for, as far as a running tidepool has seen, the newest first, and whether that is held. Where\n" +
			"aliases or a virtual upstream lead to several names, it shows all of them, and which one answered last.",
		Example: "  tidepool history alpine:3\n  tidepool history ghcr.io/org/app:latest --output json",
		Args:    cobra.ExactArgs(1),
	}
	find, inJSON := server(cmd), output(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asJSON, err := inJSON()
		if err != nil {
			return err
		}
		t, err := find()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
		defer cancel()
		var doc historyDoc
		raw, err := t.document(ctx, "/api/v1/history?image="+url.QueryEscape(args[0]), &doc)
		switch {
		case err != nil:
			return err
		case asJSON:
			_, err = fmt.Fprintln(cmd.OutOrStdout(), string(raw))
			return err
		}
		return showHistory(cmd.OutOrStdout(), doc)
	}
	return cmd
}

var errNoHistory = errors.New("nothing is known of it: it was never asked for here")

func showHistory(out io.Writer, doc historyDoc) error {
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "IMAGE\tSINCE\tDIGEST\tHELD")
	lines := 0
	for _, p := range doc.Places {
		name := printable(p.Image)
		if p.Answered && len(doc.Places) > 1 {
			name += " (answered)"
		}
		for _, was := range p.Was {
			held := map[bool]string{true: "yes", false: "no"}[was.Held]
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", name, was.Since.UTC().Format(time.RFC3339), printable(was.Digest), held)
			lines++
		}
	}
	if lines == 0 {
		return fmt.Errorf("%s: %w", printable(cmp.Or(doc.Asked, "the image")), errNoHistory)
	}
	return table.Flush()
}

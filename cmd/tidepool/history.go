package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
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
	ref, places, err := w.Find(text)
	if err == nil && ref.Tag == "" {
		err = fmt.Errorf("%q is no tag: only tags have a history, as alpine:3", text)
	}
	if err != nil {
		return nil, err
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
		Args:    single("say which image: tidepool history alpine:3"),
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
		return show(cmd, t, "/api/v1/history?image="+url.QueryEscape(args[0]), asJSON, showHistory)
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

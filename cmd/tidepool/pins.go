package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func showPins(out io.Writer, list pinList) error {
	if len(list.Pins) == 0 {
		_, err := fmt.Fprintln(out, "nothing is pinned here")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "IMAGE\tDIGEST\tSIZE\tPINNED\tBY\tHELD")
	for _, p := range list.Pins {
		held := "yes"
		if !p.Whole {
			held = "no: warm it again"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(p.Image), printable(p.Digest[:min(19, len(p.Digest))]),
			humanize.IBytes(positive(p.Size)), p.Pinned.UTC().Format("2006-01-02 15:04"), printable(p.Owner), held)
	}
	return table.Flush()
}

func unpinCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unpin IMAGE… | -f FILE",
		Short: "Let a running tidepool evict images again that were pinned by hand",
		Long: "Let a running tidepool evict images again that were pinned by tidepool pin or tidepool warm --pin, at whichever member\n" +
			"of its cluster. They stay until their room is needed. What a rule of the configuration pins, the rule keeps; but what\n" +
			"members still keep for a rule of one that is gone for good goes, too.",
		Example: "  tidepool unpin alpine:3",
	}
	find, inJSON := server(cmd), output(cmd)
	file := cmd.Flags().StringP("file", "f", "", "`FILE` of images, one on a line; # begins a comment, - is stdin")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asJSON, err := inJSON()
		if err != nil {
			return err
		}
		images, err := imagesOf(*file, args, cmd.InOrStdin())
		if err == nil && len(images) == 0 {
			err = errors.New("say which images: tidepool pin lists those that are pinned")
		}
		if err != nil {
			return usageError{err}
		}
		t, err := find()
		if err != nil {
			return err
		}
		var answer unpinned
		raw, err := t.send(cmd.Context(), "/api/v1/unpin", map[string][]string{"images": images}, &answer)
		if err != nil {
			return err
		}
		if asJSON {
			fmt.Fprintln(cmd.OutOrStdout(), string(raw))
		}
		return sayUnpinned(cmd, answer, asJSON)
	}
	return cmd
}

func sayUnpinned(cmd *cobra.Command, answer unpinned, quiet bool) error {
	bad := 0
	for _, i := range answer.Images {
		switch {
		case i.Error != "" && len(answer.Images) == 1:
			return fmt.Errorf("%s is not unpinned: %s", printable(i.Image), printable(i.Error))
		case i.Error != "":
			bad++
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", printable(i.Image), printable(i.Error))
		case !quiet:
			fmt.Fprintf(cmd.OutOrStdout(), "%s: unpinned%s\n", printable(i.Image), printable(i.where()))
		}
	}
	if len(answer.Silent) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s did not say what they have pinned; they unpin it upon hearing of this\n", printable(strings.Join(answer.Silent, ", ")))
	}
	what := errors.New(strconv.Itoa(bad) + " of " + counting(len(answer.Images), "image") + " could not be unpinned")
	switch {
	case bad == 0:
		return nil
	case bad == len(answer.Images):
		return what
	}
	return partlyError{what}
}

// where says, of a cluster, which members had it pinned, and which keep it.
func (i unpinnedDoc) where() (text string) {
	if len(i.At) > 0 {
		text = " at " + strings.Join(i.At, ", ")
	}
	if len(i.Gone) > 0 {
		text += "; what was kept for rules of " + strings.Join(i.Gone, ", ") + ", no longer there, is unpinned"
	}
	if len(i.Rules) > 0 {
		text += "; it stays pinned by rules of " + strings.Join(i.Rules, ", ") + " (warm in the configuration)"
	}
	return text
}

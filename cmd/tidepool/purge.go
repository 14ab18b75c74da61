package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tidepool-oci/tidepool/proxy/admin"
)

func purgeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "purge IMAGE[:TAG|@DIGEST|:*]… | -f FILE",
		Short: "Have a running tidepool forget images, so that the next pull fetches them",
		Long: "Have a running tidepool, and all other members of its cluster, forget images: their names at once, and of their\n" +
			"content what nothing else that is held needs. alpine:* is all of a repository; what is named by its digest goes\n" +
			"whatever needs it. Who pulls at that moment is served to the end; the next pull fetches it and asks for permission\n" +
			"anew. What is pinned, at any member that answers, stays at all of them until tidepool unpin. It shows what will go and\n" +
			"asks, unless --yes says so.",
		Example: "  tidepool purge alpine:3 --dry-run\n  tidepool purge 'ghcr.io/org/app:*' --yes",
	}
	find, inJSON := server(cmd), output(cmd)
	file := cmd.Flags().StringP("file", "f", "", "`FILE` of images, one on a line; # begins a comment, - is stdin")
	var o admin.PurgeOrder
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "show what would go, and forget nothing")
	cmd.Flags().BoolVar(&o.Here, "here", false, "at this member of the cluster alone")
	yes := cmd.Flags().Bool("yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asJSON, err := inJSON()
		if err != nil {
			return err
		}
		o.Images, err = imagesOf(*file, args, cmd.InOrStdin())
		if err == nil && len(o.Images) == 0 {
			err = errors.New("say which images: tidepool purge alpine:3, or -f FILE with one on a line")
		}
		if err == nil && !*yes && !o.DryRun && !canAnswer(cmd.InOrStdin()) {
			err = errors.New("nobody is there to be asked: say --yes, or --dry-run to see what would go")
		}
		if err != nil {
			return usageError{err}
		}
		t, err := find()
		if err != nil {
			return err
		}
		if !*yes && !o.DryRun {
			if sure, err := confirmed(cmd, t, o); err != nil || !sure {
				return err
			}
		}
		return purgeBy(cmd, t, o, asJSON)
	}
	return cmd
}

// canAnswer reports whether a person types what is read from in.
func canAnswer(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// confirmed shows what would go and asks whether it is to.
func confirmed(cmd *cobra.Command, t *there, o admin.PurgeOrder) (bool, error) {
	o.DryRun = true
	var plan purged
	if _, err := t.send(cmd.Context(), "/api/v1/purge", o, &plan); err != nil {
		return false, err
	}
	if err := showPurged(cmd.ErrOrStderr(), plan); err != nil {
		return false, err
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Forget this? [y/N] ")
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && err != io.EOF {
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

func purgeBy(cmd *cobra.Command, t *there, o admin.PurgeOrder, asJSON bool) error {
	var answer purged
	raw, err := t.send(cmd.Context(), "/api/v1/purge", o, &answer)
	switch {
	case err != nil:
		return err
	case asJSON:
		fmt.Fprintln(cmd.OutOrStdout(), string(raw))
	default:
		if err := showPurged(cmd.OutOrStdout(), answer); err != nil {
			return err
		}
	}
	return answer.verdict(cmd.ErrOrStderr())
}

// verdict is what is to be said of the images that stay; why is where each is told.
func (p purged) verdict(why io.Writer) error {
	bad := 0
	for _, i := range p.Images {
		switch {
		case i.Error == "":
			continue
		case len(p.Images) == 1:
			return fmt.Errorf("%s is not purged: %s", printable(i.Image), printable(i.Error))
		}
		bad++
		fmt.Fprintf(why, "%s: %s\n", printable(i.Image), printable(i.Error))
	}
	what := fmt.Errorf("%d of %s could not be purged", bad, counting(len(p.Images), "image"))
	switch bad {
	case 0:
		return nil
	case len(p.Images):
		return what
	}
	return partlyError{what}
}

func showPurged(out io.Writer, p purged) error {
	table, head := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0), "IMAGE\tNAMES\tTHINGS\tSIZE\n"
	for _, i := range p.Images {
		if i.Error == "" {
			fmt.Fprint(table, head)
			head = ""
			fmt.Fprintf(table, "%s\t%d\t%d\t%s\n", printable(i.Image), i.Names, i.Things, humanize.IBytes(positive(i.Bytes)))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if p.Told > 0 {
		fmt.Fprintf(out, "that is what was held here; %s told, to forget what is held there\n", counting(p.Told, "other member"))
	}
	if len(p.Silent) > 0 {
		fmt.Fprintf(out, "%s did not say what they have pinned: what that is of this, they keep\n", printable(strings.Join(p.Silent, ", ")))
	}
	return nil
}

package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func manCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "man [COMMAND…]",
		Short: "Print a command's manual page, or write those of all commands",
	}
	dir := cmd.Flags().String("dir", "", "`DIR` to write the pages of all commands to")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		root := cmd.Root()
		root.DisableAutoGenTag = true
		header := &doc.GenManHeader{Section: "8", Source: "tidepool " + build().Version, Date: committed()}
		if *dir != "" {
			if err := os.MkdirAll(*dir, 0o755); err != nil {
				return err
			}
			return doc.GenManTree(root, header, *dir)
		}
		page, rest, err := root.Find(args)
		if err != nil || len(rest) > 0 {
			return usageError{fmt.Errorf("there is no command %s", strings.Join(args, " "))}
		}
		return doc.GenMan(page, header, cmd.OutOrStdout())
	}
	return cmd
}

// committed is when what is running was committed, so that each build of it gives the same pages; nil: unknown, and
// then they bear the day of $SOURCE_DATE_EPOCH, or today.
func committed() *time.Time {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return nil
	}
	for _, s := range info.Settings {
		if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
			return &t
		}
	}
	return nil
}

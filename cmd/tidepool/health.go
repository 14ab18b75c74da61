package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func healthCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Exit 0 if the tidepool that runs here takes clients, 1 if not",
		Long: "Exit 0 if the tidepool that runs here takes clients, 1 if not. With --live, exit 0 also while it starts or lets its\n" +
			"last answers end: it is 1 only of a process that is to be started anew.",
		Args: cobra.NoArgs,
	}
	find := server(cmd)
	live := cmd.Flags().Bool("live", false, "ask whether it answers at all, clients or not")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t, err := find()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
		defer cancel()
		path := "/readyz"
		if *live {
			path = "/livez"
		}
		if _, err := t.text(ctx, path); err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "ok")
		return err
	}
	return cmd
}

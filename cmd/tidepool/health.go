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
		Args:  cobra.NoArgs,
	}
	find := server(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t, err := find()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), answerTime)
		defer cancel()
		if _, err := t.text(ctx, "/readyz"); err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "ok")
		return err
	}
	return cmd
}

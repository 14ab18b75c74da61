package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/deploy"
)

func setupCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:       "setup " + strings.Join(deploy.Clients(), "|"),
		Short:     "Print what makes a client pull through this server",
		Long:      "Print what makes a client pull through this server. What is to be done with it goes to stderr, so that stdout can be\nkept as a file.",
		ValidArgs: deploy.Clients(),
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
	}
	load := settings(cmd, "listen")
	address := cmd.Flags().String("address", "", "`HOST:PORT` by which clients reach the server (default: where it listens)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *address == "" {
			cfg, err := load()
			if err != nil {
				return err
			}
			*address = reachable(string(cfg.Listen))
		} else if err := new(config.Address).UnmarshalText([]byte(*address)); err != nil {
			return usageError{fmt.Errorf("--address: %w", err)}
		}
		hints, snippet := deploy.Client(args[0], *address)
		fmt.Fprint(cmd.ErrOrStderr(), hints)
		_, err := fmt.Fprint(cmd.OutOrStdout(), snippet)
		return err
	}
	return cmd
}

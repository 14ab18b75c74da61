package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// A health check that takes longer than this found a tidepool that does not answer: docker's own limit is 30 s.
const healthTimeout = 5 * time.Second

func healthCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Exit 0 if the tidepool that runs here takes clients, 1 if not",
		Args:  cobra.NoArgs,
	}
	load := settings(cmd, "admin")
	server := cmd.Flags().String("server", os.Getenv("TIDEPOOL_SERVER"), "`URL` of the admin listener (default: what the configuration says)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		url := *server
		if url == "" {
			cfg, err := load()
			if err != nil {
				return fmt.Errorf("no configuration to find the admin listener by: %v", err) // no %w: the exit code is 1
			}
			if cfg.Admin == config.Off {
				return fmt.Errorf("there is no admin listener to ask: admin is %s", config.Off)
			}
			url = "http://" + reachable(string(cfg.Admin))
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), healthTimeout)
		defer cancel()
		if err := ask(ctx, strings.TrimSuffix(url, "/")+"/readyz"); err != nil {
			return err
		}
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "ok")
		return err
	}
	return cmd
}

// ask wants a 200.
func ask(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: new(http.Transport)} // by no proxy: it is here
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no tidepool answers: %w", err)
	}
	defer resp.Body.Close()
	const enough = 1 << 10 // for the reason
	body, err := io.ReadAll(io.LimitReader(resp.Body, enough))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return err
}

// reachable is an address at which this machine reaches what listens on addr: where that is every address, loopback.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

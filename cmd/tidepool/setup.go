package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/cmd/tidepool/setup"
	"github.com/tidepool-oci/tidepool/deploy"
)

func setupCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "setup " + strings.Join(deploy.Clients(), "|"),
		Short: "Print what makes a client pull through this server, or write it into the client's file",
		Long: `Print what makes a client pull through this server. What is to be done with it goes to stderr, so that stdout can be
kept as a file.

The client is told to pull through this server and nowhere else, so that nothing is pulled from a registry itself while
that limits pulls, or must not be reached. Docker and BuildKit cannot be told so; what is printed for them says what to
do. With --fallback clients ask the registry itself for what this server cannot bring.

With --write it is put into the client's own file, before other mirrors that are there. All else in the file stays;
a file that cannot be changed safely is left alone, with a word on what to do by hand. What was in it before is kept
beside it, in FILE.before-tidepool. Done twice, it changes nothing. With --undo the file is again what it was before,
or, where others have changed it since, what it is without tidepool. --root is for trying it out, and for images that
are being built.`,
		ValidArgs: deploy.Clients(),
		Args:      cobra.MatchAll(single("say which client: "+strings.Join(deploy.Clients(), ", ")), cobra.OnlyValidArgs),
	}
	load := settings(cmd, "listen", "tls-cert", "tls-key")
	address := cmd.Flags().String("address", "", "`HOST:PORT` by which clients reach the server, https:// before it where that is not in this machine's configuration (default: where it listens)")
	fallback := cmd.Flags().Bool("fallback", false, "let the client ask the registry itself for what the server cannot bring")
	write := cmd.Flags().Bool("write", false, "put it into the client's file")
	undo := cmd.Flags().Bool("undo", false, "take out of the client's file what --write put there")
	root := cmd.Flags().String("root", "/", "`DIR` below which --write and --undo find the client's file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *write && *undo:
			return usageError{errors.New("--write and --undo are opposites: say one of them")}
		case cmd.Flags().Changed("root") && (!*write && !*undo || *root == ""):
			return usageError{errors.New("--root says below which directory --write or --undo finds the client's file: say one of them, and a directory")}
		case *undo:
			return carryOut(cmd, func() (setup.Done, error) { return setup.Undo(*root, args[0]) })
		}
		at, err := serverAddress(*address, load)
		if err != nil {
			return err
		}
		to := deploy.Server{Address: at, Fallback: *fallback}
		if *write {
			return carryOut(cmd, func() (setup.Done, error) { return setup.Write(*root, args[0], to) })
		}
		hints, snippet := deploy.Client(args[0], to)
		fmt.Fprint(cmd.ErrOrStderr(), hints)
		_, err = fmt.Fprint(cmd.OutOrStdout(), snippet)
		return err
	}
	return cmd
}

// plainAddress is what stands in a client's file without being taken for anything else there.
var plainAddress = regexp.MustCompile(`^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$`)

// serverAddress is the address by which clients reach the server, the one that was given, else where it listens; with
// https:// before it where it speaks TLS.
func serverAddress(given string, load func() (config.Loaded, error)) (string, error) {
	scheme, address, said := strings.Cut(given, "://")
	if !said {
		cfg, err := load()
		if err != nil {
			return "", err
		}
		scheme, address = schemeOf(cfg.Config), given
		if given == "" {
			address = reachable(string(cfg.Listen))
		}
	}
	switch {
	case !plainAddress.MatchString(address), scheme != "http" && scheme != "https":
		return "", usageError{fmt.Errorf("--address: no client reaches a server by %q: write HOST:PORT, as 10.0.0.1:5000 or tidepool.corp:5000", given)}
	case scheme == "https":
		return "https://" + address, nil
	}
	return address, nil
}

// carryOut does something to a client's file and says what became of it, and on stderr what is to be done then.
func carryOut(cmd *cobra.Command, do func() (setup.Done, error)) error {
	done, err := do()
	var none setup.NoFileError
	switch {
	case errors.As(err, &none):
		return usageError{err}
	case err != nil:
		return err
	}
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), done); err != nil {
		return err
	}
	if done.Next != "" {
		fmt.Fprintln(cmd.ErrOrStderr(), done.Next)
	}
	return nil
}

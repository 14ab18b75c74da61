// Command tidepool is a pull-through caching registry proxy: clients pull container images from it as from any
// registry; what it does not hold it streams from the upstream hub, keeps, and serves from then on.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

// The exit codes. A second signal ends at once with 128 and its number.
const (
	failed     = 1 // what was asked for could not be done
	misasked   = 2 // by wrong flags, arguments or configuration
	partlyDone = 3 // some of it could not be done
)

func main() {
	ctx := untilSignal(context.Background())
	os.Exit(execute(ctx, os.Args[1:], os.Stderr))
}

// execute runs one command line and gives its exit code. What went wrong is said once, here.
func execute(ctx context.Context, args []string, stderr io.Writer) int {
	root := rootCmd()
	began := false
	root.PersistentPreRun = func(*cobra.Command, []string) { began = true }
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return 0
	case !began:
		fmt.Fprintf(stderr, "tidepool: %v\nsee %s --help\n", err, cmd.CommandPath())
		return misasked
	default:
		fmt.Fprintf(stderr, "tidepool: %s\n", worded(err))
		return codeOf(err)
	}
}

// worded is err as a person reads it: several faults of the configuration are a list.
func worded(err error) string {
	var faults config.Faults
	if errors.As(err, &faults) && len(faults) > 1 {
		return fmt.Sprintf("the configuration has %d faults, and nothing was started:\n%v", len(faults), faults)
	}
	return err.Error()
}

// codeOf is the exit code for what a command returned.
func codeOf(err error) int {
	var faults config.Faults
	var wrong usageError
	var partly partlyError
	switch {
	case errors.As(err, &faults) || errors.As(err, &wrong):
		return misasked
	case errors.As(err, &partly):
		return partlyDone
	}
	return failed
}

// usageError says that it was asked wrongly: nothing was begun.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func rootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:           "tidepool",
		Short:         "A pull-through caching registry proxy",
		Long:          "Tidepool keeps what is pulled through it and serves it from then on, also when the registry is slow, limits pulls or is gone.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          chooseOne,
	}
	root.AddCommand(serveCmd(), configCmd(), setupCmd(), statusCmd(), warmCmd(), pinCmd(), unpinCmd(), purgeCmd(), historyCmd(), ringCmd(), healthCmd(), versionCmd(), manCmd(), demoCmd())
	return root
}

// chooseOne is what a command does that only has others below it.
func chooseOne(cmd *cobra.Command, _ []string) error {
	_ = cmd.Help() // to stdout, which cannot be helped if it fails
	return usageError{errors.New("say which command")}
}

// single wants one argument, and where there are none or several says which.
func single(say string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%s; there are %d here, and there must be one", say, len(args))
		}
		return nil
	}
}

// untilSignal is ctx until SIGINT or SIGTERM comes, which asks for an orderly end. The second one ends at once.
func untilSignal(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() { // lives as long as the process
		<-signals
		cancel()
		s := <-signals
		if n, ok := s.(syscall.Signal); ok {
			os.Exit(128 + int(n))
		}
	}()
	return ctx
}

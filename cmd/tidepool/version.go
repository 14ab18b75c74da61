package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/tidepool-oci/tidepool/proxy/admin"
)

// version is set when a release is linked (-X main.version=1.2.3).
var version string

// build says what is running, as far as it was told when it was built.
func build() admin.Build {
	b := admin.Build{Version: version, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Revision = s.Value
			}
		}
		if b.Version == "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
	}
	if b.Version == "" {
		b.Version = "dev"
	}
	return b
}

func versionCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Print which tidepool this is", Args: cobra.NoArgs}
	inJSON := output(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := inJSON()
		if err != nil {
			return err
		}
		b := build()
		if asJSON {
			return printJSON(cmd.OutOrStdout(), struct {
				Schema int `json:"schema"`
				admin.Build
			}{1, b})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "tidepool %s %s %s/%s\n", b.Version, b.Go, runtime.GOOS, runtime.GOARCH)
		return err
	}
	return cmd
}

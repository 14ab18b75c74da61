package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
	"github.com/tidepool-oci/tidepool/deploy"
)

func configCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check, show and explain the configuration", Args: cobra.NoArgs, RunE: chooseOne}
	cmd.AddCommand(configCheckCmd(), configShowCmd(), configExampleCmd(), configSchemaCmd())
	return cmd
}

func configCheckCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Say all that is wrong with the configuration, as serve would, and start nothing",
		Long:  "Say all that is wrong with the configuration, as serve would, and start nothing. FILE is what --config would name.",
		Args:  cobra.MaximumNArgs(1),
	}
	load := settings(cmd)
	inJSON := output(cmd)
	strict := cmd.Flags().Bool("strict", false, "take unknown TIDEPOOL_ variables for faults")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asJSON, err := inJSON()
		if err != nil {
			return err
		}
		if err := name(cmd, args); err != nil {
			return err
		}
		cfg, err := load()
		if err == nil && *strict && len(cfg.Warnings) > 0 {
			err = strictly(cfg.Warnings)
		} else {
			warn(cmd, cfg.Warnings)
		}
		if err == nil { // Load does not look: who asks for a setup or the status need not be able to read a key
			if _, e := openTLS(cfg.Config, nil); e != nil {
				err = usageError{e}
			}
		}
		if asJSON {
			return errors.Join(printJSON(cmd.OutOrStdout(), report(cfg, err)), err)
		}
		if err == nil {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), orDefaults(cfg.File)+": no faults")
		}
		return err
	}
	return cmd
}

// name takes the file from the arguments, where there is one, as if --config had named it.
func name(cmd *cobra.Command, args []string) error {
	file := cmd.Flags().Lookup("config")
	switch {
	case len(args) == 0:
		return nil
	case args[0] == "":
		return usageError{errors.New("the FILE to read is empty: name one, or none for the usual places")}
	case file.Changed && file.Value.String() != args[0]:
		return usageError{fmt.Errorf("%s and --config %s are two files, and one is read: name it once", args[0], file.Value)}
	default:
		return file.Value.Set(args[0])
	}
}

func strictly(warnings []string) config.Faults {
	var faults config.Faults
	for _, w := range warnings {
		faults = append(faults, config.Fault{What: w})
	}
	return faults
}

func orDefaults(file string) string {
	if file == "" {
		return "no file, defaults only"
	}
	return file
}

// checked is the outcome of config check for programs.
type checked struct {
	Schema   int      `json:"schema"`
	File     string   `json:"file,omitempty"`
	Faults   []fault  `json:"faults"`
	Warnings []string `json:"warnings"`
}

type fault struct {
	Origin  string `json:"origin"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

func report(cfg config.Loaded, err error) checked {
	c := checked{Schema: 1, File: cfg.File, Faults: []fault{}, Warnings: append([]string{}, cfg.Warnings...)}
	var faults config.Faults
	if err != nil && !errors.As(err, &faults) {
		faults = config.Faults{{What: err.Error()}}
	}
	for _, f := range faults {
		c.Faults = append(c.Faults, fault{f.At.String(), f.At.Line, f.At.Column, f.What})
	}
	return c
}

func configShowCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show [FILE]",
		Short: "Print the values that hold and where each was said, secrets masked",
		Long:  "Print the values that hold and where each was said, secrets masked. FILE is what --config would name.",
		Args:  cobra.MaximumNArgs(1),
	}
	load := settings(cmd)
	inJSON := output(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asJSON, err := inJSON()
		if err != nil {
			return err
		}
		if err := name(cmd, args); err != nil {
			return err
		}
		cfg, err := load()
		warn(cmd, cfg.Warnings)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), struct {
				Schema int            `json:"schema"`
				File   string         `json:"file,omitempty"`
				Values []config.Value `json:"values"`
			}{1, cfg.File, cfg.Values()})
		}
		t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "KEY\tVALUE\tORIGIN")
		for _, v := range cfg.Values() {
			fmt.Fprintf(t, "%s\t%s\t%s\n", v.Key, v.Value, v.Origin)
		}
		return t.Flush()
	}
	return cmd
}

func configExampleCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "example",
		Short: "Print the manual: a configuration file with every key explained",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(deploy.Config)
			return err
		},
	}
}

func configSchemaCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print a JSON Schema of the file, for editors",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := config.Schema()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", b)
			return err
		},
	}
}

// printJSON writes one document for programs.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

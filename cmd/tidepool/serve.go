package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tidepool-oci/tidepool/cmd/tidepool/config"
)

func serveCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve pulls until SIGTERM",
		Long: "Serve pulls until SIGTERM or SIGINT. Every flag is also a key of the configuration file and a TIDEPOOL_ variable;\n" +
			"flags win over variables, variables over the file. tidepool config example explains the file.",
		Args: cobra.NoArgs,
	}
	load := settings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			warn(cmd, cfg.Warnings)
			return err
		}
		log, lines := logger(cfg.Log, cmd.ErrOrStderr())
		defer lines.Close()
		// Go ends a program whose stderr is a pipe that nobody has any more: here that is a log that cannot be written.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
		// net/http's client writes there what a hub sends unasked: bytes of strangers, past everything that cleans them.
		stdlog.SetOutput(io.Discard)
		preface(cfg, log)
		return serve(cmd.Context(), cfg.Config, log, world{dropped: lines.dropped.Load}, cmd.OutOrStdout())
	}
	return cmd
}

// serve runs until ctx ends, and then ends in order.
func serve(ctx context.Context, cfg config.Config, log *zap.Logger, w world, out io.Writer) error {
	r, err := start(ctx, cfg, log, w)
	if err != nil {
		return err
	}
	greeting := newSink(out, func(uint64) []byte { return nil }) // who does not read it must not keep us from ending
	defer greeting.Close()
	greet(greeting, r)
	err = r.underSystemd(ctx)
	return errors.Join(err, r.stop(context.WithoutCancel(ctx)))
}

// logger writes lines as the configuration wants them, by a sink that its owner closes. None is left out while out takes
// them, for an access log with holes proves nothing; and where there are holes, a line says so.
func logger(c config.Log, out io.Writer) (*zap.Logger, *sink) {
	encoder := form(c)
	level, err := zapcore.ParseLevel(string(c.Level))
	if err != nil {
		level = zapcore.InfoLevel // of a Config that Load did not make
	}
	lines := newSink(out, func(dropped uint64) []byte { return gap(encoder, dropped) })
	return zap.New(zapcore.NewCore(encoder, lines, level)), lines
}

// form is how lines look.
func form(c config.Log) zapcore.Encoder {
	keys := zap.NewProductionEncoderConfig()
	keys.NameKey, keys.EncodeTime, keys.EncodeDuration = "component", zapcore.ISO8601TimeEncoder, zapcore.StringDurationEncoder
	if c.Format == "json" {
		return zapcore.NewJSONEncoder(keys)
	}
	return zapcore.NewConsoleEncoder(keys)
}

// gap is the line that tells of lines that are missing before it.
func gap(encoder zapcore.Encoder, dropped uint64) []byte {
	line, err := encoder.EncodeEntry(zapcore.Entry{
		Level: zap.WarnLevel, Time: time.Now(), LoggerName: "log",
		Message: "lines were dropped: whoever reads the log did not take them, and pulls do not wait for that",
	}, []zap.Field{zap.Uint64("dropped", dropped)})
	if err != nil {
		return nil // of a number in a buffer: there is nothing to fail
	}
	return line.Bytes()
}

// preface logs what an operator wants to know about how this start came about.
func preface(cfg config.Loaded, log *zap.Logger) {
	for _, w := range cfg.Warnings {
		log.Warn(w)
	}
	file := cfg.File
	if file == "" {
		file = "none"
	}
	b := build()
	log.Info("starting", zap.String("version", b.Version), zap.String("go", b.Go), zap.String("config", file))
	collectSeldom(os.Getenv("GOGC"))
	if limit, ok := limitMemory(os.DirFS("/"), os.Getenv("GOMEMLIMIT")); ok {
		log.Info("memory limit set from the cgroup", zap.Stringer("limit", config.Size(limit)))
	}
	if cfg.Listen.Public() {
		log.Warn("everyone who reaches this address may pull what tidepool may pull", zap.String("listen", string(cfg.Listen)))
	}
	if cfg.Admin.Public() {
		log.Warn("everyone who reaches this address may purge, pin and switch offline, as the admin listener asks for no login",
			zap.String("admin", string(cfg.Admin)))
	}
}

// greet tells a person what they have now and what to do with it.
func greet(out io.Writer, r *running) {
	clients, admin := reachable(r.addr.String()), "off"
	if r.adminAddr != nil {
		admin = "http://" + reachable(r.adminAddr.String())
	}
	fmt.Fprintf(out, `tidepool %[1]s serves pulls
  clients     %[5]s://%[2]s
  admin       %[3]s
  data        %[4]s
  docker      "registry-mirrors": ["%[5]s://%[2]s"]     in /etc/docker/daemon.json
  containerd  server = "%[5]s://%[2]s"     and [host] in /etc/containerd/certs.d/_default/hosts.toml
For all of a client's file, and for other clients: tidepool setup --help
`, build().Version, clients, admin, r.cfg.Data, r.scheme())
}

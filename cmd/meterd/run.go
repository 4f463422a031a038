package main

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
)

func newRunCommand(env *environment) *cobra.Command {
	var opts app.Options
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Count usage until told to stop",
		Long: `Count usage until told to stop.

SIGTERM and Ctrl-C hand the partitions over: what was folded is committed, what
was committed is written to disk. A second signal ends the process at once,
which costs nothing but the time to restore.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&opts.CreateTopics, "create-topics", false, "make the topics that are missing, but the usage topic")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := env.runConfig()
		if err != nil {
			return err
		}
		log, err := env.logger(cfg.Log)
		if err != nil {
			return err
		}
		defer func() { _ = log.Sync() }() // fails on terminals; nothing to do about it
		ctx, stop := untilSignal(cmd)
		defer stop()
		return app.Run(ctx, cfg, opts, log, newRegistry())
	}
	return cmd
}

// newRegistry returns a registry that knows of the process and the build.
func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	build := readBuild()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "meterd_build_info", Help: "1, labelled with what is running.",
		ConstLabels: prometheus.Labels{"version": build.Version, "commit": build.Commit},
	})
	info.Set(1)
	reg.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// logger writes to standard error as configured.
func (e *environment) logger(cfg config.Log) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(cfg.Level)
	if err != nil {
		return nil, exitError{exitUsage, fmt.Errorf("log.level: %w", err)}
	}
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime, encoding.TimeKey = zapcore.RFC3339NanoTimeEncoder, "time"
	encoder := zapcore.NewJSONEncoder(encoding)
	if cfg.Format == "console" {
		encoder = zapcore.NewConsoleEncoder(encoding)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(e.stderr)), level)), nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/loadgen"
	"github.com/meterd/meterd/internal/schema"
)

func newLoadgenCommand(env *environment) *cobra.Command {
	load := loadgen.Default()
	var ledger, start string
	cmd := &cobra.Command{
		Use:   "loadgen",
		Short: "Write synthetic usage events, and a ledger of what they add up to",
		Long: `Write synthetic usage events to the usage topic, and a ledger of what they add
up to. Event i is a pure function of the seed and i: a run can be repeated, and
continued with --first-event. Ctrl-C ends it early; the ledger is right all the
same.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.Int64Var(&load.Events, "events", load.Events, "how many `events` to write")
	f.IntVar(&load.Rate, "rate", load.Rate, "events a `second`; 0: as fast as the brokers take them")
	f.IntVar(&load.Clients, "clients", load.Clients, "`number` of clients")
	f.Float64Var(&load.Zipf, "zipf", load.Zipf, "`exponent` of how use is spread over clients; 0: evenly")
	f.Uint64Var(&load.Seed, "seed", load.Seed, "`number` that everything random comes from")
	f.Int64Var(&load.First, "first-event", load.First, "`number` of the first event")
	f.Float64Var(&load.Duplicates, "duplicates", load.Duplicates, "`share` of events that repeat an earlier one")
	f.Float64Var(&load.Undecodable, "undecodable", load.Undecodable, "`share` of records that are no events")
	f.Float64Var(&load.Late, "late", load.Late, "`share` of events whose time lies back")
	f.Float64Var(&load.Voids, "voids", load.Voids, "`share` of events that take back one written shortly before")
	f.Float64Var(&load.Negative, "negative", load.Negative, "`share` of events whose quantity is below zero")
	f.IntVar(&load.Dimensions, "dimensions", load.Dimensions, "`number` of endpoints (properties.endpoint); 0: a few, not in all events")
	f.Float64Var(&load.SecondSchema, "second-schema", load.SecondSchema, "`share` of events written with a second schema")
	f.IntVar(&load.Contracts, "contracts", load.Contracts, "`number` of clients that get a contract")
	f.StringVar(&start, "start", "", "`time` (RFC 3339) of the first event; by default each event has the time at which it is written")
	f.DurationVar(&load.Span, "span", load.Span, "`time` that the events are spread over, from --start on")
	f.StringVar(&ledger, "ledger", "", "`file` for the ledger; must not exist")
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if start != "" {
			at, err := time.Parse(time.RFC3339, start)
			if err != nil {
				return exitError{exitUsage, fmt.Errorf("--start: %q is not RFC 3339", start)}
			}
			load.Start = at
		}
		if err := load.Validate(); err != nil {
			return exitError{exitUsage, err}
		}
		cfg, err := env.loadConfig()
		if err != nil {
			return err
		}
		load.LateBy = min(load.LateBy, cfg.Usage.AllowedLateness.Duration()/2) // late, but to be counted
		ctx, stop := untilSignal(cmd)
		defer stop()
		return env.withCluster(cmd, cfg, func(cluster *kafka.Cluster) error {
			summary, err := writeLoad(ctx, cfg, cluster, load, ledger)
			if err != nil {
				return err
			}
			return env.printLoad(summary, format.value)
		})
	}
	return cmd
}

// writeLoad writes the load, and its ledger into the file called path, if any.
func writeLoad(ctx context.Context, cfg *config.Config, cluster *kafka.Cluster, load loadgen.Load, path string) (summary loadgen.Summary, err error) {
	target, err := loadTarget(ctx, cfg, cluster)
	if err != nil {
		return summary, err
	}
	producer, err := cluster.NewProducer(ctx)
	if err != nil {
		return summary, fmt.Errorf("producer: %w", err)
	}
	parts := loadgen.Parts{Appender: producer}
	if cfg.Usage.Format == string(schema.Avro) {
		codecs, err := app.NewCodecs(ctx, cfg, zap.NewNop(), prometheus.NewRegistry())
		if err != nil {
			return summary, err
		}
		parts.Registry = codecs.Registry
	}
	if path != "" {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) //nolint:gosec // a ledger is no secret
		if err != nil {
			return summary, fmt.Errorf("--ledger: %w", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		parts.Ledger = file
	}
	return loadgen.Run(ctx, load, target, parts)
}

func loadTarget(ctx context.Context, cfg *config.Config, cluster *kafka.Cluster) (loadgen.Target, error) {
	partitions, err := app.UsagePartitions(ctx, cluster, cfg)
	if err != nil {
		return loadgen.Target{}, err
	}
	partitioner, err := kafka.NewPartitioner(cfg.Usage.Partitioner)
	if err != nil {
		return loadgen.Target{}, fmt.Errorf("usage.partitioner: %w", err)
	}
	catalog, err := cfg.Catalog()
	if err != nil {
		return loadgen.Target{}, fmt.Errorf("schedule: %w", err)
	}
	return loadgen.Target{
		Topic: cfg.Usage.Topic, Partitions: partitions, Partitioner: partitioner, ContractsTopic: cfg.Contracts.Topic,
		Format:  schema.Format(cfg.Usage.Format),
		Mapping: app.Mapping(cfg),
		Catalog: &catalog,
	}, nil
}

func (e *environment) printLoad(s loadgen.Summary, format string) error {
	if format == outputJSON {
		return e.writeJSON(s)
	}
	_, err := fmt.Fprintf(e.stdout, "%d events in %s (%.0f a second): %d duplicates, %d undecodable, %d late, %d voids; %d contracts; the next event is %d\n",
		s.Events, s.Took.Round(time.Millisecond), s.Rate(), s.Duplicates, s.Undecodable, s.Late, s.Voids, s.Contracts, s.Next)
	return err
}

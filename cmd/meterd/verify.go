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
	"github.com/meterd/meterd/internal/verify"
)

// verifyFlags are what verify is told beside the configuration.
type verifyFlags struct {
	ledgers   []string
	http      string
	tokenFile string
	wait      time.Duration
}

func newVerifyCommand(env *environment) *cobra.Command {
	var flags verifyFlags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Recount everything from the topics, and print each difference; exit status 3 if there is any",
		Long: `Recount from the usage topic what every counter, limit event and position must
be, and compare that with the changelog, the limit events and states, the dead
letters and, if wanted, HTTP and the ledgers of loadgen. One line is printed for
each difference; exit status 3 if there is any.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringArrayVar(&flags.ledgers, "ledger", nil, "`file` that loadgen wrote; give those of all that is on the topic")
	f.StringVar(&flags.http, "http", "", "`URL` of a running meterd whose answers are to be compared too")
	f.StringVar(&flags.tokenFile, "token-file", "", "`file` with the bearer token for --http")
	f.DurationVar(&flags.wait, "wait", 0, "`time` that meterd may take to reach the end of the usage topic first")
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := env.loadConfig()
		if err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		return env.withCluster(cmd, cfg, func(cluster *kafka.Cluster) error {
			return env.verify(ctx, cfg, cluster, flags, format.value)
		})
	}
	return cmd
}

func (e *environment) verify(ctx context.Context, cfg *config.Config, cluster *kafka.Cluster, flags verifyFlags, format string) error {
	check, err := verifyConfig(cfg)
	if err != nil {
		return err
	}
	check.Wait = flags.wait
	parts := verify.Parts{Cluster: cluster}
	codecs, err := app.NewCodecs(ctx, cfg, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		return err
	}
	parts.Decoder, parts.Events = codecs.Usage, codecs.LimitEvents
	for _, path := range flags.ledgers {
		ledger, err := readLedger(path)
		if err != nil {
			return fmt.Errorf("--ledger %s: %w", path, err)
		}
		parts.Ledgers = append(parts.Ledgers, ledger)
	}
	if flags.http != "" {
		parts.HTTP = &verify.HTTP{URL: flags.http}
		if flags.tokenFile != "" {
			if parts.HTTP.Token, err = config.ReadSecret(flags.tokenFile); err != nil {
				return fmt.Errorf("--token-file: %w", err)
			}
		}
	}
	found := []string{}
	parts.Found = func(d verify.Difference) {
		if format == outputJSON {
			found = append(found, d.String())
			return
		}
		fmt.Fprintln(e.stdout, d)
	}
	report, err := verify.Run(ctx, check, parts)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	return e.printReport(report, found, format)
}

func (e *environment) printReport(r verify.Report, found []string, format string) error {
	if format == outputJSON {
		if err := e.writeJSON(struct {
			verify.Report
			Found []string `json:"found"`
		}{r, found}); err != nil {
			return err
		}
	} else {
		for _, text := range r.Unchecked {
			fmt.Fprintln(e.stdout, "not checked:", text)
		}
		fmt.Fprintf(e.stdout, "%d records of %d partitions: %d counted, %d duplicates, %d voids, %d that may be either, %d ignored, %d dead letters; %d counters, %d limit events, %d HTTP answers; %d differences\n",
			r.Records, r.Partitions, r.Counted, r.Duplicates, r.Voided, r.Doubtful, r.Ignored, r.DeadLettered, r.Counters, r.LimitEvents, r.Answers, r.Differences)
	}
	switch {
	case r.Differences > 0:
		return exitError{code: exitWrong}
	case len(r.Unchecked) > 0:
		return errUnchecked
	}
	return nil
}

// errUnchecked is returned when nothing was found wrong, but something could
// not be looked at.
var errUnchecked = errors.New("verify: not everything could be checked")

func verifyConfig(cfg *config.Config) (verify.Config, error) {
	catalog, err := cfg.Catalog()
	if err != nil {
		return verify.Config{}, fmt.Errorf("schedule: %w", err)
	}
	v := verify.Config{
		ApplicationID: cfg.ApplicationID,
		Topics: verify.Topics{
			Usage: cfg.Usage.Topic, Contracts: cfg.Contracts.Topic, Changelog: cfg.ChangelogTopic,
			LimitEvents: cfg.LimitEvents.Topic, LimitState: cfg.LimitEvents.StateTopic, DeadLetters: cfg.DeadLetterTopic,
		},
		Catalog: &catalog, MeterMapped: cfg.Usage.Fields.Meter != "", VoidMapped: cfg.Usage.Fields.Void != "",
		DedupeWindow: app.DedupeWindow(cfg),
		MaxFuture:    cfg.Usage.MaxFuture.Duration(), AllowedLateness: cfg.Usage.AllowedLateness.Duration(),
		DeadLetterUnknown: cfg.Usage.UnknownMeter == "dead_letter", KeepPeriods: cfg.State.KeepPeriods,
		History: cfg.History.Druid != nil, MarkSeeded: cfg.History.OnCrossed == "mark",
	}
	return v, nil
}

func readLedger(path string) (ledger *loadgen.Ledger, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return loadgen.ReadLedger(file)
}

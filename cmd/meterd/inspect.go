package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/store"
)

func newInspectCommand(env *environment) *cobra.Command {
	cmd := newGroupCommand("inspect", "Look at what meterd keeps, and change nothing")
	cmd.AddCommand(newInspectStoreCommand(env), newInspectChangelogCommand(env), newInspectTransactionsCommand(env))
	return cmd
}

// inspectFlags say what is looked at.
type inspectFlags struct {
	client    string
	partition int32
}

// allPartitions is the value of --partition by default.
const allPartitions = -1

func addInspectFlags(cmd *cobra.Command) *inspectFlags {
	var flags inspectFlags
	cmd.Flags().StringVar(&flags.client, "client", "", "show what is kept of this `client`, too")
	cmd.Flags().Int32Var(&flags.partition, "partition", allPartitions, "only this `partition`; by default all")
	return &flags
}

// among returns which of the partitions that there are is to be looked at.
func (f *inspectFlags) among(there []int32) ([]int32, error) {
	switch {
	case f.partition == allPartitions:
		return there, nil
	case slices.Contains(there, f.partition):
		return []int32{f.partition}, nil
	}
	return nil, exitError{exitUsage, fmt.Errorf("--partition %d: there is none, but %d others", f.partition, len(there))}
}

func newInspectStoreCommand(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Show what the local state (state.dir) of a stopped meterd has",
		Args:  cobra.NoArgs,
	}
	flags := addInspectFlags(cmd)
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := env.loadConfig()
		if err != nil {
			return err
		}
		report, err := inspectStore(cfg.State.Dir, flags)
		if err != nil {
			return fmt.Errorf("state.dir: %w", err)
		}
		if format.value == outputJSON {
			return env.writeJSON(report)
		}
		fmt.Fprintf(env.stdout, "%s: %s\n", report.Dir, report.Identity)
		return env.printHoldings(report.Partitions)
	}
	return cmd
}

// storeReport is what inspect store prints as JSON.
type storeReport struct {
	Dir        string         `json:"dir"`
	Identity   store.Identity `json:"identity"`
	Partitions []holding      `json:"partitions"`
}

func inspectStore(dir string, flags *inspectFlags) (report storeReport, err error) {
	report = storeReport{Dir: dir, Partitions: []holding{}}
	report.Identity, err = store.Identify(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return report, fmt.Errorf("there is no local state in %s", dir)
	}
	if err != nil {
		return report, err
	}
	local, err := store.Open(store.Config{Dir: dir}, report.Identity, zap.NewNop(), prometheus.NewRegistry())
	if errors.Is(err, store.ErrInUse) {
		return report, fmt.Errorf("%w: stop it first, or ask it by 'meterd explain' and 'meterd assignments'", err)
	}
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, local.Close()) }()
	there, err := local.Partitions()
	if err != nil {
		return report, err
	}
	partitions, err := flags.among(there)
	if err != nil {
		return report, err
	}
	for _, p := range partitions {
		i := newInspection(flags.client)
		marker, _, err := local.Load(p, func(key string, value []byte) error {
			i.take([]byte(key), value)
			return nil
		})
		if err != nil {
			return report, err
		}
		report.Partitions = append(report.Partitions, i.holding(p, marker.Changelog))
	}
	return report, nil
}

func newInspectChangelogCommand(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "changelog",
		Short: "Show what the changelog has, which is the truth",
		Args:  cobra.NoArgs,
	}
	flags := addInspectFlags(cmd)
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := env.loadConfig()
		if err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		return env.withCluster(cmd, cfg, func(cluster *kafka.Cluster) error {
			report, err := inspectChangelog(ctx, cluster, cfg, flags)
			if err != nil {
				return fmt.Errorf("changelog_topic: %w", err)
			}
			if format.value == outputJSON {
				return env.writeJSON(report)
			}
			return env.printHoldings(report.Partitions)
		})
	}
	return cmd
}

// changelogReport is what inspect changelog prints as JSON.
type changelogReport struct {
	Topic      string    `json:"topic"`
	Partitions []holding `json:"partitions"`
}

func inspectChangelog(ctx context.Context, cluster *kafka.Cluster, cfg *config.Config, flags *inspectFlags) (changelogReport, error) {
	report := changelogReport{Topic: cfg.ChangelogTopic, Partitions: []holding{}}
	n, err := cluster.Partitions(ctx, cfg.ChangelogTopic)
	if err != nil {
		return report, err
	}
	var there []int32
	for p := range n {
		there = append(there, p)
	}
	partitions, err := flags.among(there)
	if err != nil {
		return report, err
	}
	for _, p := range partitions {
		i := newInspection(flags.client)
		end, err := cluster.Read(ctx, cfg.ChangelogTopic, p, kafka.Earliest, kafka.Latest, func(b kafka.Batch) error {
			for _, r := range b.Records {
				i.take(r.Key, r.Value)
			}
			return nil
		})
		if err != nil {
			return report, err
		}
		report.Partitions = append(report.Partitions, i.holding(p, end))
	}
	return report, nil
}

func newInspectTransactionsCommand(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "transactions",
		Short: "Show which transactions are open on meterd's topics, and which of them hang",
		Long: `Show which transactions are open on the usage topic and on meterd's own.

Whoever reads committed records waits at START for the transaction's end. One
that hangs is not known to Kafka's coordinator and never ends by itself:
kafka-transactions.sh abort ends it. Takes Kafka 3.0 or later.`,
		Args: cobra.NoArgs,
	}
	format := outputFlag(cmd, outputTable, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := env.loadConfig()
		if err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		return env.withCluster(cmd, cfg, func(cluster *kafka.Cluster) error {
			topics := []string{cfg.Usage.Topic}
			for _, spec := range app.Topics(cfg, 0) {
				topics = append(topics, spec.Name)
			}
			open, err := cluster.OpenTransactions(ctx, topics...)
			if err != nil {
				return fmt.Errorf("transactions: %w", err)
			}
			return env.printTransactions(open, format.value)
		})
	}
	return cmd
}

// openTransaction is a transaction as inspect transactions prints it.
type openTransaction struct {
	Topic           string     `json:"topic"`
	Partition       int32      `json:"partition"`
	Start           int64      `json:"start"`
	Written         time.Time  `json:"last_write"`
	ProducerID      int64      `json:"producer_id"`
	ProducerEpoch   int32      `json:"producer_epoch"`
	TransactionalID string     `json:"transactional_id"`
	State           string     `json:"state"`
	Began           *time.Time `json:"began"`
	Hanging         bool       `json:"hanging"`
}

func (e *environment) printTransactions(open []kafka.OpenTransaction, format string) error {
	list := []openTransaction{}
	for i := range open {
		t := &open[i]
		shown := openTransaction{
			Topic: t.Topic, Partition: t.Partition, Start: t.Start, Written: t.Written.UTC(), ProducerID: t.ProducerID,
			ProducerEpoch: t.Epoch, TransactionalID: t.ID, State: t.State, Hanging: t.Hanging,
		}
		if !t.Began.IsZero() {
			shown.Began = new(t.Began.UTC())
		}
		list = append(list, shown)
	}
	if format == outputJSON {
		return e.writeJSON(struct {
			Transactions []openTransaction `json:"transactions"`
		}{list})
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(e.stdout, "no transaction is open")
		return err
	}
	rows := [][]string{{"TOPIC", "PARTITION", "START", "LAST WRITE", "PRODUCER", "TRANSACTIONAL ID", "STATE"}}
	for i := range list {
		rows = append(rows, list[i].row())
	}
	return e.writeTable(rows...)
}

func (t *openTransaction) row() []string {
	state := t.State
	if t.Hanging {
		state = "HANGS"
		if t.State != "" {
			state += ", its id is in state " + t.State
		}
	}
	id := t.TransactionalID
	if id == "" {
		id = "-"
	}
	return []string{
		t.Topic, strconv.Itoa(int(t.Partition)), strconv.FormatInt(t.Start, 10), t.Written.Format(time.RFC3339Nano),
		fmt.Sprintf("%d, epoch %d", t.ProducerID, t.ProducerEpoch), id, state,
	}
}

package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/failpoint"
	"github.com/meterd/meterd/internal/kafka"
)

// ContractReader keeps the table of contracts in step with its topic.
type ContractReader struct {
	cluster  *kafka.Cluster
	fetcher  *kafka.Fetcher
	topic    string
	table    *contracts.Table
	changed  func()
	log      *zap.Logger
	ready    chan struct{}
	rejected prometheus.Counter
}

// NewContractReader returns a reader that calls changed after each batch of
// changes, once the topic was read to its end for the first time.
func NewContractReader(cluster *kafka.Cluster, fetcher *kafka.Fetcher, topic string, table *contracts.Table, changed func(), log *zap.Logger, reg prometheus.Registerer) *ContractReader {
	r := &ContractReader{
		cluster: cluster, fetcher: fetcher, topic: topic, table: table, changed: changed, log: log, ready: make(chan struct{}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_contracts_rejected_total", Help: "Revisions of contracts that could not come into force.",
		}),
	}
	reg.MustRegister(r.rejected)
	return r
}

// Ready is closed when the table has all that the topic had at the start.
func (r *ContractReader) Ready() <-chan struct{} { return r.ready }

// Run reads the topic until ctx ends.
func (r *ContractReader) Run(ctx context.Context) error {
	began := time.Now()
	next, err := r.cluster.Read(ctx, r.topic, 0, kafka.Earliest, kafka.Latest, r.take)
	if err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is why
		}
		return fmt.Errorf("read contracts: %w", err)
	}
	r.table.ReadUpTo(next)
	close(r.ready)
	r.log.Info("contracts read", zap.Int64("position", next), zap.Int("contracts", len(r.table.Entries())), zap.Duration("took", time.Since(began)))
	subscription, err := r.fetcher.Subscribe(r.topic, 0, next)
	if err != nil {
		return fmt.Errorf("read contracts: %w", err)
	}
	defer subscription.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case batch, ok := <-subscription.Batches():
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("read contracts: %w", subscription.Err())
			}
			_ = r.take(batch) // it never fails
			r.changed()
		}
	}
}

func (r *ContractReader) take(batch kafka.Batch) error {
	for i := range batch.Records {
		record := &batch.Records[i]
		if err := r.table.Apply(record.Key, record.Value, record.Offset); err != nil {
			r.rejected.Inc()
			r.log.Warn("contract rejected, the last good revision stays in force",
				zap.ByteString("contract", record.Key), zap.Int64("revision", record.Offset), zap.Error(err))
		}
	}
	r.table.ReadUpTo(batch.Next)
	failpoint.Hit(failpoint.ContractTaken)
	return nil
}

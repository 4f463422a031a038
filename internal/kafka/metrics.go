package kafka

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// clusterMetrics are the figures of one Cluster and of all that it makes.
type clusterMetrics struct {
	transactions *prometheus.CounterVec
	duration     prometheus.Histogram
	inits        prometheus.Counter
	fetchBytes   prometheus.Counter
	fetches      prometheus.Counter
	rebalances   prometheus.Counter
	lost         prometheus.Counter
}

// newMetrics registers the metrics; several Clusters on one registerer share
// them. A nil registerer keeps them unseen.
func newMetrics(reg prometheus.Registerer) (*clusterMetrics, error) {
	m := &clusterMetrics{
		transactions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meterd_transactions_total", Help: "Transactions by outcome.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meterd_transaction_duration_seconds", Help: "From the begin of a transaction to its outcome.",
			Buckets:                     prometheus.ExponentialBuckets(0.001, 2, 14),
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}),
		inits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_transaction_inits_total", Help: "Times a transactional id was fenced anew.",
		}),
		fetchBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_fetch_bytes_total", Help: "Bytes of keys, values and headers read, uncompressed.",
		}),
		fetches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_fetch_requests_total", Help: "Fetch requests.",
		}),
		rebalances: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_rebalances_total", Help: "Generations of the group this process has joined.",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_memberships_lost_total", Help: "Times the membership ended without a hand-over.",
		}),
	}
	for _, o := range []Outcome{Committed, Aborted, Unknown, Fenced} {
		m.transactions.WithLabelValues(o.String())
	}
	if reg == nil {
		return m, nil
	}
	var err error
	m.transactions = register(reg, m.transactions, &err)
	m.duration = register(reg, m.duration, &err)
	m.inits = register(reg, m.inits, &err)
	m.fetchBytes = register(reg, m.fetchBytes, &err)
	m.fetches = register(reg, m.fetches, &err)
	m.rebalances = register(reg, m.rebalances, &err)
	m.lost = register(reg, m.lost, &err)
	return m, err
}

// register gives back the collector to use: that of the same name if there is
// one already.
func register[T prometheus.Collector](reg prometheus.Registerer, collector T, failed *error) T {
	err := reg.Register(collector)
	if err == nil {
		return collector
	}
	if known, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if same, ok := known.ExistingCollector.(T); ok {
			return same
		}
	}
	*failed = errors.Join(*failed, fmt.Errorf("register metrics: %w", err))
	return collector
}

package ingest

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	lagRecords     *prometheus.GaugeVec
	states         *prometheus.GaugeVec
	restored       prometheus.Counter
	restoreSeconds prometheus.Histogram
	flushSeconds   prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		lagRecords: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "meterd_lag_records", Help: "Offsets of the usage topic that are yet to be counted.",
		}, []string{"partition"}),
		states: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "meterd_partition_state", Help: "1 for the state that an assigned partition is in.",
		}, []string{"partition", "state"}),
		restored: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_restore_records_total", Help: "Records read to rebuild state, from disk and from the changelog.",
		}),
		restoreSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meterd_restore_duration_seconds", Help: "From the end of fencing until a partition counts.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 15),
		}),
		flushSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meterd_flush_duration_seconds", Help: "Time to write committed state of a partition to disk.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
	}
	reg.MustRegister(m.lagRecords, m.states, m.restored, m.restoreSeconds, m.flushSeconds)
	return m
}

func label(partition int32) string { return strconv.Itoa(int(partition)) }

func (m *metrics) lag(partition int32, lag int64) {
	m.lagRecords.WithLabelValues(label(partition)).Set(float64(lag))
}

func (m *metrics) assigned(partition int32) { m.state(partition, Fencing, Fencing) }

func (m *metrics) state(partition int32, from, to State) {
	m.states.WithLabelValues(label(partition), string(from)).Set(0)
	m.states.WithLabelValues(label(partition), string(to)).Set(1)
}

func (m *metrics) released(partition int32) {
	m.lagRecords.DeleteLabelValues(label(partition))
	for _, s := range []State{Fencing, Restoring, Running} {
		m.states.DeleteLabelValues(label(partition), string(s))
	}
}

package ingest

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

// CounterMetrics are those of all Counters of an instance. They tell of what
// was committed, so that every record read is in exactly one result.
type CounterMetrics struct {
	results   [5]prometheus.Counter
	letters   *prometheus.CounterVec
	late      prometheus.Counter
	leftOut   prometheus.Counter
	misplaced prometheus.Counter
	events    *prometheus.CounterVec
	latency   prometheus.Histogram
}

// NewCounterMetrics registers the metrics of counting.
func NewCounterMetrics(reg prometheus.Registerer) *CounterMetrics {
	records := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "meterd_records_total", Help: "Usage records by what became of them; each is in exactly one result.",
	}, []string{"result"})
	m := &CounterMetrics{
		letters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meterd_dead_letters_total", Help: "Usage records that went to the dead-letter topic.",
		}, []string{"reason"}),
		late: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_late_records_total", Help: "Usage records counted in a period that had ended.",
		}),
		leftOut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_left_out_total", Help: "Times that a limit's own counter was too long past for a record that others counted.",
		}),
		misplaced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_misplaced_clients_total", Help: "Clients found on a partition where usage.partitioner would not put them.",
		}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meterd_limit_events_total", Help: "Limit events committed.",
		}, []string{"kind"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meterd_crossing_latency_seconds", Help: "From the timestamp of a usage record to the commit of the limit events it caused.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 18),
		}),
	}
	reg.MustRegister(records, m.letters, m.late, m.leftOut, m.misplaced, m.events, m.latency)
	for fate, result := range map[aggregate.Fate]string{
		aggregate.Counted: "counted", aggregate.Duplicate: "duplicate", aggregate.Ignored: "ignored", aggregate.DeadLettered: "dead_lettered",
		aggregate.Voided: "voided",
	} {
		m.results[fate] = records.WithLabelValues(result)
	}
	for _, reason := range usage.Reasons() {
		m.letters.WithLabelValues(string(reason))
	}
	for _, kind := range []alerts.EventKind{alerts.Crossed, alerts.Cleared, alerts.Reset} {
		m.events.WithLabelValues(string(kind))
	}
	return m
}

func (m *CounterMetrics) count(t *tally, now time.Time) {
	for fate, n := range t.fates {
		m.results[fate].Add(float64(n))
	}
	for reason, n := range t.reasons {
		m.letters.WithLabelValues(string(reason)).Add(float64(n))
	}
	m.late.Add(float64(t.late))
	m.leftOut.Add(float64(t.leftOut))
	m.misplaced.Add(float64(t.misplaced))
	for _, e := range t.events {
		m.events.WithLabelValues(string(e.Kind)).Inc()
	}
	for _, at := range t.crossings {
		m.latency.Observe(now.Sub(at.Std()).Seconds())
	}
}

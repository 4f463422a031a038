package httpapi

import (
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

const (
	// pulseWindow is what rates are taken over, and pulseEvery the least time
	// between two samples.
	pulseWindow = 10 * time.Second
	pulseEvery  = 500 * time.Millisecond
)

// shownMetrics are the counters and histograms that an overview has.
var shownMetrics = []string{
	"meterd_records_total", "meterd_dead_letters_total", "meterd_late_records_total", "meterd_limit_events_total",
	"meterd_crossing_latency_seconds", "meterd_transactions_total", "meterd_transaction_duration_seconds",
	"meterd_fetch_bytes_total", "meterd_fetch_requests_total", "meterd_flush_duration_seconds", "meterd_restore_records_total",
	"meterd_rebalances_total", "meterd_seed_questions_total",
}

// pulse makes rates of counters, by looking at them now and then.
type pulse struct {
	metrics prometheus.Gatherer

	mu      sync.Mutex // guards all below
	samples []sample   // of the last pulseWindow and one before, oldest first
}

type sample struct {
	at     time.Time
	totals map[string]float64
}

func positionKey(partition int32) string { return "position/" + strconv.Itoa(int(partition)) }

// take returns the totals of now, and by how much they have grown in a second.
// Positions of partitions are among the rates alone. What was not there before
// has no rate.
func (p *pulse) take(now time.Time, here []partition) (totals, rates map[string]float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	current := sample{at: now, totals: p.totals()}
	totals = maps.Clone(current.totals)
	for _, h := range here {
		if h.State == Running {
			current.totals[positionKey(h.Partition)] = float64(h.Position)
		}
	}
	rates = map[string]float64{}
	for len(p.samples) > 1 && now.Sub(p.samples[1].at) >= pulseWindow {
		p.samples = p.samples[1:]
	}
	if len(p.samples) > 0 {
		before := p.samples[0]
		seconds := now.Sub(before.at).Seconds()
		for name, value := range current.totals {
			if was, ok := before.totals[name]; ok && seconds > 0 && value >= was {
				rates[name] = (value - was) / seconds
			}
		}
	}
	if n := len(p.samples); n == 0 || now.Sub(p.samples[n-1].at) >= pulseEvery {
		p.samples = append(p.samples, current)
	}
	return totals, rates
}

// totals returns the counters, and of histograms sum and count.
func (p *pulse) totals() map[string]float64 {
	totals := map[string]float64{}
	families, _ := p.metrics.Gather() // what cannot be gathered is not there
	shown := map[string]bool{}
	for _, name := range shownMetrics {
		shown[name] = true
	}
	for _, f := range families {
		if !shown[f.GetName()] {
			continue
		}
		for _, m := range f.GetMetric() {
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				totals[series(f.GetName(), m)] = m.GetCounter().GetValue()
			case dto.MetricType_HISTOGRAM:
				totals[series(f.GetName()+"_sum", m)] = m.GetHistogram().GetSampleSum()
				totals[series(f.GetName()+"_count", m)] = float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return totals
}

// series is the name of m as /metrics writes it.
func series(name string, m *dto.Metric) string {
	labels := make([]string, 0, len(m.GetLabel()))
	for _, l := range m.GetLabel() {
		labels = append(labels, l.GetName()+"="+strconv.Quote(l.GetValue()))
	}
	if len(labels) == 0 {
		return name
	}
	return name + "{" + strings.Join(labels, ",") + "}"
}

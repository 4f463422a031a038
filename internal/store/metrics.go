package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

type metrics struct {
	reg     prometheus.Registerer
	flush   prometheus.Histogram
	entries prometheus.Counter
	damaged prometheus.Counter
	all     []prometheus.Collector
}

func newMetrics(reg prometheus.Registerer, s *Store) (*metrics, error) {
	m := &metrics{
		reg: reg,
		flush: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meterd_state_flush_duration_seconds", Help: "Time to write one partition's changes to local state.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
		entries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_state_flushed_entries_total", Help: "Entries written to local state.",
		}),
		damaged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "meterd_state_damaged_total", Help: "Times that local state of a partition was found damaged.",
		}),
	}
	free := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "meterd_state_disk_free_bytes", Help: "Free bytes on the disk of local state, -1 if unknown.",
	}, func() float64 {
		free, err := s.Free()
		if err != nil {
			return -1
		}
		return float64(free)
	})
	size := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "meterd_state_disk_bytes", Help: "Bytes of local state in tables on disk, as of the last minute.",
	}, s.size)
	m.all = []prometheus.Collector{m.flush, m.entries, m.damaged, free, size}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return nil, err
		}
	}
	return m, nil
}

// unregister lets the next store in this process have the names.
func (m *metrics) unregister() {
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}

func (s *Store) size() float64 {
	leave, err := s.enter()
	if errors.Is(err, ErrClosed) {
		return 0
	}
	defer leave()
	lsm, _ := s.db.Size()
	return float64(lsm)
}

// logger passes on what Badger complains of; the rest of its talk is dropped.
type logger struct{ log *zap.Logger }

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("badger complains", zap.String("text", complaint(format, args)))
}

func (l logger) Warningf(format string, args ...any) {
	l.log.Warn("badger warns", zap.String("text", complaint(format, args)))
}

func (l logger) Infof(string, ...any)  {}
func (l logger) Debugf(string, ...any) {}

func complaint(format string, args []any) string {
	return strings.TrimSpace(fmt.Sprintf(format, args...))
}

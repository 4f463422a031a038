package ingest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/kafka"
)

// log is a partition of which the records before offset start are gone, with
// the timestamps of the rest in seconds.
type log struct {
	Cluster
	start int64
	times []int64
}

func (l log) end() int64 { return l.start + int64(len(l.times)) }

func (l log) LogStart(context.Context, string, int32) (int64, error) { return l.start, nil }

func (l log) LastStable(context.Context, string, int32) (int64, error) { return l.end(), nil }

func (l log) OffsetForTime(_ context.Context, _ string, _ int32, at time.Time) (int64, bool, error) {
	for i, s := range l.times {
		if s >= at.Unix() {
			return l.start + int64(i), true, nil
		}
	}
	return 0, false, nil
}

func (l log) Read(_ context.Context, _ string, _ int32, from, _ int64, fn func(kafka.Batch) error) (int64, error) {
	return from, fn(kafka.Batch{Records: []kafka.Record{{Timestamp: l.times[from-l.start] * 1000}}})
}

func TestBoundary(t *testing.T) {
	t.Parallel()
	const now = 1000 // seconds after the bubble's clock began
	for name, tt := range map[string]struct {
		log      log
		every    time.Duration
		latest   bool
		position int64
		cut      int64
	}{
		"history knows offsets":                {log: log{start: 5, times: []int64{610, 650}}, position: 5, cut: now},
		"it knows when records were appended":  {log: log{start: 5, times: []int64{610, 650}}, every: time.Millisecond, position: 5, cut: 610},
		"it is rolled up":                      {log: log{start: 5, times: []int64{610, 650, 661, 670}}, every: time.Minute, position: 7, cut: 660},
		"a record stands on the cut":           {log: log{start: 5, times: []int64{600, 650}}, every: time.Minute, position: 5, cut: 600},
		"no record is as late as the cut":      {log: log{start: 5, times: []int64{610, 650}}, every: time.Minute, position: 7, cut: 660},
		"the next cut is yet to come":          {log: log{start: 5, times: []int64{970, 980}}, every: time.Minute, position: 5, cut: 960},
		"there is no record":                   {log: log{start: 5}, every: time.Minute, position: 5, cut: 960},
		"nothing was ever deleted":             {log: log{start: 0, times: []int64{610}}, every: time.Minute, position: 0, cut: now},
		"it is to start with the latest":       {log: log{start: 5, times: []int64{610, 650}}, every: time.Minute, latest: true, position: 7, cut: 960},
		"the latest, where history is by rows": {log: log{start: 5, times: []int64{610, 650}}, latest: true, position: 7, cut: now},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				zero := time.Now().Unix()
				zero -= zero % 3600
				time.Sleep(time.Until(time.Unix(zero+3600+now, 0))) //nolint:forbidigo // of the bubble's clock
				l := tt.log
				l.times = nil
				for _, s := range tt.log.times {
					l.times = append(l.times, zero+3600+s)
				}
				g := New(Config{StartLatest: tt.latest, CutEvery: tt.every}, Parts{Cluster: l}, zap.NewNop(), prometheus.NewRegistry())
				p := newTask(g, 0)
				position, cut, err := p.boundary(t.Context())
				require.NoError(t, err)
				require.Equal(t, tt.position, position)
				require.Equal(t, tt.cut, cut.Unix()-zero-3600)
				p.abandon()
			})
		})
	}
}

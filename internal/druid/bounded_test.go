package druid_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/usage"
)

// byRecordTime makes a configuration go by the record's time.
func byRecordTime(c *druid.Config) {
	c.Columns.Partition, c.Columns.Offset, c.Columns.RecordTime = "", "", "k_ts"
	c.Supervisor = "usage"
}

// rolledUp makes a configuration go by event time, in rows of a minute.
func rolledUp(c *druid.Config) {
	c.Columns.Partition, c.Columns.Offset, c.Columns.Count = "", "", "events"
	c.Supervisor, c.Granularity = "usage", time.Minute
}

// clock is a time that the test moves.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func boundedSeeder(t *testing.T, e *engine, c *clock, change func(*druid.Config)) *druid.Seeder {
	t.Helper()
	return newSeeder(t, "http://druid", through(e.fake), c.now, change)
}

// twice asks twice, as long apart as a proof needs, and returns the second
// answer.
func twice(t *testing.T, s *druid.Seeder, c *clock, q druid.Question) []druid.Total {
	t.Helper()
	_, err := s.Ask(t.Context(), q)
	require.ErrorIs(t, err, druid.ErrIncomplete)
	require.ErrorContains(t, err, "a second equal reading is needed")
	c.at = c.at.Add(15 * time.Second)
	totals, err := s.Ask(t.Context(), q)
	require.NoError(t, err)
	return totals
}

func recordTimes() map[string]string {
	return map[string]string{"client_id": "STRING", "meter": "STRING", "quantity": "LONG", "k_ts": "LONG", "region": "STRING"}
}

func cutAt(boundary int64, cut usage.Time, clients ...string) druid.Question {
	q := all(boundary, clients...)
	q.Cut = cut
	return q
}

func TestRowsBeforeTheCutByRecordTime(t *testing.T) {
	t.Parallel()

	record := func(client, region string, quantity any, appended, at int64) row {
		return row{"client_id": client, "meter": "m", "region": region, "quantity": quantity, "k_ts": appended, "__time": at}
	}
	e := newEngine(
		t, recordTimes(),
		record("a", "eu", int64(5), 100, 7), record("a", "eu", int64(3), 101, 9), record("a", "eu", nil, 99, 9),
		record("a", "us", int64(4), 199, 8), record("a", "us", int64(90), 200, 8),
		record("a", "eu", int64(70), 150, 20), record("b", "eu", int64(6), 100, 7),
		row{"client_id": "a", "meter": "m", "__time": int64(7)}, // without a record time
	)
	c := &clock{time.Unix(1795328000, 0)}
	s := boundedSeeder(t, e, c, func(cfg *druid.Config) {
		byRecordTime(cfg)
		cfg.Columns.Fields, cfg.Latest, cfg.Extremes = []string{"region"}, true, true
	})
	q := cutAt(10, 200, "a", "nobody")
	q.End = 20
	d := usage.DecimalOf
	require.Equal(t, []druid.Total{
		{Client: "a", Meter: "m", Fields: []usage.Value{text("us")}, Events: 1, Quantity: d(4), Min: d(4), Max: d(4), Latest: d(4), First: 8, Last: 8},
		{Client: "a", Meter: "m", Fields: []usage.Value{text("eu")}, Events: 3, Quantity: d(9), Min: d(1), Max: d(5), Latest: d(3), First: 7, Last: 9},
	}, twice(t, s, c, q))
}

func TestRolledUpRowsBeforeTheCut(t *testing.T) {
	t.Parallel()

	const minute = 60_000
	record := func(client string, events int64, quantity any, at int64) row {
		return row{"client_id": client, "meter": "m", "events": events, "quantity": quantity, "__time": at}
	}
	e := newEngine(
		t, map[string]string{"client_id": "STRING", "meter": "STRING", "quantity": "LONG", "events": "LONG"},
		record("a", 10, int64(50), minute), record("a", 2, int64(-7), 2*minute), record("a", 3, nil, 2*minute),
		record("a", 1, int64(1000), 3*minute), record("a", 1, int64(2000), 0), record("b", 1, int64(1), minute),
	)
	e.columns = strings.Replace(e.columns, `"rollup":false`, `"rollup":true`, 1)
	c := &clock{time.Unix(1795328000, 0)}
	s := boundedSeeder(t, e, c, rolledUp)
	q := cutAt(10, 3*minute+59_999, "a")
	q.Start = minute
	require.Equal(t, []druid.Total{{Client: "a", Meter: "m", Events: 15, Quantity: usage.DecimalOf(46), First: minute, Last: 2 * minute}}, twice(t, s, c, q))

	q = cutAt(10, minute+1, "a")
	q.Start = minute
	asked := len(e.asked())
	totals, err := s.Ask(t.Context(), q)
	require.NoError(t, err)
	require.Empty(t, totals)
	require.Len(t, e.asked(), asked, "no whole minute is left")
}

func TestABoundedAnswerIsNotProven(t *testing.T) {
	t.Parallel()

	first := row{"client_id": "a", "meter": "m", "quantity": int64(5), "k_ts": int64(100), "__time": int64(7)}
	tests := map[string]struct {
		change func(n int, e *engine)
		says   string
	}{
		"while rows come":                {func(n int, e *engine) { e.set(append(e.rows, first)...) }, "two readings differ"},
		"while rows go":                  {func(n int, e *engine) { e.set(e.rows[1:]...) }, "two readings differ"},
		"before all was published":       {func(n int, e *engine) { e.supervisor = strings.Replace(published, `"0":10`, `"0":9`, 1) }, "task t0 holds rows from offset 9"},
		"when every second is unsettled": {func(n int, e *engine) { e.unavailable = []string{available, `{"usage":2}`}[n%2] }, "2 segments are not available"},
		"without segments' states":       {func(n int, e *engine) { e.unavailable = "" }, "ask coordinator: druid: status 404"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			e := newEngine(t, recordTimes(), first, first, first, first, first, first, first, first)
			c := &clock{time.Unix(1795328000, 0)}
			s := boundedSeeder(t, e, c, byRecordTime)
			var err error
			for n := range 6 {
				tt.change(n, e)
				_, err = s.Ask(t.Context(), cutAt(10, 200, "a"))
				require.ErrorIs(t, err, druid.ErrIncomplete)
				c.at = c.at.Add(time.Minute)
			}
			require.ErrorContains(t, err, tt.says)
		})
	}
}

func TestASecondReadingTooEarlyProvesNothing(t *testing.T) {
	t.Parallel()

	e := newEngine(t, recordTimes(), row{"client_id": "a", "meter": "m", "quantity": int64(5), "k_ts": int64(100), "__time": int64(7)})
	c := &clock{time.Unix(1795328000, 0)}
	s := boundedSeeder(t, e, c, byRecordTime)
	for range 15 {
		_, err := s.Ask(t.Context(), cutAt(10, 200, "a"))
		require.ErrorIs(t, err, druid.ErrIncomplete)
		c.at = c.at.Add(time.Second)
	}
	totals, err := s.Ask(t.Context(), cutAt(10, 200, "a"))
	require.NoError(t, err)
	require.Len(t, totals, 1)
}

func TestBoundedNeedsRowsThatStandForOneEvent(t *testing.T) {
	t.Parallel()

	for _, rollup := range []string{"true", "null"} {
		e := newEngine(t, recordTimes())
		e.columns = columnsOf(recordTimes(), rollup)
		_, err := boundedSeeder(t, e, &clock{}, byRecordTime).Ask(t.Context(), cutAt(10, 200, "a"))
		require.ErrorIs(t, err, druid.ErrColumns)
		require.ErrorContains(t, err, "rolled up")
	}
}

// A row with several values would count in several groups, and only the
// columns tell.
func TestBoundedLooksAtColumnsEachTime(t *testing.T) {
	t.Parallel()

	e := newEngine(t, recordTimes(), row{"client_id": "a", "meter": "m", "quantity": int64(5), "k_ts": int64(100), "__time": int64(7), "region": "eu"})
	c := &clock{time.Unix(1795328000, 0)}
	s := boundedSeeder(t, e, c, func(cfg *druid.Config) {
		byRecordTime(cfg)
		cfg.Columns.Fields = []string{"region"}
	})
	require.Len(t, twice(t, s, c, cutAt(10, 200, "a")), 1)
	e.columns = strings.Replace(e.columns, `"region":{`, `"region":{"hasMultipleValues":true,`, 1)
	_, err := s.Ask(t.Context(), cutAt(10, 200, "a"))
	require.ErrorIs(t, err, druid.ErrColumns)
}

func TestABoundedQuestionNeedsACut(t *testing.T) {
	t.Parallel()

	e := newEngine(t, recordTimes())
	s := boundedSeeder(t, e, &clock{}, byRecordTime)
	_, err := s.Ask(t.Context(), all(10, "a"))
	require.ErrorContains(t, err, "question: cut 0 is no time")
	totals, err := s.Ask(t.Context(), all(0, "a"))
	require.NoError(t, err)
	require.Empty(t, totals)
}

func TestBoundedQueries(t *testing.T) {
	t.Parallel()

	for name, change := range map[string]func(*druid.Config){"query-record-time.json": byRecordTime, "query-rolled-up.json": rolledUp} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			columns := recordTimes()
			columns["events"] = "LONG"
			e := newEngine(t, columns)
			q := cutAt(10, 1795328030000, "a")
			q.Start = 1795327000000
			_, err := boundedSeeder(t, e, &clock{time.Unix(1795328000, 0)}, change).Ask(t.Context(), q)
			require.ErrorIs(t, err, druid.ErrIncomplete)
			requireQueries(t, e.fake, name)
		})
	}
}

// Many clients are read twice each, and those of one question together; nobody
// waits for the second readings of others.
func TestRunReadsTwiceWhatIsBounded(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		var rows []row
		clients := requests(100)
		for i := range clients {
			clients[i].Boundary, clients[i].Cut = 10, 200
			rows = append(rows, row{"client_id": clients[i].Client, "meter": "m", "quantity": int64(i), "k_ts": int64(100), "__time": int64(7)})
		}
		e := newEngine(t, recordTimes(), rows...)
		late := clients[7].Client
		e.lose = func(n int, r row) bool { return r["client_id"] == late && n < 10 } // there from the second readings on
		s := newSeeder(t, "http://druid", through(e.fake), time.Now, func(c *druid.Config) {
			byRecordTime(c)
			c.BatchClients, c.MaxConcurrent = 10, 1
		})
		sub := run(t, s)
		begin := time.Now()
		require.Equal(t, 100, sub.Submit(clients...))
		got := until(sub, druid.Bounded, 99)
		require.Less(t, time.Since(begin), 20*time.Second)
		require.Len(t, e.asked(), 20)
		last := until(sub, druid.Bounded, 1)
		require.Less(t, time.Since(begin), 40*time.Second)
		require.Len(t, e.asked(), 21)
		for i, r := range clients {
			u, ok := got[r]
			if r.Client == late {
				u, ok = last[r]
				require.Equal(t, 3, u.Attempts)
			}
			require.True(t, ok)
			require.Equal(t, druid.Bounded, u.State)
			require.True(t, u.State.Done())
			require.Equal(t, usage.DecimalOf(int64(i)), u.Totals[0].Quantity)
		}
		require.Equal(t, 100, sub.Submit(clients...), "what is answered can be asked for again")
	})
}

func TestRunAsksOnWhileBoundedHistoryIsUnsettled(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, recordTimes(), row{"client_id": "a", "meter": "m", "quantity": int64(5), "k_ts": int64(100), "__time": int64(7)})
		settled := time.Now().Add(time.Hour)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/status") && time.Now().Before(settled) {
				_, _ = w.Write([]byte(strings.Replace(published, `"0":12`, `"0":9`, 1)))
				return
			}
			e.ServeHTTP(w, r)
		})
		sub := run(t, newSeeder(t, "http://druid", through(h), time.Now, byRecordTime))
		r := druid.Request{Boundary: 10, Start: usage.MinTime, End: usage.MaxTime, Cut: 200, Client: "a"}
		require.Equal(t, 1, sub.Submit(r))
		require.ErrorContains(t, until(sub, druid.Failed, 1)[r].Reason, "task t1 holds rows from offset 9, below boundary 10")
		require.Len(t, until(sub, druid.Bounded, 1)[r].Totals, 1)
		require.Less(t, time.Until(settled.Add(time.Minute)), time.Minute)
		require.Len(t, e.asked(), 2, "nothing is asked before it is settled")
	})
}

package aggregate_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

func TestCountersAreKeptAndForgotten(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		keep     int
		lateness time.Duration
		until    string // the last moment at which November's are there
	}{
		"by periods":                 {1, time.Hour, "12-31T23:59:59.999"},
		"by more periods":            {2, time.Hour, "2027-01-31T23:59:59.999"},
		"by lateness":                {0, 72 * time.Hour, "12-03T23:59:59.999"},
		"by lateness beyond periods": {1, 40 * 24 * time.Hour, "2027-01-09T23:59:59.999"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			cfg := config(t)
			cfg.KeepPeriods, cfg.AllowedLateness = tt.keep, tt.lateness
			r := newRig(t, cfg)
			r.put("k", "acme", "", limit("l", "100", full))
			r.use(ev{qty: "100"})
			r.use(ev{client: "bolt"})
			r.commit()
			r.advance(tt.until)
			r.commit()
			require.EqualValues(t, 100, r.total("acme", "bytes", "2026-11"))
			require.Contains(t, r.log, `["counter","acme","bytes",{},{},"2026-11"]`)
			require.Contains(t, r.log, `["limit","k","l",{},"2026-11"]`)

			r.restart()
			require.Equal(t, at(t, tt.until)+1, r.state.Due())
			r.clock++
			r.do(func(s *aggregate.State) { s.Advance(r.clock) })
			require.EqualValues(t, 100, r.total("acme", "bytes", "2026-11"), "until it is committed")
			r.state.Rollback()
			r.do(func(s *aggregate.State) { s.Advance(r.clock) })
			r.commit()
			require.EqualValues(t, -1, r.total("acme", "bytes", "2026-11"))
			require.Equal(t, []string{aggregate.PositionKey(3)}, keysOf(r.log))
			require.Empty(t, r.state.Clients("", 10))
			require.Equal(t, usage.MaxTime, r.state.Due())
		})
	}
}

func keysOf(log map[string]any) []string {
	keys := []string{}
	for key := range log {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func TestForgettingIsBounded(t *testing.T) {
	t.Parallel()

	cfg := config(t)
	cfg.DedupeWindow = 0
	r := newRig(t, cfg)
	const n = 45_000
	for i := range n {
		r.use(ev{client: fmt.Sprint(i)})
	}
	r.commit()
	require.Len(t, r.log, n+1)
	commits := 0
	r.advance("2027-01-01")
	r.seek("2027-01-03") // days later, and not a step for each of their moments
	for ; len(r.log) > 1; commits++ {
		r.do(func(s *aggregate.State) { s.Advance(r.clock) })
		r.taken()
		require.LessOrEqual(t, len(r.state.Changes(r.clock).Tombstones), 20_000)
		if commits == 0 {
			r.state.Rollback()
			continue
		}
		r.commit()
		r.clock++
		require.Less(t, commits, 10)
	}
	require.Empty(t, r.state.Clients("", 1))
}

func TestAnEndThatMovesTooLate(t *testing.T) {
	t.Parallel()

	life := limit("l", "100", `"period":"lifetime"`)
	for name, between := range map[string]func(r *rig){
		"in one transaction": func(*rig) {},
		"committed":          func(r *rig) { r.commit() },
		"rolled back":        func(r *rig) { r.state.Rollback(); r.advance("11-23") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			r := newTestRig(t)
			r.put("k", "acme", `"ends_at":"2026-11-20T00:00:00Z"`, life)
			r.use(ev{qty: "60"})
			r.commit()
			r.advance("11-23")
			between(r)
			r.put("k", "acme", `"ends_at":"2026-12-20T00:00:00Z"`, life)
			r.use(ev{qty: "50"})
			r.commit()
			r.restart()
			r.use(ev{qty: "30"})
			r.commit()
			require.Equal(t, []string{
				"crossed k/l lifetime #1 [50%=50] 0..60 [50%] usage",
				"reset k/l lifetime #2 [50%=50] 60..0 [] period_end",
				"crossed k/l lifetime #1 [50%=50] 0..50 [50%] usage",
				"crossed k/l lifetime #2 [80%=80] 50..80 [50% 80%] usage",
			}, linesOf(r.told), "its counter was not kept so long, whenever that was committed")
		})
	}
}

func TestUnload(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""), limit("h", "100", `"period":"hour"`))
	r.use(ev{qty: "60", id: "x"})
	r.commit()

	whole := r.state.View("acme", aggregate.Selection{})
	r.restart()
	require.Len(t, whole.Counters, 2)
	r.taken()
	require.Equal(t, whole, r.state.View("acme", aggregate.Selection{}))

	state := aggregate.New(r.cfg, r.table)
	for _, key := range keysOf(r.log) {
		require.NoError(t, state.Load(r.log[key]))
	}
	for _, key := range keysOf(r.log) {
		require.NoError(t, state.Unload([]byte(key)))
		require.NoError(t, state.Unload([]byte(key)), "what is gone may go again")
	}
	state.Loaded(r.clock)
	require.Empty(t, state.Clients("", 10))
	r.state = state
	require.Equal(t, aggregate.Counted, r.fold(ev{id: "x", qty: "50"}).Fate)
	changes := r.state.Changes(r.clock)
	require.Len(t, changes.Events, 2)
	for _, e := range changes.Events {
		require.EqualValues(t, 1, e.Sequence)
	}

	for _, key := range []string{``, `{}`, `[]`, `["what",1]`, `["counter","a"]`, `["dedupe","yesterday",1,2]`} {
		require.ErrorIs(t, state.Unload([]byte(key)), aggregate.ErrForeignRecord, key)
	}
}

func TestLoadRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.use(ev{meter: "hours"})
	r.commit()
	record := *r.log[`["counter","acme","hours",{},{},"2026-11"]`].(*aggregate.CounterRecord)

	cfg := config(t)
	cfg.Catalog.Meters[2].Decimals = 3
	require.ErrorIs(t, aggregate.New(cfg, r.table).Load(&record), aggregate.ErrForeignRecord)

	cfg = config(t)
	cfg.Catalog.Schedule = schedule(t, usage.Day, "UTC")
	require.ErrorIs(t, aggregate.New(cfg, r.table).Load(&record), aggregate.ErrForeignRecord)

	cfg = config(t)
	cfg.Catalog.Meters = cfg.Catalog.Meters[:2]
	require.NoError(t, aggregate.New(cfg, r.table).Load(&record), "a meter that is no longer configured is left alone")

	record.Scope = aggregate.Scope{Contract: "k", Kind: "decade", Timezone: "UTC"}
	require.ErrorIs(t, r.state.Load(&record), aggregate.ErrForeignRecord)
	require.ErrorIs(t, r.state.Load("text"), aggregate.ErrForeignRecord)
}

func TestLoadTakesTheLastOfAKey(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	var versions []any
	for range 3 {
		r.use(ev{qty: "30", id: "x" + fmt.Sprint(len(versions))})
		r.commit()
		for _, key := range keysOf(r.log) {
			versions = append(versions, r.log[key])
		}
	}
	want := r.state.View("acme", aggregate.Selection{})
	r.state = aggregate.New(r.cfg, r.table)
	for _, record := range versions {
		require.NoError(t, r.state.Load(record))
	}
	r.state.Loaded(r.clock)
	require.Empty(t, r.commit())
	require.Equal(t, want, r.state.View("acme", aggregate.Selection{}))
	require.EqualValues(t, 3, r.state.Position())
}

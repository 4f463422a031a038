package aggregate_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

const mostBytes = "9223372036854775807"

func TestFates(t *testing.T) {
	t.Parallel()

	dead := func(reason usage.Reason) aggregate.Result {
		return aggregate.Result{Fate: aggregate.DeadLettered, Reason: reason}
	}
	counted := aggregate.Result{Fate: aggregate.Counted}
	tests := map[string]struct {
		event ev
		want  aggregate.Result
	}{
		"counted":                               {ev{qty: "3"}, counted},
		"a correction":                          {ev{qty: "-3"}, counted},
		"an unknown meter":                      {ev{meter: "dreams"}, dead(usage.UnknownMeter)},
		"unknown meter before duplicate":        {ev{meter: "dreams", id: "known"}, dead(usage.UnknownMeter)},
		"a duplicate":                           {ev{id: "known"}, aggregate.Result{Fate: aggregate.Duplicate}},
		"a duplicate of another meter":          {ev{id: "known", meter: "calls"}, aggregate.Result{Fate: aggregate.Duplicate}},
		"duplicate before future":               {ev{id: "known", time: "11-10T13:00"}, aggregate.Result{Fate: aggregate.Duplicate}},
		"duplicate before too late":             {ev{id: "known", time: "01-01"}, aggregate.Result{Fate: aggregate.Duplicate}},
		"duplicate before overflow":             {ev{id: "known", qty: "0.5"}, aggregate.Result{Fate: aggregate.Duplicate}},
		"the same id of another client":         {ev{id: "known", client: "bolt"}, counted},
		"as early as may be":                    {ev{time: "11-10T12:05"}, counted},
		"too early":                             {ev{time: "11-10T12:05:00.001"}, dead(usage.Future)},
		"early for its record, not the clock":   {ev{time: "11-10T12:05", stamp: "11-10T11:00"}, counted},
		"early for the clock, not its record":   {ev{time: "11-10T13:00", stamp: "11-10T13:00"}, counted},
		"future before overflow":                {ev{time: "11-10T13:00", qty: "0.5"}, dead(usage.Future)},
		"too late":                              {ev{time: "10-31T23:59:59.999"}, dead(usage.TooLate)},
		"too late before overflow":              {ev{time: "01-01", qty: "0.5"}, dead(usage.TooLate)},
		"finer than the meter":                  {ev{qty: "0.5"}, dead(usage.Overflow)},
		"as fine as the meter":                  {ev{qty: "0.05", meter: "hours"}, counted},
		"too large for any meter":               {ev{qty: "1e30"}, dead(usage.Overflow)},
		"too large in the meter's units":        {ev{qty: mostBytes, meter: "hours"}, dead(usage.Overflow)},
		"a total that leaves the range":         {ev{qty: mostBytes}, dead(usage.Overflow)},
		"a total that reaches the range":        {ev{qty: "9223372036854775800"}, counted},
		"the same of a client that has nothing": {ev{qty: mostBytes, client: "bolt"}, counted},
		"count never looks at the quantity":     {ev{qty: "1e30", meter: "calls"}, counted},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			cfg := config(t)
			cfg.UnknownMeter = aggregate.DeadLetterUnknown
			r := newRig(t, cfg)
			r.use(ev{id: "known", qty: "7"})
			r.commit()
			before := r.state.Position()
			require.Equal(t, tt.want, r.fold(tt.event))
			require.Equal(t, before+1, r.state.Position(), "whatever its fate")
			require.True(t, r.state.Touched())
		})
	}
}

func TestLatenessEnds(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.seek("12-03T23:59:59.999")
	require.Equal(t, aggregate.Result{Fate: aggregate.Counted, Late: true}, r.fold(ev{time: "11-30T23:59:59.999"}))
	r.seek("12-04")
	require.Equal(t, usage.TooLate, r.fold(ev{time: "11-30T23:59:59.999"}).Reason)
	require.Equal(t, aggregate.Counted, r.fold(ev{time: "12-01"}).Fate)
}

func TestTimesThatNoCalendarHas(t *testing.T) {
	t.Parallel()

	for name, tt := range map[string]struct {
		time, stamp usage.Time
		want        usage.Reason
	}{
		"the last":                     {math.MaxInt64, math.MaxInt64, usage.Future},
		"a year of five digits":        {253402300800000, 253402300800000, usage.Future},
		"the first":                    {math.MinInt64, math.MinInt64, usage.TooLate},
		"the first, but for the stamp": {math.MinInt64 + 1, -1, usage.TooLate},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			cfg := config(t)
			cfg.History = true
			r := newRig(t, cfg)
			var got aggregate.Result
			r.do(func(s *aggregate.State) {
				got = s.Fold(aggregate.Input{Timestamp: tt.stamp}, &usage.Event{Client: []byte("acme"), Meter: []byte("calls"), Time: tt.time})
			})
			require.Equal(t, tt.want, got.Reason)
			r.commit()
			require.Empty(t, r.state.View("acme", aggregate.Selection{}).Counters)
		})
	}
}

func TestUnknownMetersAreIgnored(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	require.Equal(t, aggregate.Result{Fate: aggregate.Ignored}, r.fold(ev{meter: "dreams", id: "x"}))
	require.Equal(t, aggregate.Counted, r.fold(ev{id: "x"}).Fate, "what was ignored has not claimed its id")
}

func TestMetersThatAreNotMapped(t *testing.T) {
	t.Parallel()

	cfg := config(t)
	cfg.MeterMapped = false
	r := newRig(t, cfg)
	r.use(ev{meter: "nothing like it", qty: "4"})
	require.Equal(t, usage.Overflow, r.fold(ev{qty: "0.01"}).Reason, "on all meters or on none")
	require.Equal(t, usage.Overflow, r.fold(ev{qty: mostBytes}).Reason)
	r.commit()
	require.EqualValues(t, 4, r.total("acme", "bytes", ""))
	require.EqualValues(t, 1, r.total("acme", "calls", ""))
	require.EqualValues(t, 400, r.total("acme", "hours", ""))
}

func TestADeadLetterDoesNotClaimItsID(t *testing.T) {
	t.Parallel()

	for name, bad := range map[string]ev{
		"future":   {id: "x", time: "11-11"},
		"too late": {id: "x", time: "01-01"},
		"overflow": {id: "x", qty: "0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			r := newTestRig(t)
			require.Equal(t, aggregate.DeadLettered, r.fold(bad).Fate)
			require.Equal(t, aggregate.Counted, r.fold(ev{id: "x"}).Fate, "it can be sent again, corrected")
			require.Equal(t, aggregate.Duplicate, r.fold(ev{id: "x"}).Fate)
		})
	}
}

func TestOwnCountersAreLeftOut(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("h", "10", full+`,"period":"hour"`), limit("d", "10", full+`,"period":"day"`))
	r.advance("11-20T12:00")
	require.Equal(t, aggregate.Result{Fate: aggregate.Counted, LeftOut: 2}, r.fold(ev{qty: "10", time: "11-10T11:00"}))
	require.Equal(t, aggregate.Result{Fate: aggregate.Counted, LeftOut: 1}, r.fold(ev{qty: "10", time: "11-17T11:59"}))
	require.Equal(t, aggregate.Result{Fate: aggregate.Counted}, r.fold(ev{qty: "10", time: "11-17T12:00"}))
	require.Equal(t, []string{
		"crossed k/d 2026-11-17 #1 [100%=10] 0..10 [100%] usage late",
		"crossed k/h 2026-11-17T12+00:00 #1 [100%=10] 0..10 [100%] usage late",
	}, r.commit())
	require.EqualValues(t, 30, r.total("acme", "bytes", ""))
}

func TestACounterThatLeavesOutDoesNotOverflow(t *testing.T) {
	t.Parallel()

	cfg := config(t)
	cfg.KeepPeriods = 200 // so that the hour is still there when it takes nothing more
	r := newRig(t, cfg)
	r.put("k", "acme", "", limit("h", "10", full+`,"period":"hour"`))
	r.use(ev{qty: mostBytes})
	r.use(ev{qty: "-" + mostBytes, time: "11-05"})
	r.advance("11-14")
	require.Equal(t, aggregate.Result{Fate: aggregate.Counted, LeftOut: 1}, r.fold(ev{qty: "5", time: "11-10T12:00"}))
}

func TestAnOwnCounterCanOverflowForAll(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("h", "10", full+`,"period":"hour"`))
	r.use(ev{qty: mostBytes})
	r.use(ev{qty: "-" + mostBytes, time: "11-10T11:00"})
	require.Equal(t, usage.Overflow, r.fold(ev{qty: "1"}).Reason, "the hour's counter cannot hold it")
	r.commit()
	require.Zero(t, r.total("acme", "bytes", ""), "so none counts it")
}

func TestDedupeWindow(t *testing.T) {
	t.Parallel()

	for name, between := range map[string]func(r *rig){
		"in one transaction": func(*rig) {},
		"committed":          func(r *rig) { r.commit() },
		"restarted":          func(r *rig) { r.commit(); r.restart() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			r := newTestRig(t)
			r.seek("11-10T12:03:17.123")
			r.use(ev{id: "x"})
			between(r)
			r.seek("11-10T13:03:17.123")
			require.Equal(t, aggregate.Duplicate, r.fold(ev{id: "x"}).Fate, "kept for the whole window")
			between(r)
			r.seek("11-10T13:15:00")
			require.Equal(t, aggregate.Counted, r.fold(ev{id: "x"}).Fate, "and not for ever")
			between(r)
			require.Equal(t, aggregate.Duplicate, r.fold(ev{id: "x"}).Fate)
			r.seek("11-10T14:15:00")
			require.Equal(t, aggregate.Duplicate, r.fold(ev{id: "x"}).Fate, "the second claim has a window of its own")
		})
	}
}

func TestDedupeWindowIsOfPartitionTime(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.use(ev{id: "x", stamp: "11-10T09:00"})
	require.Equal(t, aggregate.Duplicate, r.fold(ev{id: "x", stamp: "11-10T10:00"}).Fate)
	require.Equal(t, aggregate.Counted, r.fold(ev{id: "x", stamp: "11-10T10:08"}).Fate)
}

func TestASmallerWindowStillKeepsWhatItPromises(t *testing.T) {
	t.Parallel()

	cfg := config(t)
	cfg.DedupeWindow = 24 * time.Hour
	r := newRig(t, cfg)
	r.seek("11-10T14:59")
	r.use(ev{id: "x"})
	r.commit()
	r.cfg.DedupeWindow = time.Hour
	r.restart()
	r.seek("11-10T15:58")
	require.Equal(t, aggregate.Duplicate, r.fold(ev{id: "x"}).Fate)
	r.seek("11-10T16:30")
	require.Equal(t, aggregate.Counted, r.fold(ev{id: "x"}).Fate)
}

func TestDedupeCanBeOff(t *testing.T) {
	t.Parallel()

	cfg := config(t)
	cfg.DedupeWindow = 0
	r := newRig(t, cfg)
	r.use(ev{id: "x"})
	r.use(ev{id: "x"})
	r.taken()
	require.Empty(t, r.state.Changes(r.clock).Dedupe)
}

func TestEventsWithoutIDAreNeverDuplicates(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.use(ev{})
	r.use(ev{})
	r.commit()
	require.EqualValues(t, 2, r.total("acme", "bytes", ""))
}

func TestDedupeRecordsAreRemoved(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	dedupes := func() int {
		n := 0
		for _, record := range r.log {
			if d, ok := record.(*aggregate.DedupeRecord); ok {
				n += len(d.Hashes)
			}
		}
		return n
	}
	for i := range 20 {
		r.use(ev{id: fmt.Sprint("a", i)})
	}
	r.commit()
	require.Equal(t, 20, dedupes())
	r.use(ev{id: "b"})
	r.seek("11-10T13:30")
	r.use(ev{id: "c"})
	r.commit()
	require.Equal(t, 1, dedupes(), "what left the window before it was committed is not written")
	r.restart()
	r.seek("11-10T15:30")
	r.use(ev{})
	r.commit()
	require.Zero(t, dedupes())
	require.Equal(t, aggregate.Counted, r.fold(ev{id: "a1"}).Fate)
}

func TestManyIDsInOneCommit(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	const n = 70_000
	for i := range n {
		r.use(ev{id: fmt.Sprint(i)})
	}
	r.taken()
	pieces := r.state.Changes(r.clock).Dedupe
	require.Len(t, pieces, 3, "a record is bounded")
	r.commit()
	r.restart()
	for i := range n {
		require.Equal(t, aggregate.Duplicate, r.fold(ev{id: fmt.Sprint(i)}).Fate)
	}
}

func TestRollbackRemembersOlderClaims(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.use(ev{id: "x"})
	r.commit()
	again := func() (fates []aggregate.Fate) {
		for _, stamp := range []string{"11-10T12:59", "11-10T13:30"} {
			fates = append(fates, r.fold(ev{id: "x", stamp: stamp}).Fate)
		}
		return fates
	}
	r.seek("11-10T14:00")
	want := []aggregate.Fate{aggregate.Duplicate, aggregate.Counted}
	require.Equal(t, want, again())
	r.state.Rollback()
	require.Equal(t, want, again(), "the first is a duplicate still")
}

func TestRollbackUndoesAll(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "60", id: "a"})
	r.commit()
	before := r.state.View("acme", aggregate.Selection{})
	blocked := r.blocked()

	fold := func() {
		r.clock = at(t, "12-02")
		r.use(ev{qty: "60", id: "b"})
		r.use(ev{client: "bolt", id: "c"})
		r.use(ev{qty: "5", id: "d", time: "11-30"})
		r.do(func(s *aggregate.State) { s.Skip(s.Position() + 7) })
	}
	fold()
	position := r.state.Position()
	first := snapshot(t, r.state.Changes(r.clock))
	for range 3 {
		r.state.Rollback()
		require.EqualValues(t, 1, r.state.Position())
		require.False(t, r.state.Touched())
		require.False(t, r.state.Urgent())
		require.Equal(t, before, r.state.View("acme", aggregate.Selection{}))
		require.Equal(t, []string{"acme"}, r.state.Clients("", 10))
		fold()
		require.Equal(t, position, r.state.Position())
		require.Equal(t, first, snapshot(t, r.state.Changes(r.clock)))
	}
	require.Equal(t, blocked, r.blocked())
	require.Len(t, r.commit(), 2)
}

func TestTheStartIsNotLostToARollback(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.state.Start(500, r.clock)
	require.True(t, r.state.Touched())
	r.state.Rollback()
	require.True(t, r.state.Touched())
	whole := r.state.Changes(r.clock).Position
	require.Equal(t, aggregate.PositionRecord{Position: 500, Time: usage.MinTime, Boundary: 500, BoundaryTime: r.clock}, whole)
	r.commit()
	require.False(t, r.state.Touched())
	r.state.Rollback()
	require.False(t, r.state.Touched())
}

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

// newBench is a state that has counted one event of each of n clients, and its
// next inputs, one for each.
func newBench(t testing.TB, n int, ids bool) (*aggregate.State, []usage.Event, usage.Time) { //nolint:revive // both are wanted
	r := newRig(t, config(t))
	events := make([]usage.Event, n)
	for i := range events {
		events[i] = usage.Event{Client: fmt.Appendf(nil, "client-%d", i), Meter: []byte("bytes"), Quantity: usage.DecimalOf(1), Time: r.clock}
		if ids {
			events[i].ID = fmt.Appendf(nil, "event-%032d", i)
		}
		r.put(fmt.Sprint("k", i), string(events[i].Client), "",
			limit("m", "1000000000", ""), limit("h", "1000000000", `"period":"hour"`), limit("z", "1000000000", `"timezone":"Asia/Tokyo"`))
		if i%2 == 0 {
			r.put(fmt.Sprint("k", i), string(events[i].Client), `"starts_at":"2026-02-03T00:00:00Z"`, limit("m", "1000000000", ""))
		}
	}
	r.do(func(s *aggregate.State) {
		for i := range events {
			require.Equal(t, aggregate.Counted, s.Fold(aggregate.Input{Offset: int64(i), Timestamp: r.clock}, &events[i]).Fate)
		}
	})
	r.commit()
	return r.state, events, r.clock
}

func TestFoldOfAKnownClientAllocatesNothing(t *testing.T) {
	state, events, now := newBench(t, 100, false)
	fold := func() {
		state.Begin(now)
		for i := range events {
			state.Fold(aggregate.Input{Offset: state.Position(), Timestamp: now}, &events[i])
		}
		state.End()
		state.Committed(now)
	}
	fold()
	require.Zero(t, testing.AllocsPerRun(100, fold))
}

func BenchmarkFold(b *testing.B) {
	for _, ids := range []bool{false, true} {
		b.Run(fmt.Sprintf("dedupe=%t", ids), func(b *testing.B) {
			const batch = 10_000
			state, events, now := newBench(b, batch, ids)
			offset, n := state.Position(), 0
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				if n%batch == 0 {
					state.Begin(now)
				}
				e := &events[n%batch]
				if ids {
					number := offset
					for at := 6; number > 0; at, number = at+1, number/10 {
						e.ID[at] = byte('0' + number%10)
					}
				}
				state.Fold(aggregate.Input{Offset: offset, Timestamp: now}, e)
				offset++
				if n++; n%batch == 0 {
					state.End()
					state.Changes(now)
					state.Committed(now)
				}
			}
			if n%batch != 0 {
				state.End()
			}
		})
	}
}

package aggregate_test

import (
	"math"
	"testing"

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
	require.Len(t, whole.Meters, 3)
	for _, m := range whole.Meters {
		require.Equal(t, int64(500), m.Boundary)
	}
	whole.Meters = nil
	require.Equal(t, aggregate.PositionRecord{Position: 500, Time: usage.MinTime, Boundary: 500, BoundaryTime: r.clock}, whole)
	r.commit()
	require.False(t, r.state.Touched())
	r.state.Rollback()
	require.False(t, r.state.Touched())
}

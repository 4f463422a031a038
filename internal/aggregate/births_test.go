package aggregate_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// reconfigure restarts with other meters.
func (r *rig) reconfigure(meters ...usage.Meter) error {
	r.commit()
	catalog := *r.cfg.Catalog
	catalog.Meters = meters
	r.cfg.Catalog = &catalog
	r.table = contracts.NewTable(r.cfg.Catalog)
	r.state = aggregate.New(r.cfg, r.table)
	for _, record := range r.log {
		if err := r.state.Load(record); err != nil {
			return err
		}
	}
	r.state.Loaded(r.clock)
	return nil
}

// A meter that the configuration gets later is counted from there on, and
// history is asked for all below; one that was away begins anew.
func TestNewMetersHaveABoundaryOfTheirOwn(t *testing.T) {
	t.Parallel()
	for _, history := range []bool{false, true} {
		cfg := config(t)
		cfg.History = history
		bytes, calls := cfg.Catalog.Meters[0], cfg.Catalog.Meters[1]
		cfg.Catalog.Meters = []usage.Meter{bytes}
		r := newRig(t, cfg)
		for range 3 {
			r.use(ev{})
		}
		require.NoError(t, r.reconfigure(bytes, calls))
		r.use(ev{meter: "calls"})
		var asked []aggregate.Ask
		r.do(func(s *aggregate.State) { asked = s.TakeAsks() })
		r.commit()
		position := r.log[aggregate.PositionKey(3)].(*aggregate.PositionRecord) //nolint:forcetypeassert // it is what stands there
		require.Equal(t, []int64{0, 3}, []int64{position.Meters[0].Boundary, position.Meters[1].Boundary})
		view := r.state.View("acme", aggregate.Selection{Meter: "calls"})
		require.Equal(t, int64(3), view.Counters[0].Seed.Boundary)
		if history {
			require.Len(t, asked, 1)
			require.Equal(t, int64(3), asked[0].Boundary)
			r.do(func(s *aggregate.State) {
				require.NoError(t, s.TakeSeed(asked[0], []aggregate.SeedTotal{
					{Meter: "calls", Events: 2, Quantity: usage.DecimalOf(2), First: r.clock, Last: r.clock},
					{Meter: "bytes", Events: 3, Quantity: usage.DecimalOf(3), First: r.clock, Last: r.clock},
				}))
			})
			r.commit()
			require.EqualValues(t, 3, r.total("acme", "calls", ""))
		}
		require.EqualValues(t, 3, r.total("acme", "bytes", ""), "what it had counted is not added again")

		require.NoError(t, r.reconfigure(bytes))
		r.use(ev{})
		require.NoError(t, r.reconfigure(bytes, calls))
		require.EqualValues(t, -1, r.total("acme", "calls", ""), "it misses what came meanwhile")
		require.EqualValues(t, 4, r.total("acme", "bytes", ""))
		r.use(ev{})
		r.commit()
		r.restart()
		require.EqualValues(t, -1, r.total("acme", "calls", ""), "nor does it come back")
		require.Len(t, r.log, 2, "nothing is left of it")
		r.use(ev{meter: "calls"})
		r.restarted()
		require.EqualValues(t, 1, r.total("acme", "calls", ""))
	}
}

func TestChangedMetersAreRefused(t *testing.T) {
	t.Parallel()
	changes := map[string]func(m *usage.Meter){
		"aggregation": func(m *usage.Meter) { m.Aggregation = usage.Max },
		"when":        func(m *usage.Meter) { m.When = whenEU{} },
		"group_by":    func(m *usage.Meter) { m.Dimensions = m.Dimensions[:1] },
		"decimals":    func(m *usage.Meter) { m.Decimals = 2 },
	}
	for name, change := range changes {
		cfg := wideConfig(t)
		r := newRig(t, cfg)
		r.with(ev{meter: "calls"}, text("eu", "/a", "-"))
		meters := slices.Clone(cfg.Catalog.Meters)
		change(&meters[0])
		err := r.reconfigure(meters...)
		require.ErrorIs(t, err, aggregate.ErrForeignRecord, name)
		require.ErrorContains(t, err, "calls", name)
	}
}

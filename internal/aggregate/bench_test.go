package aggregate_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/usage"
)

// newBench is a state that has counted one event of each of n clients, and its
// next inputs, one for each.
func newBench(t testing.TB, n int, ids bool) (*aggregate.State, []usage.Event, usage.Time) {
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

// Dimensions, conditions and the other aggregations allocate nothing either,
// once their counters are there.
func TestFoldOfKnownCombinationsAllocatesNothing(t *testing.T) {
	r := newRig(t, wideConfig(t))
	r.put("c", "acme", "", limit("each", "1000000", `"meter":"calls","per":["endpoint","region"]`), limit("one", "1000000", `"meter":"calls","where":{"region":"eu"}`))
	var events []usage.Event
	for _, meter := range []string{"calls", "max", "latest", "users"} {
		events = append(events, usage.Event{
			Client: []byte("acme"), Meter: []byte(meter), Quantity: usage.DecimalOf(1), Time: r.clock, Fields: text("eu", "/a", "u"),
		})
	}
	fold := func() {
		r.state.Begin(r.clock)
		for i := range events {
			require.Equal(t, aggregate.Counted, r.state.Fold(aggregate.Input{Offset: r.state.Position(), Timestamp: r.clock}, &events[i]).Fate)
		}
		r.state.End()
		r.state.Committed(r.clock)
	}
	r.taken()
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

// BenchmarkFoldManyClients folds sixteen events at a time, of clients that are
// anywhere in a memory that no cache holds: one by one, and foreseen.
func BenchmarkFoldManyClients(b *testing.B) {
	for _, foreseen := range []bool{false, true} {
		b.Run(fmt.Sprintf("foreseen=%t", foreseen), func(b *testing.B) {
			const group, batch = 16, 16 * 1024
			clients := 20 * batch
			if testing.Short() {
				clients = batch
			}
			r := newRig(b, config(b))
			var names, ids [][]byte
			for i := range clients {
				names = append(names, fmt.Appendf(nil, "client-%d", i))
			}
			events, at := make([]usage.Event, group), make([]*usage.Event, group)
			for i := range events {
				ids = append(ids, make([]byte, 36))
				events[i] = usage.Event{ID: ids[i], Meter: []byte("bytes"), Quantity: usage.DecimalOf(1), Time: r.clock}
				at[i] = &events[i]
			}
			state, offset, n, random := r.state, r.state.Position(), 0, rand.New(rand.NewPCG(1, 2))
			fold := func(client func(i int) int) {
				if n%batch == 0 {
					state.Begin(r.clock)
				}
				for i := range events {
					binary.LittleEndian.PutUint64(ids[i], uint64(n+i))
					events[i].Client = names[client(n+i)]
				}
				if foreseen {
					state.Foresee(at)
				}
				for i := range events {
					state.Fold(aggregate.Input{Offset: offset, Timestamp: r.clock}, &events[i])
					offset++
				}
				if n += group; n%batch == 0 {
					state.End()
					state.Changes(r.clock)
					state.Committed(r.clock)
				}
			}
			for n < clients {
				fold(func(i int) int { return i })
			}
			b.ReportAllocs()
			for b.Loop() {
				fold(func(int) int { return random.IntN(clients) })
			}
			if n%batch != 0 {
				state.End()
			}
		})
	}
}

// BenchmarkView is what an HTTP read of a client's usage costs.
func BenchmarkView(b *testing.B) {
	const clients = 1000
	state, events, _ := newBench(b, clients, false)
	names := make([]string, clients)
	for i := range events {
		names[i] = string(events[i].Client)
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		if view := state.View(names[n%clients], aggregate.Selection{}); len(view.Counters) == 0 {
			b.Fatal("a client without counters")
		}
		n++
	}
}

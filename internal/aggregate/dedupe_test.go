package aggregate_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
)

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

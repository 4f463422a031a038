package druid_test

import (
	"maps"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/druid"
)

func TestCloseWithdrawsEverything(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t)
		h.fault = func(n int, _ question, _ http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				<-r.Context().Done()
			}
			return false
		}
		s := newSeeder(t, "http://druid", through(h), time.Now, func(c *druid.Config) { c.BatchClients, c.MaxConcurrent = 10, 1 })
		sub := run(t, s)
		sub.Submit(requests(100)...)
		<-time.After(time.Second)
		require.Len(t, h.all(), 1)
		sub.Close()
		synctest.Wait()
		require.Len(t, h.ended(), 1, "the query under way is ended in Druid")
		require.Empty(t, sub.Take())
		require.Zero(t, sub.Submit(requests(1)...))
		<-time.After(time.Minute)
		require.Len(t, h.all(), 1, "nothing else is asked")

		again := s.Submitter() // the partition comes back
		defer again.Close()
		again.Submit(requests(100)...)
		until(again, druid.Exact, 100)
		require.Len(t, h.all(), 11)
	})
}

func TestWithdrawLeavesTheOthers(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t)
		h.fault = func(int, question, http.ResponseWriter, *http.Request) bool {
			<-time.After(time.Second)
			return false
		}
		sub := run(t, newSeeder(t, "http://druid", through(h), time.Now, func(c *druid.Config) { c.BatchClients, c.MaxConcurrent = 4, 1 }))
		all := requests(10)
		sub.Submit(all...)
		<-time.After(500 * time.Millisecond) // four under way, six waiting
		sub.Withdraw(all[1], all[5], all[6], all[7], all[8], all[9], request("nobody"))
		got := slices.Collect(maps.Keys(until(sub, druid.Exact, 4)))
		require.ElementsMatch(t, []druid.Request{all[0], all[2], all[3], all[4]}, got)
		require.Equal(t, 1, sub.Submit(all[1]), "what was taken back can be asked for again")
		require.Contains(t, until(sub, druid.Exact, 1), all[1])
		require.Len(t, h.all(), 3)
	})
}

func TestSubmitTakesNoMoreThanThereIsRoomFor(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t)
		sub := run(t, newSeeder(t, "http://druid", through(h), time.Now, func(c *druid.Config) { c.MaxPending = 7 }))
		rest := requests(20)
		got := 0
		for len(rest) > 0 || got < 20 {
			n := sub.Submit(rest...)
			require.LessOrEqual(t, n, 7)
			rest = rest[n:]
			<-sub.Ready()
			got += len(sub.Take())
		}
		require.Equal(t, 20, got)
		require.Len(t, h.all(), 3)
	})
}

func TestSubmitTellsWhatMakesNoSense(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t)
		sub := run(t, newSeeder(t, "http://druid", through(h), time.Now, nil))
		bad := request("")
		require.Equal(t, 1, sub.Submit(bad))
		require.ErrorContains(t, until(sub, druid.Failed, 1)[bad].Reason, "no client id")
		<-time.After(time.Hour)
		require.Empty(t, h.all())
		sub.Withdraw(bad)
	})
}

package feed_test

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/feed"
)

func TestFromNowOn(t *testing.T) {
	t.Parallel()
	s := newTopic(2)
	s.put(0, "before")
	r := open(t, run(t, s, nil), "", all)
	require.Equal(t, feed.Portion{Cursor: "0-2,1-0"}, r.portion(t))

	s.put(1, "a")
	items := r.next(t, 1)
	require.Equal(t, []string{"1/0"}, ids(items))
	require.Equal(t, "0-2,1-1", items[0].Cursor)
	require.Equal(t, int32(1), items[0].Partition)
	s.put(0, "b")
	items = r.next(t, 1)
	require.Equal(t, "0-3,1-2", items[0].Cursor) // behind the end of the transaction of a, too
	r.stop()
	require.NoError(t, r.end(t))
}

func TestOnlyWhatIsWanted(t *testing.T) {
	t.Parallel()
	s := newTopic(1)
	f := run(t, s, func(c *feed.Config) { c.Heartbeat = time.Millisecond })
	r := open(t, f, "", func(e *alerts.Event) bool { return e.Client == "acme" })
	r.portion(t)
	s.put(0, "zoe")
	// The cursor moves on without events, so that nobody has to read them again.
	for r.portion(t).Cursor != "0-2" {
		continue
	}
	s.put(0, "acme")
	s.put(0, "zoe")
	require.Equal(t, []string{"0/2"}, ids(r.next(t, 1)))
	require.Equal(t, []string{"0/2"}, ids(open(t, f, feed.Earliest, func(e *alerts.Event) bool { return e.Client == "acme" }).next(t, 1)))
}

// TestGoesOnFromEachCursor takes the stream up again behind each event, with
// rings that have all, some or one of the events.
func TestGoesOnFromEachCursor(t *testing.T) {
	t.Parallel()
	for name, ring := range map[string]int{"from the ring": 16 << 20, "from both": 20 << 10, "from the topic": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			const partitions, n = 3, 60
			s := newTopic(partitions)
			f := run(t, s, func(c *feed.Config) { c.RingBytes = ring })
			first := open(t, f, "", all)
			start := first.portion(t).Cursor
			var seen []feed.Item
			for range n {
				s.put(random.IntN(partitions), "acme")
				seen = append(seen, first.next(t, 1)...)
			}
			same(t, seen, open(t, f, start, all).next(t, n))
			same(t, seen, open(t, f, feed.Earliest, all).next(t, n))
			var behind []*stream
			for i := range seen {
				r := open(t, f, seen[i].Cursor, all)
				rest := r.next(t, n-1-i)
				same(t, seen[i+1:], rest)
				if len(rest) > 0 { // its own cursors lead on as well
					at := random.IntN(len(rest))
					same(t, rest[at+1:], open(t, f, rest[at].Cursor, all).next(t, len(rest)-at-1))
				}
				behind = append(behind, r)
			}
			s.put(1, "last")
			for _, r := range behind {
				require.Equal(t, []string{"last"}, clients(r.next(t, 1)))
			}
			if name == "from the ring" {
				require.Zero(t, s.reads)
			}
		})
	}
}

func clients(items []feed.Item) []string {
	var list []string
	for _, it := range items {
		list = append(list, it.Event.Event.Client)
	}
	return list
}

// same checks that got has the events of want: in the order of each partition.
func same(t *testing.T, want, got []feed.Item) {
	t.Helper()
	inOrder := func(items []feed.Item) []string {
		items = slices.Clone(items)
		slices.SortStableFunc(items, func(a, b feed.Item) int { return cmp.Compare(a.Partition, b.Partition) })
		return ids(items)
	}
	require.Equal(t, inOrder(want), inOrder(got))
}

// TestGoesOnElsewhere has a cursor of an instance that has read more.
func TestGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	s := newTopic(2)
	s.put(0, "a")
	f := run(t, s, nil)
	open(t, f, "", all).portion(t)
	opened := make(chan *feed.Reader)
	go func() {
		r, err := f.Open(context.WithoutCancel(t.Context()), "0-3,1-0", all)
		if err == nil {
			defer r.Close()
		}
		opened <- r
	}()
	require.Eventually(t, func() bool { return f.Readers() == 2 }, patience, time.Millisecond)
	s.put(0, "b")
	require.NotNil(t, <-opened)
}

func TestCursorsThatLeadNowhere(t *testing.T) {
	t.Parallel()
	s := newTopic(2)
	for range 3 {
		s.put(0, "a")
	}
	s.starts[0] = 2
	f := run(t, s, func(c *feed.Config) { c.Wait = 50 * time.Millisecond })

	tests := map[string]struct {
		cursor string
		err    error
		says   string
	}{
		"not a cursor":             {"x", feed.ErrCursor, "PARTITION-OFFSET"},
		"one offset alone":         {"17", feed.ErrCursor, "PARTITION-OFFSET"},
		"a negative offset":        {"0--1", feed.ErrCursor, "PARTITION-OFFSET"},
		"a partition that is none": {"2-0", feed.ErrCursor, "no partition 2"},
		"a partition twice":        {"0-4,0-4", feed.ErrCursor, "twice"},
		"behind the end":           {"0-7,1-0", feed.ErrCursor, "behind the end, 0-6,1-0"},
		"deleted":                  {"0-1,1-0", feed.ErrGone, "partition 0 begins at 2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := f.Open(t.Context(), tt.cursor, all)
			require.ErrorIs(t, err, tt.err)
			require.ErrorContains(t, err, tt.says)
		})
	}
	require.Zero(t, f.Readers())
	// A partition that is not named was not read.
	require.Equal(t, []string{"0/2", "0/4"}, ids(open(t, f, "1-0", all).next(t, 2)))
}

func TestDeletedWhileItIsRead(t *testing.T) {
	t.Parallel()
	s := newTopic(1)
	for range 3 {
		s.put(0, "a")
	}
	r := open(t, run(t, s, nil), "0-0", all)
	r.portion(t)
	s.set(func() { s.starts[0] = 6 })
	require.ErrorIs(t, r.end(t), feed.ErrGone)
}

func TestSlowReadersAreLetGo(t *testing.T) {
	t.Parallel()
	s := newTopic(1)
	f := run(t, s, func(c *feed.Config) { c.RingBytes = 4 << 10 })
	slow, quick := open(t, f, "", all), open(t, f, "", all)
	begin := slow.portion(t).Cursor
	quick.portion(t)
	var seen []feed.Item
	for range 100 {
		s.put(0, "a")
		seen = append(seen, quick.next(t, 1)...)
	}
	require.Len(t, seen, 100)
	got, cursor, err := slow.rest(t)
	require.ErrorIs(t, err, feed.ErrSlow)
	require.Less(t, len(got), 100)
	if cursor == "" {
		cursor = begin
	}
	// It goes on from where it was.
	same(t, seen[len(got):], open(t, f, cursor, all).next(t, 100-len(got)))
}

func TestReadingTheTopicTakesNoLongerThanAllowed(t *testing.T) {
	t.Parallel()
	s := newTopic(1)
	for range 100 {
		s.put(0, "a")
	}
	f := run(t, s, func(c *feed.Config) { c.CatchUp = time.Nanosecond })
	require.ErrorIs(t, open(t, f, "0-0", all).end(t), feed.ErrSlow)
}

func TestFewReadTheTopicAtOnce(t *testing.T) {
	t.Parallel()
	s := newTopic(1)
	for range 100 {
		s.put(0, "a")
	}
	f := run(t, s, func(c *feed.Config) { c.CatchUps, c.Heartbeat = 1, time.Millisecond })
	reads := open(t, f, "0-0", all)
	reads.next(t, 1)
	waits := open(t, f, "0-0", all)
	for range 3 {
		require.Equal(t, feed.Portion{Cursor: "0-0"}, waits.portion(t))
	}
	reads.stop()
	require.NoError(t, reads.end(t))
	require.Len(t, waits.next(t, 100), 100)
}

func TestNoMoreReadersThanAllowed(t *testing.T) {
	t.Parallel()
	s := newTopic(1)
	f := run(t, s, func(c *feed.Config) { c.MaxReaders = 2 })
	open(t, f, "", all).portion(t)
	second := open(t, f, "", all)
	second.portion(t)
	_, err := f.Open(t.Context(), "", all)
	require.ErrorIs(t, err, feed.ErrBusy)
	second.stop()
	_ = second.end(t)
	require.Eventually(t, func() bool { return f.Readers() == 1 }, patience, time.Millisecond)
	open(t, f, "", all).portion(t)
}

// TestTopicIsReadForReadersOnly and once for all of them.
func TestTopicIsReadForReadersOnly(t *testing.T) {
	t.Parallel()
	s := newTopic(2)
	f := run(t, s, func(c *feed.Config) { c.Linger = time.Millisecond })
	follows := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.follows == n
		}, patience, time.Millisecond)
	}
	for range 3 {
		follows(0)
		var readers []*stream
		for range 5 {
			r := open(t, f, "", all)
			r.portion(t)
			readers = append(readers, r)
		}
		follows(2)
		s.put(0, "a")
		for _, r := range readers {
			r.next(t, 1)
			r.stop()
			require.NoError(t, r.end(t))
		}
	}
	follows(0)
}

func TestTopicThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newTopic(1)
	s.block = make(chan struct{})
	f := run(t, s, func(c *feed.Config) { c.Wait = 20 * time.Millisecond })
	_, err := f.Open(t.Context(), "", all)
	require.ErrorIs(t, err, feed.ErrAway)
	close(s.block)
	var r *stream
	require.Eventually(t, func() bool {
		reader, err := f.Open(t.Context(), "", all)
		if err == nil {
			reader.Close()
		}
		return err == nil
	}, patience, time.Millisecond)
	r = open(t, f, "", all)
	cursor := r.portion(t).Cursor
	s.set(func() { s.broken = errors.New("gone") })
	require.ErrorIs(t, r.end(t), feed.ErrAway)
	s.set(func() { s.broken = nil })
	s.put(0, "a")
	require.Eventually(t, func() bool { // when it is followed again
		reader, err := f.Open(t.Context(), cursor, all)
		if err == nil {
			reader.Close()
		}
		return err == nil
	}, patience, time.Millisecond)
	require.Equal(t, []string{"0/0"}, ids(open(t, f, cursor, all).next(t, 1)))
}

func TestManyReaders(t *testing.T) {
	t.Parallel()
	s := newTopic(2)
	f := run(t, s, nil)
	const readers, n = 500, 20
	var streams []*stream
	for range readers {
		r := open(t, f, "", all)
		r.portion(t)
		streams = append(streams, r)
	}
	for i := range n {
		s.put(i%2, "acme")
	}
	for _, r := range streams {
		got := ids(r.next(t, n))
		slices.Sort(got)
		require.Len(t, slices.Compact(got), n, strings.Join(got, " "))
	}
}

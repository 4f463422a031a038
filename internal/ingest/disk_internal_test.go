package ingest

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// shelf is a Store that has no room for a while.
type shelf struct {
	low     bool // it says so when asked
	refuses int  // writes, though it did not say so
	kept    map[string]string
	at      int64
}

func (s *shelf) Load(int32, func(string, []byte) error) (int64, bool, error) { return s.at, true, nil }
func (s *shelf) Wipe(int32) error                                            { return nil }
func (s *shelf) DiskLow() (bool, error)                                      { return s.low, nil }

func (s *shelf) Apply(_ int32, entries []Entry, changelog int64) error {
	if s.refuses > 0 {
		s.refuses--
		return fmt.Errorf("apply: %w", ErrDiskLow)
	}
	for _, e := range entries {
		s.kept[e.Key] = string(e.Value)
	}
	s.at = changelog
	return nil
}

func taskOn(s *shelf) *task {
	t := &task{ingest: &Ingest{parts: Parts{Store: s}}, unflushed: map[string][]byte{"a": []byte("1")}}
	t.soft, t.endSoft = context.WithCancel(context.Background())
	return t
}

// A full disk ends no restore: what was restored stays in memory, and goes to
// disk when there is room.
func TestRestoreWithoutRoom(t *testing.T) {
	t.Parallel()
	s := &shelf{low: true, kept: map[string]string{}}
	task := taskOn(s)
	require.NoError(t, task.keep(10))
	require.Empty(t, s.kept)
	s.low, s.refuses = false, 1 // it was filled just now
	task.unflushed["b"] = []byte("2")
	require.NoError(t, task.keep(20))
	require.Empty(t, s.kept)
	require.Len(t, task.unflushed, 2)
	require.NoError(t, task.keep(30))
	require.Equal(t, map[string]string{"a": "1", "b": "2"}, s.kept)
	require.Equal(t, int64(30), s.at)
	require.Empty(t, task.unflushed)
}

func TestWriteBehindWaitsForRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{refuses: 3, kept: map[string]string{}}
		task := taskOn(s)
		f := flush{entries: []Entry{{Key: "a", Value: []byte("1")}}, changelog: 7}
		require.NoError(t, task.applyWithRoom(f))
		require.Equal(t, map[string]string{"a": "1"}, s.kept)
		s.refuses, s.at = 1000, 0
		task.endSoft()
		require.ErrorIs(t, task.applyWithRoom(f), ErrDiskLow, "a partition that ends does not wait")
		require.Zero(t, s.at)
	})
}

// quiet is a Processor with nothing to commit.
type quiet struct{ Processor }

func (quiet) Pending() Pending { return Pending{} }

// What a partition that ends could not write any more is on no disk: nothing newer
// may be written over it, whose marker would stand for it too. There is room
// again right after.
func TestNothingIsWrittenOverAFlushThatWasGivenUp(t *testing.T) {
	t.Parallel()
	s := &shelf{refuses: 1, kept: map[string]string{}}
	task := taskOn(s)
	task.hard, task.processor, task.ingest.metrics = t.Context(), quiet{}, newMetrics(prometheus.NewRegistry())
	end := task.startWriteBehind()
	task.endSoft()
	task.flushing = true
	task.flushes <- flush{entries: []Entry{{Key: "old", Value: []byte("1")}}, changelog: 7}
	require.ErrorIs(t, task.finish(&kept{}), context.Canceled)
	end()
	require.Empty(t, s.kept)
	require.Zero(t, s.at)
	require.NoError(t, task.flushIfDue())
	require.Empty(t, s.kept)
}

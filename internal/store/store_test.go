package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/store"
)

func identity() store.Identity {
	return store.Identity{ApplicationID: "meterd", ClusterID: "cluster-1", Topic: "usage"}
}

// openIn opens a store that is closed when the test ends.
func openIn(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{Dir: dir}, identity(), zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// contents loads a partition.
func contents(t require.TestingT, s *store.Store, partition int32) (map[string]string, store.Marker, bool) {
	found := map[string]string{}
	m, ok, err := s.Load(partition, func(key string, value []byte) error {
		found[key] = string(value)
		return nil
	})
	require.NoError(t, err)
	return found, m, ok
}

func TestApplyIsThereAfterReopening(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "here")
	s := openIn(t, dir)

	_, _, ok := contents(t, s, 3)
	require.False(t, ok, "nothing is kept yet")
	require.NoError(t, s.Apply(3, []store.Entry{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte{}}, {Key: "", Value: []byte("empty")}}, store.Marker{Changelog: 10, Position: 20}))
	require.NoError(t, s.Apply(3, []store.Entry{{Key: "a", Value: []byte("2")}, {Key: "c", Value: []byte("3")}, {Key: "", Value: nil}, {Key: "never", Value: nil}}, store.Marker{Changelog: 11, Position: 21}))
	require.NoError(t, s.Apply(300, nil, store.Marker{Changelog: -1, Position: 7}))
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "closing twice is closing once")

	s = openIn(t, dir)
	found, m, ok := contents(t, s, 3)
	require.True(t, ok)
	require.Equal(t, store.Marker{Changelog: 11, Position: 21}, m)
	require.Equal(t, map[string]string{"a": "2", "b": "", "c": "3"}, found)
	found, m, ok = contents(t, s, 300)
	require.True(t, ok)
	require.Equal(t, store.Marker{Changelog: -1, Position: 7}, m)
	require.Empty(t, found)
	partitions, err := s.Partitions()
	require.NoError(t, err)
	require.Equal(t, []int32{3, 300}, partitions)
}

func TestLoadIsInOrderOfKeysAndStopsAtAnError(t *testing.T) {
	t.Parallel()
	s := openIn(t, t.TempDir())
	require.NoError(t, s.Apply(0, []store.Entry{{Key: "b", Value: []byte("2")}, {Key: "c", Value: []byte("3")}, {Key: "a", Value: []byte("1")}}, store.Marker{}))
	enough := errors.New("enough")
	var keys []string
	_, ok, err := s.Load(0, func(key string, _ []byte) error {
		keys = append(keys, key)
		if key == "b" {
			return enough
		}
		return nil
	})
	require.ErrorIs(t, err, enough)
	require.NotErrorIs(t, err, store.ErrCorrupt)
	require.False(t, ok)
	require.Equal(t, []string{"a", "b"}, keys)
	found, _, _ := contents(t, s, 0)
	require.Len(t, found, 3)
}

func TestWipeTakesOnePartition(t *testing.T) {
	t.Parallel()
	s := openIn(t, t.TempDir())
	for partition := range int32(3) {
		require.NoError(t, s.Apply(partition, numbered(12_000, 1), store.Marker{Changelog: 1}))
	}
	require.NoError(t, s.Wipe(1))
	require.NoError(t, s.Wipe(99), "wiping nothing is fine")
	partitions, err := s.Partitions()
	require.NoError(t, err)
	require.Equal(t, []int32{0, 2}, partitions)
	_, _, ok := contents(t, s, 1)
	require.False(t, ok)
	found, _, _ := contents(t, s, 2)
	require.Len(t, found, 12_000)

	require.NoError(t, s.Apply(1, []store.Entry{{Key: "new", Value: []byte("1")}}, store.Marker{Changelog: 2}))
	found, _, _ = contents(t, s, 1)
	require.Equal(t, map[string]string{"new": "1"}, found)
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()

	dir := t.TempDir()
	require.NoError(t, openIn(t, dir).Close())
	elsewhere := func(change func(*store.Identity)) store.Identity {
		id := identity()
		change(&id)
		return id
	}
	tests := map[string]store.Identity{
		"another application id": elsewhere(func(id *store.Identity) { id.ApplicationID = "other" }),
		"another cluster":        elsewhere(func(id *store.Identity) { id.ClusterID = "other" }),
		"another topic":          elsewhere(func(id *store.Identity) { id.Topic = "other" }),
	}
	for name, id := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := store.Open(store.Config{Dir: dir}, id, zap.NewNop(), prometheus.NewRegistry())
			require.ErrorIs(t, err, store.ErrForeign)
			require.ErrorContains(t, err, id.String())
			require.ErrorContains(t, err, identity().String())
		})
	}
	openIn(t, dir) // all of this has changed nothing
}

func TestOpenRefusesASecondProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openIn(t, dir)
	_, err := store.Open(store.Config{Dir: dir}, identity(), zap.NewNop(), prometheus.NewRegistry())
	require.ErrorIs(t, err, store.ErrInUse)
	require.Equal(t, "open store in "+dir+": local state is in use by another process", err.Error())
	require.ErrorIs(t, store.Destroy(dir), store.ErrInUse)
	require.NoError(t, s.Close())
	openIn(t, dir)
}

func TestDiskLow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	greedy := store.Config{Dir: dir, MinFreeDisk: math.MaxInt64}
	_, err := store.Open(greedy, identity(), zap.NewNop(), prometheus.NewRegistry())
	require.ErrorIs(t, err, store.ErrDiskLow)
	require.NoDirExists(t, filepath.Join(dir, "counters"), "Badger was not let near the disk")

	s := openIn(t, dir)
	low, err := s.DiskLow()
	require.NoError(t, err)
	require.False(t, low)
	free, err := s.Free()
	require.NoError(t, err)
	require.Positive(t, free)
	require.NoError(t, os.Rename(dir, dir+".away"))
	_, err = s.DiskLow()
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, s.Apply(0, nil, store.Marker{}), fs.ErrNotExist, "not knowing is not enough")
	require.NoError(t, os.Rename(dir+".away", dir))
}

func TestAfterClose(t *testing.T) {
	t.Parallel()
	s := openIn(t, t.TempDir())
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Apply(0, nil, store.Marker{}), store.ErrClosed)
	require.ErrorIs(t, s.Wipe(0), store.ErrClosed)
	_, _, err := s.Load(0, func(string, []byte) error { return nil })
	require.ErrorIs(t, err, store.ErrClosed)
	_, err = s.Partitions()
	require.ErrorIs(t, err, store.ErrClosed)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg, dir := prometheus.NewPedanticRegistry(), t.TempDir()
	for range 2 { // the second store of a process has the names again
		s, err := store.Open(store.Config{Dir: dir}, identity(), zap.NewNop(), reg)
		require.NoError(t, err)
		require.NoError(t, s.Apply(0, numbered(5, 1), store.Marker{}))
		problems, err := testutil.GatherAndLint(reg)
		require.NoError(t, err)
		require.Empty(t, problems)
		require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP meterd_state_flushed_entries_total Entries written to local state.
# TYPE meterd_state_flushed_entries_total counter
meterd_state_flushed_entries_total 5
`), "meterd_state_flushed_entries_total"))
		require.NoError(t, s.Close())
	}
	found, err := reg.Gather()
	require.NoError(t, err)
	require.Empty(t, found)
}

// numbered returns n entries whose values tell the round.
func numbered(n, round int) []store.Entry {
	entries := make([]store.Entry, n)
	for i := range entries {
		entries[i] = store.Entry{Key: fmt.Sprintf("client-%06d", i), Value: []byte(strconv.Itoa(round) + strings.Repeat("x", i%50))}
	}
	return entries
}

func TestApplyOfMoreThanATransactionTakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := store.OpenSmall(store.Config{Dir: dir}, identity(), 1000)
	require.NoError(t, err)
	large := store.Entry{Key: "large", Value: []byte(strings.Repeat("y", 90_000))}
	want := map[string]string{"large": string(large.Value)}
	for round := range 3 {
		entries := append([]store.Entry{large, large}, numbered(10_000, round)...)
		require.NoError(t, s.Apply(5, entries, store.Marker{Changelog: int64(round)}))
		for _, e := range entries {
			want[e.Key] = string(e.Value)
		}
		found, m, ok := contents(t, s, 5)
		require.True(t, ok)
		require.Equal(t, int64(round), m.Changelog)
		require.Equal(t, want, found)
	}
	huge := store.Entry{Key: "larger than any transaction", Value: make([]byte, 2<<20)}
	want[huge.Key] = string(huge.Value)
	require.NoError(t, s.Apply(5, []store.Entry{huge}, store.Marker{Changelog: 9}))
	found, m, _ := contents(t, s, 5)
	require.Equal(t, int64(9), m.Changelog)
	require.Equal(t, want, found)

	require.Error(t, s.Apply(5, []store.Entry{{Key: "fine", Value: []byte("1")}, {Key: strings.Repeat("k", 70_000), Value: []byte("1")}}, store.Marker{Changelog: 10}))
	found, m, _ = contents(t, s, 5)
	require.Equal(t, int64(9), m.Changelog, "a batch that fails leaves nothing")
	require.Equal(t, want, found)
	require.NoError(t, s.Close())
}

// Whatever is applied, wiped and reopened, a store is a map with markers.
func TestStoreIsAMap(t *testing.T) {
	t.Parallel()
	all, tries := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		tries++
		dir := filepath.Join(all, strconv.Itoa(tries))
		defer func() { require.NoError(t, os.RemoveAll(dir)) }()
		known := rapid.SampledFrom([]int64{0, 1, 5, 1000}).Draw(t, "known")
		reopened := func() *store.Store {
			s, err := store.OpenSmall(store.Config{Dir: dir}, identity(), known)
			require.NoError(t, err)
			return s
		}
		s := reopened()
		defer func() { require.NoError(t, s.Close()) }()
		want, markers := map[int32]map[string]string{}, map[int32]store.Marker{}
		partition := func() int32 { return rapid.Int32Range(0, 2).Draw(t, "partition") }
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				p := partition()
				if want[p] == nil {
					want[p] = map[string]string{}
				}
				var entries []store.Entry
				for range rapid.IntRange(0, 20).Draw(t, "entries") {
					e := store.Entry{Key: "k" + strconv.Itoa(rapid.IntRange(0, 12).Draw(t, "key"))}
					if rapid.IntRange(0, 3).Draw(t, "kind") > 0 {
						e.Value = []byte(rapid.StringN(0, 8, -1).Draw(t, "value"))
						want[p][e.Key] = string(e.Value)
					} else {
						delete(want[p], e.Key)
					}
					entries = append(entries, e)
				}
				markers[p] = store.Marker{Changelog: rapid.Int64().Draw(t, "changelog"), Position: rapid.Int64().Draw(t, "position")}
				require.NoError(t, s.Apply(p, entries, markers[p]))
			},
			"wipe": func(t *rapid.T) {
				p := partition()
				delete(want, p)
				delete(markers, p)
				require.NoError(t, s.Wipe(p))
			},
			"reopen": func(t *rapid.T) {
				require.NoError(t, s.Close())
				s = reopened()
			},
			"load": func(t *rapid.T) {
				p := partition()
				found, m, ok := contents(t, s, p)
				_, kept := want[p]
				require.Equal(t, kept, ok)
				require.Equal(t, markers[p], m)
				require.True(t, maps.Equal(want[p], found), "%v is not %v", found, want[p])
			},
			"": func(t *rapid.T) {
				counted, kept := s.Known()
				require.Equal(t, kept, counted)
				require.LessOrEqual(t, kept, max(known, 0))
			},
		})
	})
}

func TestPartitionsAtOnce(t *testing.T) {
	t.Parallel()
	s, err := store.OpenSmall(store.Config{Dir: t.TempDir()}, identity(), 500)
	require.NoError(t, err)
	var all sync.WaitGroup
	for partition := range int32(4) {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(partition)))
			for round := range 20 {
				if err := s.Apply(partition, numbered(random.IntN(400), round), store.Marker{Changelog: int64(round)}); err != nil {
					t.Error(err)
				}
				if _, _, err := s.Load(partition, func(string, []byte) error { return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for partition := range int32(4) {
		_, m, ok := contents(t, s, partition)
		require.True(t, ok)
		require.Equal(t, int64(19), m.Changelog)
	}
	require.NoError(t, s.Close())
}

func TestDestroy(t *testing.T) {
	t.Parallel()

	t.Run("what is not there", func(t *testing.T) {
		t.Parallel()
		require.NoError(t, store.Destroy(filepath.Join(t.TempDir(), "no", "such")))
		require.NoError(t, store.Destroy(t.TempDir()), "nor in an empty directory")
	})
	t.Run("a store, and only it", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		s := openIn(t, dir)
		require.NoError(t, s.Apply(0, numbered(10, 1), store.Marker{}))
		require.NoError(t, s.Close())
		other := filepath.Join(dir, "lost+found")
		require.NoError(t, os.Mkdir(other, 0o755))

		require.NoError(t, store.Destroy(dir))
		require.DirExists(t, other)
		require.NoDirExists(t, filepath.Join(dir, "counters"))
		_, _, ok := contents(t, openIn(t, dir), 0)
		require.False(t, ok)
	})
	t.Run("not a directory of something else", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600))
		require.ErrorIs(t, store.Destroy(dir), store.ErrNotOurs)
		require.FileExists(t, filepath.Join(dir, "thesis.tex"))
	})
	t.Run("not counters of something else", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		require.NoError(t, openIn(t, dir).Close())
		thesis := filepath.Join(dir, "counters", "thesis.tex")
		require.NoError(t, os.WriteFile(thesis, nil, 0o600))
		require.ErrorIs(t, store.Destroy(dir), store.ErrNotOurs)
		require.FileExists(t, thesis)
		require.FileExists(t, filepath.Join(dir, "meterd.store"))
	})
}

// What is asked of a directory changes nothing in it.
func TestLookingAtADirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := store.Identify(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	names, err := store.Destroyable(dir)
	require.NoError(t, err)
	require.Empty(t, names)

	s := openIn(t, dir)
	require.NoError(t, s.Apply(0, numbered(10, 1), store.Marker{}))
	id, err := store.Identify(dir)
	require.NoError(t, err)
	require.Equal(t, identity(), id)
	_, err = store.Destroyable(dir)
	require.ErrorIs(t, err, store.ErrInUse)
	require.NoError(t, s.Close())

	names, err = store.Destroyable(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"counters", "meterd.store"}, names)
	_, _, ok := contents(t, openIn(t, dir), 0)
	require.True(t, ok)

	broken := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(broken, "meterd.store"), []byte("{}\n00000000\n"), 0o600))
	_, err = store.Identify(broken)
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.NoError(t, os.WriteFile(filepath.Join(broken, "thesis.tex"), nil, 0o600))
	require.NoError(t, os.Remove(filepath.Join(broken, "meterd.store")))
	_, err = store.Destroyable(broken)
	require.ErrorIs(t, err, store.ErrNotOurs)
}

func BenchmarkStore(b *testing.B) {
	n := 1_000_000
	if testing.Short() {
		n = 100_000
	}
	dir := b.TempDir()
	entries := make([]store.Entry, n)
	for i := range entries {
		entries[i] = store.Entry{Key: fmt.Sprintf("client-%07d\x00api_calls", i*7919%n), Value: make([]byte, 24)}
	}
	open := func() *store.Store {
		s, err := store.Open(store.Config{Dir: dir}, identity(), zap.NewNop(), prometheus.NewRegistry())
		require.NoError(b, err)
		return s
	}
	s := open()
	for _, name := range []string{"apply new", "apply again"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, s.Apply(0, entries, store.Marker{}))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n)/float64(b.N), "ns/entry")
		})
	}
	require.NoError(b, s.Close())
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, open().Close())
		}
	})
	s = open()
	b.Run("apply unknown", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, s.Apply(0, entries[:100_000], store.Marker{}))
			require.NoError(b, s.Close())
			s = open()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/100_000/float64(b.N), "ns/entry")
	})
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			_, ok, err := s.Load(0, func(string, []byte) error { return nil })
			require.NoError(b, err)
			require.True(b, ok)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n)/float64(b.N), "ns/entry")
	})
	require.NoError(b, s.Close())
}

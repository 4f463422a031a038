package aggregate

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/usage"
)

// A set does what a map does, whatever happens to it in whatever order.
func TestIDSetIsAMap(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(r *rapid.T) {
		var set idSet
		want := map[Hash]uint8{}
		hash := func() Hash {
			// few parts and few homes, so that searches run into one another and over
			// the end
			return Hash{
				Hi: rapid.Uint64Range(0, 3).Draw(r, "hi") << 8,
				Lo: rapid.SampledFrom([]uint64{0, 7, 0xff}).Draw(r, "part")<<56 | rapid.SampledFrom([]uint64{0, 1, 1<<56 - 1, 1 << 55}).Draw(r, "home"),
			}
		}
		for range rapid.IntRange(1, 200).Draw(r, "steps") {
			h := hash()
			switch rapid.SampledFrom([]string{"put", "put", "put", "remove", "sweep"}).Draw(r, "step") {
			case "put":
				tag := rapid.Uint8Range(1, 254).Draw(r, "tag")
				require.Equal(r, want[h], set.put(h, tag))
				want[h] = tag
			case "remove":
				if want[h] != freeTag {
					set.remove(h)
					delete(want, h)
				}
			case "sweep":
				var tags [256]bool
				below := rapid.Uint8Range(1, 100).Draw(r, "below")
				for tag := range below {
					tags[tag] = true
				}
				set.sweep(&tags)
				for h, tag := range want {
					if tags[tag] {
						delete(want, h)
					}
				}
			}
			require.Equal(r, len(want), set.count)
			for h, tag := range want {
				require.Equal(r, tag, set.tag(h))
			}
			if h := hash(); want[h] == freeTag {
				require.Equal(r, freeTag, set.tag(h))
			}
		}
	})
}

func TestIDSetGrows(t *testing.T) {
	t.Parallel()

	var set idSet
	const n = 100_000
	of := func(i int) Hash {
		h, _ := hashOf(nil, []byte("acme"), []byte{byte(i), byte(i >> 8), byte(i >> 16)})
		return h
	}
	for i := range n {
		require.Equal(t, freeTag, set.put(of(i), uint8(1+i%2)))
	}
	require.Equal(t, n, set.count)
	var odd [256]bool
	odd[2] = true
	set.sweep(&odd)
	require.Equal(t, n/2, set.count)
	cells := 0
	for i := range set.parts {
		cells += len(set.parts[i].cells)
	}
	require.LessOrEqual(t, cells, n, "what is swept gives its room back")
	for i := range n {
		require.Equal(t, i%2 == 0, set.tag(of(i)) == 1)
	}
}

// Tags may run out where the window was shortened again and again: nothing is
// forgotten before its time.
func TestBucketsBeyondTags(t *testing.T) {
	t.Parallel()

	d := newDedupe(1000, false)
	for i := range 400 {
		h, _ := hashOf(nil, []byte("acme"), []byte{byte(i), byte(i >> 8)})
		d.load(h, usage.Time(1000*i))
	}
	for i := range 400 {
		h, _ := hashOf(nil, []byte("acme"), []byte{byte(i), byte(i >> 8)})
		require.GreaterOrEqual(t, d.buckets[d.ids.tag(h)].end, usage.Time(1000*i))
	}
}

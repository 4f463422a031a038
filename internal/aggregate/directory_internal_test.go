package aggregate

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A directory does what a map does, whatever happens to it in whatever order.
func TestDirectoryIsAMap(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(r *rapid.T) {
		d := newDirectory()
		want := map[string]*client{}
		name := func() string { return fmt.Sprint("c", rapid.IntRange(0, 40).Draw(r, "client")) }
		change := func() {
			n := name()
			if c := want[n]; c != nil {
				d.remove(&client{name: n}) // another one of that name
				require.Same(r, c, d.named(n))
				d.remove(c)
				delete(want, n)
			} else {
				want[n] = &client{name: n}
				d.add(want[n])
			}
		}
		for range rapid.IntRange(1, 300).Draw(r, "steps") {
			change()
			n := name()
			require.Equal(r, want[n] != nil, d.find(d.hash([]byte(n)), []byte(n)) != nil)
			require.Equal(r, len(want), d.count)
		}
		all := slices.Sorted(func(yield func(string) bool) {
			for c := range d.all() {
				require.Same(r, want[c.name], c)
				if !yield(c.name) {
					return
				}
			}
		})
		require.Equal(r, slices.Sorted(maps.Keys(want)), all)
		for c := range d.all() {
			require.Same(r, want[c.name], c, "what was removed meanwhile is not yielded")
			for range rapid.IntRange(0, 10).Draw(r, "meanwhile") {
				change()
			}
		}
	})
}

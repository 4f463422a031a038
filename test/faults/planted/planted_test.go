package planted_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/test/faults/harness"
	"github.com/meterd/meterd/test/faults/planted"
)

// The source changes, and then a planted bug has to change with it. Whether the
// harness finds them is for "make planted".
func TestBugsCanBePlanted(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, bug := range planted.Bugs() {
		require.False(t, names[bug.Name], bug.Name)
		names[bug.Name] = true
		_, err := bug.Overlay("../../..", t.TempDir())
		require.NoError(t, err)
		_, err = harness.Draw(harness.PlanOptions{Seed: 1, Faults: 3, Only: bug.Kinds, Gap: 1})
		require.NoError(t, err, bug.Name)
	}
	require.GreaterOrEqual(t, len(names), 10)
}

func TestAnEditThatDoesNotFit(t *testing.T) {
	t.Parallel()
	bug := planted.Bug{Edits: []planted.Edit{{File: "test/faults/planted/planted_test.go", Old: "no such text" + "!"}}}
	_, err := bug.Overlay("../../..", t.TempDir())
	require.ErrorIs(t, err, planted.ErrEdit)
}

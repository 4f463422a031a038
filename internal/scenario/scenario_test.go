package scenario_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/scenario"
	"github.com/meterd/meterd/internal/usage"
)

const semantics = "../../docs/semantics.md"

func open(t *testing.T) *scenario.Document {
	t.Helper()
	document, err := scenario.Open(semantics)
	require.NoError(t, err)
	return document
}

// ways are all the ways to run a scenario in memory.
func ways() map[string]scenario.Way {
	list := map[string]scenario.Way{}
	for _, backlog := range []bool{false, true} {
		for name, way := range map[string]scenario.Way{
			"as it is":           {},
			"each step twice":    {Twice: true},
			"restarts all along": {Restarts: true},
			"twice and restarts": {Twice: true, Restarts: true},
		} {
			kind := "live"
			if way.Backlog = backlog; backlog {
				kind = "backlog"
			}
			list[kind+", "+name] = way
		}
	}
	return list
}

// Every example of the document comes out as it says, and in the same way
// whether meterd keeps up or catches up, has to do steps again, or restarts
// after each.
func TestExamples(t *testing.T) {
	t.Parallel()

	document := open(t)
	end := usage.TimeOf(time.Now())
	for _, s := range document.Scenarios {
		t.Run(fmt.Sprintf("%s %s", s.Rule, s.Name), func(t *testing.T) {
			t.Parallel()

			cfg, err := document.Load(s, t.TempDir(), nil)
			require.NoError(t, err)
			for name, way := range ways() {
				if way.Backlog && !s.CatchesUp() {
					continue
				}
				_, err := scenario.Memory(s, cfg, way, end)
				require.NoError(t, err, "%s:%d: %s", semantics, s.Line, name)
			}
		})
	}
}

// Every rule has an example, and no two examples have the same name.
func TestEveryRuleHasAnExample(t *testing.T) {
	t.Parallel()

	var rules, names []string
	for _, s := range open(t).Scenarios {
		rules, names = append(rules, s.Rule), append(names, s.Name)
	}
	for n := range 20 {
		require.Contains(t, rules, fmt.Sprintf("R%d", n))
	}
	slices.Sort(names)
	require.Equal(t, slices.Compact(slices.Clone(names)), names)
}

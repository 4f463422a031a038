package scenario_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/scenario"
	"github.com/meterd/meterd/internal/usage"
)

func TestParseRefuses(t *testing.T) {
	t.Parallel()

	for name, text := range map[string]string{
		"a time alone":                      "10:00",
		"a client alone":                    "acme",
		"a time that is none":               "25:00 acme bytes",
		"an event time that is none":        "acme bytes 1 at=noon",
		"a word too many":                   "acme bytes 1 twice",
		"a contract without a client":       "contract c1",
		"a contract with half a pair":       "contract c1 acme from: traffic bytes 100",
		"a contract with an unknown pair":   "contract c1 acme since 2025-01-01: traffic bytes 100",
		"a limit without a value":           "contract c1 acme: traffic bytes",
		"a limit with a word too many":      "contract c1 acme: traffic bytes 100 monthly",
		"a where without a value":           "contract c1 acme: traffic bytes 100 where region",
		"remove of nothing":                 "remove",
		"history of a word":                 "history acme bytes many",
		"a question without a meter":        "usage acme -> 1",
		"a question with half a pair":       "usage acme bytes in -> 1",
		"a check with a word too many":      "check acme bytes 1 2 -> allowed",
		"a limit event without a threshold": "acme bytes 1 -> crossed traffic",
		"totals that are none":              "acme bytes 1 -> crossed traffic 50% (1, 2)",
		"a limit event with a stray word":   "acme bytes 1 -> crossed traffic 50% soon",
		"a setting without a value":         "config usage",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, err := scenario.Parse("# a name\n"+text, 1)
			require.ErrorIs(t, err, scenario.ErrNotation)
			require.ErrorContains(t, err, "line 2")
		})
	}
}

// Examples that are wrong in any way do not come out as they say.
func TestWrongExamplesAreFound(t *testing.T) {
	t.Parallel()

	const contract = "contract c1 acme: traffic bytes 100 at 50% 80%\n"
	for name, text := range map[string]string{
		"told, and not said":          contract + "acme bytes 60",
		"said, and not told":          contract + "acme bytes 40 -> crossed traffic 50% (0 -> 40)",
		"too little":                  contract + "acme bytes 80 -> crossed traffic 50% (0 -> 80)",
		"another kind":                contract + "acme bytes 60 -> cleared traffic 50% (0 -> 60)",
		"another contract":            contract + "acme bytes 60 -> crossed c2/traffic 50% (0 -> 60)",
		"another limit":               contract + "acme bytes 60 -> crossed calls 50% (0 -> 60)",
		"another value":               contract + "acme bytes 60 -> crossed traffic[eu] 50% (0 -> 60)",
		"another total before":        contract + "acme bytes 60 -> crossed traffic 50% (1 -> 60)",
		"another total after":         contract + "acme bytes 60 -> crossed traffic 50% (0 -> 61)",
		"another period":              contract + "acme bytes 60 -> crossed traffic 50% in 2025-12",
		"another cause":               contract + "acme bytes 60 -> crossed traffic 50% by void",
		"another limit's value":       contract + "acme bytes 60 -> crossed traffic 50% of 101",
		"another client":              contract + "acme bytes 60 -> crossed traffic 50% for zoo",
		"another sequence":            contract + "acme bytes 60 -> crossed traffic 50% #2",
		"another id":                  contract + "acme bytes 60 -> crossed traffic 50% id 0",
		"something else stands":       contract + "acme bytes 60 -> crossed traffic 50% standing 50% 80%",
		"nothing stands":              contract + "acme bytes 60 -> crossed traffic 50% standing nothing",
		"late":                        contract + "acme bytes 60 -> crossed traffic 50% late",
		"seeded":                      contract + "acme bytes 60 -> crossed traffic 50% seeded",
		"another order":               contract + "2025-11-30 acme bytes 60 -> crossed traffic 50%\n2025-12-01 acme bytes 60 -> crossed traffic 50% in 2025-12, reset traffic 50% in 2025-11",
		"counted, not a duplicate":    "acme bytes 1 -> duplicate",
		"a duplicate, not counted":    "acme bytes 1 id=a\nacme bytes 1 id=a",
		"another reason":              "acme bytes 0.5 -> dead letter too_late",
		"another total":               "acme bytes 1\nusage acme bytes -> 2",
		"another number of events":    "acme bytes 1\nusage acme bytes -> 1 (2 events)",
		"no such counter":             "usage acme bytes -> 0",
		"something else in the state": contract + "acme bytes 60 -> crossed traffic 50%\nstate c1/traffic -> nothing",
		"it is not rejected":          "contract c1 acme: traffic bytes 100 -> rejected",
		"it is rejected":              "contract c1 acme: traffic bytes 0",
		"rejected for another reason": "contract c1 acme: traffic bytes 0 -> rejected meter",
		"it is allowed":               "check acme bytes 1 -> denied",
		"another rest":                contract + "check acme bytes 1 -> allowed, traffic leaves 99",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			document := open(t)
			s, err := scenario.Parse("# a name\n"+text, 1)
			require.NoError(t, err)
			cfg, err := document.Load(s, t.TempDir(), nil)
			require.NoError(t, err)
			_, err = scenario.Memory(s, cfg, scenario.Way{}, usage.TimeOf(time.Now()))
			require.ErrorIs(t, err, scenario.ErrExample)
		})
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()

	path := filepath.Join(t.TempDir(), "a.md")
	require.NoError(t, os.WriteFile(path, []byte("# Title\n```scenario rows\ncontract c1 acme: traffic bytes 100\n```\n"+
		"| what | how |\n|---|---|\n| A row | `acme bytes 1; acme bytes 2` |\n"+
		"## R7 Duplicates\n```yaml\nmeters: []\n```\n```yaml\nother: 1\n```\n```sh\nacme bytes\n```\n"+
		"```scenario\n# A block\nconfig usage.unknown_meter: dead_letter\nlive: it is\nacme bytes 1\n  -> late\n```\n## Other\n```scenario\n# Another\nacme bytes 1\n```\n"), 0o600))
	document, err := scenario.Open(path)
	require.NoError(t, err)
	require.Equal(t, "meters: []", document.Config)
	require.Len(t, document.Scenarios, 3)

	table, block, other := document.Scenarios[0], document.Scenarios[1], document.Scenarios[2]
	require.Equal(t, "A row", table.Name)
	require.Empty(t, table.Rule)
	require.Len(t, table.Steps, 3)
	require.True(t, table.CatchesUp())
	require.Equal(t, "R7", block.Rule)
	require.Equal(t, "A block", block.Name)
	require.Len(t, block.Steps, 1)
	require.Equal(t, "acme bytes 1 -> late", block.Steps[0].Text)
	require.Equal(t, 22, block.Steps[0].Line)
	require.Equal(t, "usage.unknown_meter: dead_letter\n", block.Settings())
	require.False(t, block.CatchesUp())
	require.Empty(t, other.Rule)
	require.Equal(t, map[string][]*scenario.Scenario{"": {table, other}}, document.BySettings())
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()

	for name, text := range map[string]string{
		"a block without a name":           "```scenario\nacme bytes 1\n```\n",
		"a block with a line that is none": "```scenario\n# A name\nacme\n```\n",
		"a block without an end":           "```scenario\n# A name\nacme bytes 1\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			path := filepath.Join(t.TempDir(), "a.md")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			_, err := scenario.Open(path)
			require.ErrorIs(t, err, scenario.ErrNotation)
		})
	}
}

//go:build integration

package integration_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"github.com/meterd/meterd/internal/scenario"
)

// Every example of docs/semantics.md that comes out the same as a backlog does
// so through a real Kafka: each limit event whole and in its order, limit
// states, dead letters and counters. Those with the same configuration share a
// daemon, each on a partition of its own.
func TestScenariosOnRealKafka(t *testing.T) {
	const document = "../../docs/semantics.md"
	read, err := scenario.Open(document)
	require.NoError(t, err)
	brokers := strings.Split(env(t, "METERD_TEST_KAFKA"), ",")
	sets := read.BySettings()
	for i, settings := range slices.Sorted(maps.Keys(sets)) {
		stage := scenario.Stage{
			Brokers: brokers, ID: fmt.Sprintf("scenarios-%d-%d", time.Now().UnixNano(), i), Dir: t.TempDir(), Patience: patience,
			Log: zaptest.NewLogger(t, zaptest.Level(zapcore.ErrorLevel)),
		}
		results, err := stage.Play(t.Context(), read, sets[settings])
		require.NoError(t, err, "%s", settings)
		for _, r := range results {
			t.Run(strings.TrimSpace(r.Scenario.Rule+" "+r.Scenario.Name), func(t *testing.T) {
				require.Empty(t, r.Wrong, "%s:%d", document, r.Scenario.Line)
			})
		}
	}
}

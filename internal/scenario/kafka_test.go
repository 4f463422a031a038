package scenario_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"github.com/meterd/meterd/internal/scenario"
)

// Every example that comes out the same as a backlog tells through Kafka,
// with the daemon in between, what it tells in memory: every limit event whole
// and in its order, limit states, dead letters and counters.
func TestExamplesThroughKafka(t *testing.T) {
	t.Parallel()

	document := open(t)
	for i, settings := range slices.Sorted(maps.Keys(document.BySettings())) {
		name := strings.ReplaceAll(settings, "\n", "")
		if name == "" {
			name = "as configured"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			fake, err := kfake.NewCluster(kfake.NumBrokers(1))
			require.NoError(t, err)
			t.Cleanup(fake.Close)
			stage := scenario.Stage{
				Brokers: fake.ListenAddrs(), ID: fmt.Sprintf("play-%d", i), Dir: t.TempDir(), Patience: 2 * time.Minute,
				Log: zaptest.NewLogger(t, zaptest.Level(zapcore.ErrorLevel)),
			}
			results, err := stage.Play(t.Context(), document, document.BySettings()[settings])
			require.NoError(t, err)
			for _, r := range results {
				t.Run(fmt.Sprintf("%s %s", r.Scenario.Rule, r.Scenario.Name), func(t *testing.T) {
					require.Empty(t, r.Wrong, "%s:%d", semantics, r.Scenario.Line)
				})
			}
		})
	}
}

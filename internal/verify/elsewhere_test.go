package verify_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/verify"
)

// roomy is a world whose topics have a second partition, in which nothing is.
type roomy struct{ memory }

func (roomy) Partitions(context.Context, string) (int32, error) { return 2, nil }

func (r roomy) LastStable(ctx context.Context, topic string, p int32) (int64, error) {
	if p > 0 {
		return 0, nil
	}
	return r.memory.LastStable(ctx, topic, p)
}

func (r roomy) HighWatermark(ctx context.Context, topic string, p int32) (int64, error) {
	return r.LastStable(ctx, topic, p)
}

func (r roomy) CommittedOffset(ctx context.Context, group, topic string, p int32) (int64, bool, error) {
	if p > 0 {
		return 0, false, nil
	}
	return r.memory.CommittedOffset(ctx, group, topic, p)
}

func (r roomy) Read(ctx context.Context, topic string, p int32, from, to int64, fn func(kafka.Batch) error) (int64, error) {
	if p > 0 {
		return to, nil
	}
	return r.memory.Read(ctx, topic, p, from, to, fn)
}

// Numbers may be in another partition. Where they are in none, that is told as
// if there were one.
func TestNumbersThatNoPartitionHas(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		plant func(w *world)
		want  string
	}{
		"nothing is wrong": {plant: func(*world) {}},
		"a limit event": {
			func(w *world) { cut(&w.events, 2) },
			`limit-event partition 0 ` + firstDay + ` #3: sequence is 3, must be 2`,
		},
		"the last of a limit's record": {
			func(w *world) {
				w.lastLimit("traffic", "2026-11-20", func(r *aggregate.LimitRecord) { r.Sequence += 3 })
			},
			`sequence is 7, the last limit event's 4`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := ordinary(t)
			tt.plant(w)
			var found []string
			_, err := verify.Run(t.Context(), w.cfg, verify.Parts{
				Cluster: roomy{memory{w}}, Decoder: w.decoder(), Events: w.codec, Found: func(d verify.Difference) { found = append(found, d.String()) },
			})
			require.NoError(t, err)
			if tt.want == "" {
				require.Empty(t, found)
				return
			}
			text := ""
			for _, f := range found {
				text += f + "\n"
			}
			require.Contains(t, text, tt.want)
		})
	}
}

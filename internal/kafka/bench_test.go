package kafka_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/meterd/meterd/internal/kafka"
)

// BenchmarkCommit is a whole transaction, with changelog records of the usual
// size, to a broker in the same process, whose part is in the figures too.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) {
			f := fake(b, kfake.SeedTopics(1, "in", "out"))
			c := dial(b, f)
			w := writer(b, c, "app-in-0")
			records := outputs("out", 0, "", n)
			for i := range records {
				records[i].Value = fmt.Appendf(nil, "%082d", i)
			}
			next := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				next++
				outcome, err := w.Commit(b.Context(), kafka.Transaction{Records: records, Topic: "in", Next: next, Member: kafka.Member{Group: "app"}})
				require.NoError(b, err)
				require.Equal(b, kafka.Committed, outcome)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n)/float64(b.N), "ns/record")
		})
	}
}

package kafka_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/meterd/meterd/internal/kafka"
)

// leaveOpen leaves a transaction open with records on out/0, as a writer does
// that dies.
func leaveOpen(t *testing.T, f cluster, c *kafka.Cluster) {
	t.Helper()
	w := writer(t, c, "app-in-0")
	commit(t, w, transaction(2))
	f.wire.lose(keyEnd, false)
	outcome, err := w.Commit(deadline(t), transaction(3))
	require.Error(t, err)
	require.Equal(t, kafka.Unknown, outcome)
}

func TestOpenTransactions(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(2, "in", "out"))
	c := dial(t, f)
	open, err := c.OpenTransactions(deadline(t), "in", "out")
	require.NoError(t, err)
	require.Empty(t, open)

	leaveOpen(t, f, c)
	open, err = c.OpenTransactions(deadline(t), "in", "out")
	require.NoError(t, err)
	require.Len(t, open, 1)
	got := open[0]
	require.Equal(t, "out", got.Topic)
	require.EqualValues(t, 0, got.Partition)
	stable, err := c.LastStable(deadline(t), "out", 0)
	require.NoError(t, err)
	require.Equal(t, stable, got.Start, "readers wait there")
	require.Equal(t, "app-in-0", got.ID)
	require.Equal(t, "Ongoing", got.State)
	require.False(t, got.Began.IsZero())
	require.False(t, got.Hanging, "the coordinator will end it")

	require.NoError(t, writer(t, c, "app-in-0").Init(deadline(t)))
	open, err = c.OpenTransactions(deadline(t), "in", "out")
	require.NoError(t, err)
	require.Empty(t, open, "the next owner has ended it")
}

// What is open on a partition and not of a transaction that its coordinator
// knows of stays open for ever.
func TestHangingTransactions(t *testing.T) {
	t.Parallel()
	state := func(change func(*kmsg.DescribeTransactionsResponseTransactionState)) func(cluster) {
		return func(f cluster) {
			f.ControlKey(int16(kmsg.DescribeTransactions), func(req kmsg.Request) (kmsg.Response, error, bool) {
				f.KeepControl()
				answer := req.ResponseKind().(*kmsg.DescribeTransactionsResponse)
				s := kmsg.NewDescribeTransactionsResponseTransactionState()
				s.TransactionalID = req.(*kmsg.DescribeTransactionsRequest).TransactionalIDs[0]
				change(&s)
				answer.TransactionStates = append(answer.TransactionStates, s)
				return answer, nil, true
			})
		}
	}
	tests := map[string]func(cluster){
		"nobody knows the producer": func(f cluster) {
			f.ControlKey(int16(kmsg.ListTransactions), func(req kmsg.Request) (kmsg.Response, error, bool) {
				return req.ResponseKind(), nil, true
			})
		},
		"its id was forgotten": state(func(s *kmsg.DescribeTransactionsResponseTransactionState) { s.ErrorCode = 105 }),
		"its id has another producer": state(func(s *kmsg.DescribeTransactionsResponseTransactionState) {
			s.State, s.ProducerID = "Empty", 1<<40
		}),
		"its transaction has ended": state(func(s *kmsg.DescribeTransactionsResponseTransactionState) {
			s.State = "CompleteCommit"
		}),
	}
	for name, forget := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fake(t, kfake.SeedTopics(1, "in", "out"))
			c := dial(t, f)
			leaveOpen(t, f, c)
			forget(f)
			open, err := c.OpenTransactions(deadline(t), "out")
			require.NoError(t, err)
			require.Len(t, open, 1)
			require.True(t, open[0].Hanging)
		})
	}
}

func TestOpenTransactionsOfNoTopic(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in"))
	_, err := dial(t, f).OpenTransactions(deadline(t), "in", "nothing")
	require.ErrorIs(t, err, kafka.ErrNoTopic)
}

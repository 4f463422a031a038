package kafka_test

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap/zaptest"

	"github.com/meterd/meterd/internal/kafka"
)

// Request keys and error codes as Kafka's protocol numbers them.
const (
	keyProduce       = int16(kmsg.Produce)
	keyFetch         = int16(kmsg.Fetch)
	keyOffsetFetch   = int16(kmsg.OffsetFetch)
	keyJoin          = int16(kmsg.JoinGroup)
	keyHeartbeat     = int16(kmsg.Heartbeat)
	keyInit          = int16(kmsg.InitProducerID)
	keyAddPartitions = int16(kmsg.AddPartitionsToTxn)
	keyAddOffsets    = int16(kmsg.AddOffsetsToTxn)
	keyEnd           = int16(kmsg.EndTxn)
	keyOffsetCommit  = int16(kmsg.TxnOffsetCommit)

	notLeader         = 6
	messageTooLarge   = 10
	loading           = 14
	notAvailable      = 15
	notCoordinator    = 16
	notEnoughReplicas = 19
	illegalGeneration = 22
	unknownMember     = 25
	rebalancing       = 27
	topicAuth         = 29
	outOfOrder        = 45
	unknownMapping    = 49
	concurrent        = 51
	unstableOffset    = 88
)

// transaction is one of a fixed content, at position n.
func transaction(n int64) kafka.Transaction {
	return kafka.Transaction{
		Records: outputs("out", 0, "v", int(n)), Topic: "in", Next: n, Member: kafka.Member{Group: "app"},
	}
}

func TestUnknownOutcomeIsResolvedByInit(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		key     int16
		applied bool
		want    int64 // the position that stands in the end
	}{
		"EndTxn carried out, its answer lost":          {keyEnd, true, 3},
		"EndTxn never arrived":                         {keyEnd, false, -1},
		"Produce carried out, its answer lost":         {keyProduce, true, -1},
		"Produce never arrived":                        {keyProduce, false, -1},
		"AddPartitions carried out, its answer lost":   {keyAddPartitions, true, -1},
		"AddPartitions never arrived":                  {keyAddPartitions, false, -1},
		"AddOffsets carried out, its answer lost":      {keyAddOffsets, true, -1},
		"TxnOffsetCommit carried out, its answer lost": {keyOffsetCommit, true, -1},
		"TxnOffsetCommit never arrived":                {keyOffsetCommit, false, -1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fake(t, kfake.SeedTopics(1, "in", "out"))
			c := dial(t, f)
			w := writer(t, c, "app-in-0")
			f.wire.lose(tt.key, tt.applied)
			outcome, err := w.Commit(deadline(t), transaction(3))
			require.Error(t, err)
			require.Equal(t, kafka.Unknown, outcome)
			require.Zero(t, f.wire.left())

			outcome, err = w.Commit(deadline(t), transaction(4))
			require.ErrorIs(t, err, kafka.ErrNotInitialised)
			require.Equal(t, kafka.Aborted, outcome)

			require.NoError(t, w.Init(deadline(t)))
			require.Equal(t, tt.want, position(t, c, "app", "in", 0))
			got, _ := values(t, c, "out", 0)
			require.Len(t, got, int(max(tt.want, 0)))

			commit(t, w, transaction(5)) // and it goes on
			got, _ = values(t, c, "out", 0)
			require.Len(t, got, int(max(tt.want, 0))+5)
		})
	}
}

func TestUnknownOutcomeWhenTheCallerLeaves(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in", "out"))
	c := dial(t, f)
	w := writer(t, c, "app-in-0")
	ctx, cancel := context.WithCancel(t.Context())
	f.ControlKey(keyEnd, func(kmsg.Request) (kmsg.Response, error, bool) {
		cancel()
		return nil, nil, true // never answered
	})
	outcome, err := w.Commit(ctx, transaction(2))
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, kafka.Unknown, outcome)
	require.NoError(t, w.Init(deadline(t)))
	require.EqualValues(t, -1, position(t, c, "app", "in", 0))
}

func TestInitIsRepeatedWhenItsAnswerIsLost(t *testing.T) {
	t.Parallel()
	for name, applied := range map[string]bool{"carried out": true, "never arrived": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fake(t, kfake.SeedTopics(1, "in", "out"))
			c := dial(t, f)
			w := c.NewWriter("app-in-0", kafka.DefaultWriter())
			f.wire.lose(keyInit, applied)
			require.NoError(t, w.Init(deadline(t)))
			commit(t, w, transaction(1))
			f.wire.lose(keyEnd, true)
			outcome, _ := w.Commit(deadline(t), transaction(2))
			require.Equal(t, kafka.Unknown, outcome)
			f.wire.lose(keyEnd, applied) // the abort that Init begins with
			f.wire.lose(keyInit, applied)
			require.NoError(t, w.Init(deadline(t)))
			require.Zero(t, f.wire.left())
			require.EqualValues(t, 2, position(t, c, "app", "in", 0))
			commit(t, w, transaction(3))
		})
	}
}

func TestWriterWaitsForTheBroker(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ key, code int16 }{
		"CONCURRENT_TRANSACTIONS on InitProducerId":  {keyInit, concurrent},
		"NOT_COORDINATOR on InitProducerId":          {keyInit, notCoordinator},
		"CONCURRENT_TRANSACTIONS on AddPartitions":   {keyAddPartitions, concurrent},
		"NOT_COORDINATOR on AddPartitions":           {keyAddPartitions, notCoordinator},
		"COORDINATOR_LOAD_IN_PROGRESS on AddOffsets": {keyAddOffsets, loading},
		"NOT_LEADER on Produce":                      {keyProduce, notLeader},
		"NOT_ENOUGH_REPLICAS on Produce":             {keyProduce, notEnoughReplicas},
		"CONCURRENT_TRANSACTIONS on Produce":         {keyProduce, concurrent},
		"NOT_COORDINATOR on TxnOffsetCommit":         {keyOffsetCommit, notCoordinator},
		"REBALANCE_IN_PROGRESS on TxnOffsetCommit":   {keyOffsetCommit, rebalancing},
		"COORDINATOR_NOT_AVAILABLE on EndTxn":        {keyEnd, notAvailable},
		"CONCURRENT_TRANSACTIONS on EndTxn":          {keyEnd, concurrent},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fake(t, kfake.SeedTopics(1, "in", "out"))
			c := dial(t, f)
			seen := answers(f, tt.key, tt.code, 4)
			w := writer(t, c, "app-in-0")
			commit(t, w, transaction(2))
			require.EqualValues(t, 4, seen.Load())
			got, _ := values(t, c, "out", 0)
			require.Equal(t, []string{"v0", "v1"}, got)
			require.EqualValues(t, 2, position(t, c, "app", "in", 0))
		})
	}
}

func TestRefusedTransactionIsAborted(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ key, code int16 }{
		"MESSAGE_TOO_LARGE on Produce":                {keyProduce, messageTooLarge},
		"OUT_OF_ORDER_SEQUENCE_NUMBER on Produce":     {keyProduce, outOfOrder},
		"TOPIC_AUTHORIZATION_FAILED on AddPartitions": {keyAddPartitions, topicAuth},
		"an id that the broker forgot":                {keyAddPartitions, unknownMapping},
		"TRANSACTION_ABORTABLE on AddOffsets":         {keyAddOffsets, 120},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fake(t, kfake.SeedTopics(1, "in", "out"))
			c := dial(t, f)
			w := writer(t, c, "app-in-0")
			commit(t, w, transaction(1))
			answers(f, tt.key, tt.code, 1)
			outcome, err := w.Commit(deadline(t), transaction(2))
			require.Error(t, err)
			require.Equal(t, kafka.Aborted, outcome)
			require.EqualValues(t, 1, position(t, c, "app", "in", 0))
			commit(t, w, transaction(3)) // without an Init by the caller
			require.EqualValues(t, 3, position(t, c, "app", "in", 0))
			got, _ := values(t, c, "out", 0)
			require.Len(t, got, 1+3)
		})
	}
}

func TestRecordThatIsTooLargeForTheTopic(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in", "out"))
	c := dial(t, f)
	w := writer(t, c, "app-in-0")
	outcome, err := w.Commit(deadline(t), kafka.Transaction{Records: []kafka.Output{{Topic: "out", Value: noise(2 << 20)}, {Topic: "out", Value: []byte("small")}}})
	require.ErrorContains(t, err, "out/0")
	require.Equal(t, kafka.Aborted, outcome)
	commit(t, w, transaction(1))
}

func TestTransactionToNoTopic(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in"))
	cfg := kafka.DefaultWriter()
	cfg.Timeout = time.Second // it waits that long for a topic that may be new
	w := dial(t, f).NewWriter("app-in-0", cfg)
	require.NoError(t, w.Init(deadline(t)))
	outcome, err := w.Commit(deadline(t), transaction(1))
	require.Error(t, err)
	require.Contains(t, []kafka.Outcome{kafka.Aborted, kafka.Unknown}, outcome)
}

func TestNewerOwnerFencesBetweenTransactions(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in", "out"))
	c := dial(t, f)
	old := writer(t, c, "app-in-0")
	commit(t, old, transaction(1))
	heir := writer(t, c, "app-in-0")
	outcome, err := old.Commit(deadline(t), transaction(2))
	require.ErrorIs(t, err, kafka.ErrFenced)
	require.Equal(t, kafka.Fenced, outcome)
	require.ErrorIs(t, old.Init(deadline(t)), kafka.ErrFenced)
	commit(t, heir, transaction(3)) // not fenced in turn
	require.EqualValues(t, 3, position(t, c, "app", "in", 0))
	got, _ := values(t, c, "out", 0)
	require.Len(t, got, 1+3)
}

func TestNewerOwnerFencesAmidATransaction(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]int16{"before Produce": keyProduce, "before TxnOffsetCommit": keyOffsetCommit, "before EndTxn": keyEnd} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fake(t, kfake.SeedTopics(1, "in", "out"))
			c, other := dial(t, f), dial(t, f)
			old, heir := writer(t, c, "app-in-0"), other.NewWriter("app-in-0", kafka.DefaultWriter())
			taken := make(chan error, 1)
			f.ControlKey(key, func(kmsg.Request) (kmsg.Response, error, bool) {
				f.DropControl()
				f.SleepControl(func() { taken <- heir.Init(t.Context()) })
				return nil, nil, false
			})
			outcome, err := old.Commit(deadline(t), transaction(2))
			require.ErrorIs(t, err, kafka.ErrFenced)
			require.Equal(t, kafka.Fenced, outcome)
			require.NoError(t, <-taken)
			require.ErrorIs(t, old.Init(deadline(t)), kafka.ErrFenced)
			commit(t, heir, transaction(3))
			got, _ := values(t, c, "out", 0)
			require.Equal(t, []string{"v0", "v1", "v2"}, got)
		})
	}
}

// The old owner does not know its outcome, and meanwhile a newer one came.
func TestInitAfterUnknownNeverFencesANewerOwner(t *testing.T) {
	t.Parallel()
	for name, applied := range map[string]bool{"committed": true, "not committed": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fake(t, kfake.SeedTopics(1, "in", "out"))
			c := dial(t, f)
			old := writer(t, c, "app-in-0")
			f.wire.lose(keyEnd, applied)
			outcome, _ := old.Commit(deadline(t), transaction(2))
			require.Equal(t, kafka.Unknown, outcome)
			heir := writer(t, c, "app-in-0")
			commit(t, heir, transaction(3))
			require.ErrorIs(t, old.Init(deadline(t)), kafka.ErrFenced)
			commit(t, heir, transaction(4))
			outcome, err := old.Commit(deadline(t), transaction(5))
			require.ErrorIs(t, err, kafka.ErrFenced)
			require.Equal(t, kafka.Fenced, outcome)
		})
	}
}

func TestTransactionThatGotTooOld(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in", "out"))
	c := dial(t, f)
	cfg := kafka.DefaultWriter()
	cfg.Timeout = time.Second
	w := c.NewWriter("app-in-0", cfg)
	require.NoError(t, w.Init(deadline(t)))
	answers(f, keyProduce, notEnoughReplicas, 1<<20)
	outcome, err := w.Commit(deadline(t), transaction(2))
	require.Error(t, err)
	require.NotEqual(t, kafka.Committed, outcome)
	require.EqualValues(t, -1, position(t, c, "app", "in", 0))
	got, _ := values(t, c, "out", 0)
	require.Empty(t, got)
}

func TestMembershipThatHasEndedFences(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]int16{"illegal generation": illegalGeneration, "unknown member": unknownMember, "fenced instance": 82} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fake(t, kfake.SeedTopics(1, "in", "out"))
			c := dial(t, f)
			w := writer(t, c, "app-in-0")
			answers(f, keyOffsetCommit, code, 1)
			tx := transaction(2)
			tx.Member = kafka.Member{Group: "app", ID: "me", Generation: 4}
			outcome, err := w.Commit(deadline(t), tx)
			require.Error(t, err)
			require.Equal(t, kafka.Fenced, outcome)
			require.EqualValues(t, -1, position(t, c, "app", "in", 0)) // aborted: nothing holds up readers
			got, _ := values(t, c, "out", 0)
			require.Empty(t, got)
		})
	}
}

func TestLaterGenerationOfTheSameMemberIsRenewed(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in", "out"))
	c := dial(t, f)
	w := writer(t, c, "app-in-0")
	answers(f, keyOffsetCommit, illegalGeneration, 1)
	tx := transaction(2)
	var stale kafka.Member
	tx.Renew = func(_ context.Context, m kafka.Member) (kafka.Member, bool) {
		stale = m
		return kafka.Member{Group: "app", Generation: 5}, true
	}
	tx.Member.Generation = 4
	commit(t, w, tx)
	require.EqualValues(t, 4, stale.Generation)
	require.EqualValues(t, 2, position(t, c, "app", "in", 0))

	answers(f, keyOffsetCommit, illegalGeneration, 1)
	tx.Renew = func(context.Context, kafka.Member) (kafka.Member, bool) { return kafka.Member{}, false }
	outcome, err := w.Commit(deadline(t), tx)
	require.Error(t, err)
	require.Equal(t, kafka.Fenced, outcome)
}

func TestLeaderAndCoordinatorMove(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(1, "in", "out"))
	c := dial(t, f)
	w := writer(t, c, "app-in-0")
	for n := range int64(6) {
		require.NoError(t, f.MoveTopicPartition("out", 0, int32(n%3)))
		f.RehashCoordinators()
		commit(t, w, transaction(n+1))
		require.Equal(t, n+1, position(t, c, "app", "in", 0))
	}
	got, _ := values(t, c, "out", 0)
	require.Len(t, got, 1+2+3+4+5+6)
}

func TestCommittedOffsetWaitsForAnOpenTransaction(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in", "out"))
	c := dial(t, f)
	seen := answers(f, keyOffsetFetch, unstableOffset, 3)
	require.EqualValues(t, -1, position(t, c, "app", "in", 0))
	require.EqualValues(t, 3, seen.Load())

	answers(f, keyOffsetFetch, unstableOffset, 1<<20)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err := c.CommittedOffset(ctx, "app", "in", 0)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestOutcomesAreCounted(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in", "out"))
	reg := prometheus.NewRegistry()
	c, err := kafka.Dial(deadline(t), config(f.ListenAddrs()...), zaptest.NewLogger(t), reg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	same, err := kafka.Dial(deadline(t), config(f.ListenAddrs()...), zaptest.NewLogger(t), reg) // shares the metrics
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, same.Close()) })
	w := writer(t, c, "app-in-0")
	commit(t, w, transaction(1))
	commit(t, writer(t, same, "app-in-0"), transaction(1))
	_, err = w.Commit(deadline(t), transaction(2))
	require.ErrorIs(t, err, kafka.ErrFenced)
	n, err := testutil.GatherAndCount(reg, "meterd_transactions_total", "meterd_transaction_duration_seconds")
	require.NoError(t, err)
	require.Equal(t, 4+1, n)
}

// What a writer says of the end of a partition is what it has written itself: a
// newer owner's records lie behind it.
func TestEndIsOnesOwn(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in", "out"))
	c := dial(t, f)
	w := writer(t, c, "app-in-0")
	_, ok := w.End("out", 0)
	require.False(t, ok)
	commit(t, w, transaction(3))
	end, ok := w.End("out", 0)
	require.True(t, ok)
	require.Equal(t, int64(3), end)

	heir := writer(t, c, "app-in-0")
	commit(t, heir, transaction(5))
	end, _ = w.End("out", 0)
	require.Equal(t, int64(3), end)
	end, _ = heir.End("out", 0)
	require.Equal(t, int64(9), end, "three, a marker, five")
}

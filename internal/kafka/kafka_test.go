package kafka_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/meterd/meterd/internal/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// fake starts a broker in the process.
func fake(t testing.TB, opts ...kfake.Opt) cluster {
	t.Helper()
	w := &wire{}
	base := []kfake.Opt{kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(100 * time.Millisecond), kfake.ListenFn(w.listen)}
	c, err := kfake.NewCluster(append(base, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return cluster{Cluster: c, wire: w}
}

// config reaches brokers without waiting long for them.
func config(brokers ...string) kafka.Config {
	cfg := kafka.Default()
	cfg.Brokers = brokers
	cfg.DialTimeout, cfg.ReadTimeout = 2*time.Second, 3*time.Second
	return cfg
}

// dial connects to a fake.
func dial(t testing.TB, f cluster) *kafka.Cluster {
	t.Helper()
	return dialWith(t, config(f.ListenAddrs()...))
}

func dialWith(t testing.TB, cfg kafka.Config) *kafka.Cluster {
	t.Helper()
	c, err := kafka.Dial(deadline(t), cfg, zaptest.NewLogger(t), prometheus.NewRegistry())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// deadline is a context that ends when a test has taken too long.
func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// fetcher runs a Fetcher until the test ends.
func fetcher(t *testing.T, c *kafka.Cluster) *kafka.Fetcher {
	t.Helper()
	f := c.NewFetcher(kafka.DefaultFetch())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return f
}

// writer makes one that has been initialised.
func writer(t testing.TB, c *kafka.Cluster, id string) *kafka.Writer {
	t.Helper()
	w := c.NewWriter(id, kafka.DefaultWriter())
	require.NoError(t, w.Init(deadline(t)))
	return w
}

// outputs makes n records with keys and values that tell them apart.
func outputs(topic string, partition int32, prefix string, n int) []kafka.Output {
	out := make([]kafka.Output, n)
	for i := range out {
		out[i] = kafka.Output{Topic: topic, Partition: partition, Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "%s%d", prefix, i)}
	}
	return out
}

// noise is n bytes that do not compress.
func noise(n int) []byte {
	out := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(out) // never fails
	return out
}

// commit demands that a transaction stands.
func commit(t testing.TB, w *kafka.Writer, tx kafka.Transaction) {
	t.Helper()
	outcome, err := w.Commit(deadline(t), tx)
	require.NoError(t, err)
	require.Equal(t, kafka.Committed, outcome)
}

// values reads what is committed in a partition, and where it ends.
func values(t *testing.T, c *kafka.Cluster, topic string, partition int32) (out []string, next int64) {
	t.Helper()
	next, err := c.Read(deadline(t), topic, partition, kafka.Earliest, kafka.Latest, func(b kafka.Batch) error {
		for _, r := range b.Records {
			out = append(out, string(r.Value))
		}
		return nil
	})
	require.NoError(t, err)
	return out, next
}

// position reads what a group has committed; -1 is nothing.
func position(t *testing.T, c *kafka.Cluster, group, topic string, partition int32) int64 {
	t.Helper()
	at, found, err := c.CommittedOffset(deadline(t), group, topic, partition)
	require.NoError(t, err)
	if !found {
		return -1
	}
	return at
}

// answers makes the broker answer the next n requests of a key with a code,
// without carrying them out.
func answers(f cluster, key, code int16, n int) *atomic.Int32 {
	var seen atomic.Int32
	f.ControlKey(key, func(req kmsg.Request) (kmsg.Response, error, bool) {
		f.KeepControl()
		if int(seen.Add(1)) == n {
			f.DropControl()
		}
		return withCode(req, code), nil, true
	})
	return &seen
}

// withCode answers a request with one error code wherever it has room for one.
func withCode(req kmsg.Request, code int16) kmsg.Response {
	resp := req.ResponseKind()
	switch r := resp.(type) {
	case *kmsg.InitProducerIDResponse:
		r.ErrorCode = code
	case *kmsg.AddOffsetsToTxnResponse:
		r.ErrorCode = code
	case *kmsg.EndTxnResponse:
		r.ErrorCode = code
	case *kmsg.HeartbeatResponse:
		r.ErrorCode = code
	case *kmsg.AddPartitionsToTxnResponse:
		for _, t := range req.(*kmsg.AddPartitionsToTxnRequest).Topics {
			rt := kmsg.AddPartitionsToTxnResponseTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				rt.Partitions = append(rt.Partitions, kmsg.AddPartitionsToTxnResponseTopicPartition{Partition: p, ErrorCode: code})
			}
			r.Topics = append(r.Topics, rt)
		}
	case *kmsg.TxnOffsetCommitResponse:
		for _, t := range req.(*kmsg.TxnOffsetCommitRequest).Topics {
			rt := kmsg.TxnOffsetCommitResponseTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				rt.Partitions = append(rt.Partitions, kmsg.TxnOffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: code})
			}
			r.Topics = append(r.Topics, rt)
		}
	case *kmsg.ProduceResponse:
		for _, t := range req.(*kmsg.ProduceRequest).Topics {
			rt := kmsg.ProduceResponseTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				rt.Partitions = append(rt.Partitions, kmsg.ProduceResponseTopicPartition{Partition: p.Partition, ErrorCode: code})
			}
			r.Topics = append(r.Topics, rt)
		}
	case *kmsg.OffsetFetchResponse:
		for _, t := range req.(*kmsg.OffsetFetchRequest).Topics {
			rt := kmsg.OffsetFetchResponseTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				rt.Partitions = append(rt.Partitions, kmsg.OffsetFetchResponseTopicPartition{Partition: p, ErrorCode: code})
			}
			r.Topics = append(r.Topics, rt)
		}
	}
	return resp
}

func TestTransactionRoundTrip(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(2, "in", "out", "events"))
	c := dial(t, f)
	require.NotEmpty(t, c.ID())
	w := writer(t, c, "app-in-1")
	before := time.Now().UnixMilli()

	records := append(outputs("out", 1, "a", 3), kafka.Output{
		Topic: "events", Partition: 1, Key: []byte("client"), Value: nil, Headers: []kafka.Header{{Key: []byte("ce_id"), Value: []byte("1")}},
	})
	commit(t, w, kafka.Transaction{Records: records, Topic: "in", Partition: 1, Next: 42, Member: kafka.Member{Group: "app"}})
	commit(t, w, kafka.Transaction{Records: outputs("out", 1, "b", 2), Topic: "in", Partition: 1, Next: 43, Member: kafka.Member{Group: "app"}, Note: "second"})

	got, _ := values(t, c, "out", 1)
	require.Equal(t, []string{"a0", "a1", "a2", "b0", "b1"}, got)
	require.EqualValues(t, 43, position(t, c, "app", "in", 1))
	require.EqualValues(t, -1, position(t, c, "app", "in", 0))
	at, found, err := c.CommittedPosition(deadline(t), "app", "in", 1)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, kafka.Position{Offset: 43, Note: "second"}, at)
	_, err = c.Read(deadline(t), "events", 1, 0, kafka.Latest, func(b kafka.Batch) error {
		if len(b.Records) == 0 {
			return nil
		}
		r := b.Records[0]
		require.Nil(t, r.Value)
		require.Equal(t, "client", string(r.Key))
		require.Equal(t, []kafka.Header{{Key: []byte("ce_id"), Value: []byte("1")}}, r.Headers)
		require.GreaterOrEqual(t, r.Timestamp, before)
		require.LessOrEqual(t, r.Timestamp, time.Now().UnixMilli())
		return nil
	})
	require.NoError(t, err)
}

func TestTransactionOfOffsetsAlone(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in"))
	c := dial(t, f)
	w := writer(t, c, "app-in-0")
	commit(t, w, kafka.Transaction{Topic: "in", Next: 7, Member: kafka.Member{Group: "app"}})
	require.EqualValues(t, 7, position(t, c, "app", "in", 0))
}

func TestTransactionOfNothing(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in"))
	w := dial(t, f).NewWriter("app-in-0", kafka.DefaultWriter())
	commit(t, w, kafka.Transaction{})
}

func TestLargeTransactionIsSplit(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(2, "out"))
	c := dial(t, f)
	w := writer(t, c, "app-in-0")
	records := make([]kafka.Output, 600)
	for i := range records {
		records[i] = kafka.Output{Topic: "out", Partition: int32(i % 2), Key: fmt.Append(nil, i), Value: noise(10 << 10)} // 6 MiB in all
	}
	commit(t, w, kafka.Transaction{Records: records})
	for p := range int32(2) {
		var keys []string
		_, err := c.Read(deadline(t), "out", p, 0, kafka.Latest, func(b kafka.Batch) error {
			for _, r := range b.Records {
				keys = append(keys, string(r.Key))
				require.Len(t, r.Value, 10<<10)
			}
			return nil
		})
		require.NoError(t, err)
		require.Len(t, keys, 300)
		require.Equal(t, fmt.Sprint(p), keys[0])
		require.Equal(t, fmt.Sprint(598+p), keys[299])
	}
}

func TestProducerAppendsInOrder(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(3, "in"))
	c := dial(t, f)
	p, err := c.NewProducer(deadline(t))
	require.NoError(t, err)
	for round := range 3 {
		var messages []kafka.Message
		for i := range 30 {
			messages = append(messages, kafka.Message{
				Topic: "in", Partition: int32(i % 3), Value: fmt.Append(nil, round*30+i), Timestamp: time.UnixMilli(1_700_000_000_000 + int64(i)),
			})
		}
		offsets, err := p.Append(deadline(t), messages)
		require.NoError(t, err)
		require.Len(t, offsets, 30)
		require.EqualValues(t, round*10, offsets[0])
		require.EqualValues(t, round*10+9, offsets[29])
	}
	got, next := values(t, c, "in", 2)
	require.Len(t, got, 30)
	require.Equal(t, "2", got[0])
	require.Equal(t, "89", got[29])
	require.EqualValues(t, 30, next)
	at, found, err := c.OffsetForTime(deadline(t), "in", 2, time.UnixMilli(1_700_000_000_010))
	require.NoError(t, err)
	require.True(t, found)
	require.EqualValues(t, 3, at) // partition 2 has the milliseconds 2, 5, 8, 11
	_, found, err = c.OffsetForTime(deadline(t), "in", 2, time.UnixMilli(1_800_000_000_000))
	require.NoError(t, err)
	require.False(t, found)
}

func TestProducerRepeatsWithoutDuplicates(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in"))
	c := dial(t, f)
	p, err := c.NewProducer(deadline(t))
	require.NoError(t, err)
	f.wire.lose(0, true)            // written, and the answer is lost
	refusals := answers(f, 0, 6, 2) // then twice not the leader
	_, err = p.Append(deadline(t), []kafka.Message{{Topic: "in", Value: []byte("x")}, {Topic: "in", Value: []byte("y")}})
	require.NoError(t, err)
	require.EqualValues(t, 2, refusals.Load())
	_, err = p.Append(deadline(t), []kafka.Message{{Topic: "in", Value: []byte("z")}})
	require.NoError(t, err)
	got, _ := values(t, c, "in", 0)
	require.Equal(t, []string{"x", "y", "z"}, got)
}

func TestSeveralWritersAtOnce(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(12, "in", "out"))
	c := dial(t, f)
	done := make(chan error, 12)
	for p := range int32(12) {
		go func() {
			w := c.NewWriter(fmt.Sprintf("app-in-%d", p), kafka.DefaultWriter())
			if err := w.Init(deadline(t)); err != nil {
				done <- err
				return
			}
			for n := range 10 {
				tx := kafka.Transaction{
					Records: outputs("out", p, fmt.Sprintf("%d-", n), 5), Topic: "in", Partition: p, Next: int64(n + 1), Member: kafka.Member{Group: "app"},
				}
				if outcome, err := w.Commit(deadline(t), tx); outcome != kafka.Committed {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 12 {
		require.NoError(t, <-done)
	}
	for p := range int32(12) {
		got, _ := values(t, c, "out", p)
		require.Len(t, got, 50)
		require.True(t, slices.IsSorted(got))
		require.EqualValues(t, 10, position(t, c, "app", "in", p))
	}
}

package kafka_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/meterd/meterd/internal/kafka"
)

// take waits for the next batch.
func take(t *testing.T, s *kafka.Subscription) kafka.Batch {
	t.Helper()
	select {
	case b, ok := <-s.Batches():
		require.True(t, ok, "closed: %v", s.Err())
		return b
	case <-time.After(patience):
		require.FailNow(t, "no batch")
		return kafka.Batch{}
	}
}

// takeUntil collects values until a position is reached.
func takeUntil(t *testing.T, s *kafka.Subscription, position int64) (out []string) {
	t.Helper()
	for {
		b := take(t, s)
		for _, r := range b.Records {
			out = append(out, string(r.Value))
		}
		if b.Next >= position {
			return out
		}
	}
}

// ends demands that a subscription ends with an error.
func ends(t *testing.T, s *kafka.Subscription, want error) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case _, open := <-s.Batches():
			if !open {
				require.ErrorIs(t, s.Err(), want)
				return
			}
		case <-late:
			require.FailNow(t, "did not end")
		}
	}
}

// appendTo writes values outside any transaction.
func appendTo(t *testing.T, c *kafka.Cluster, topic string, partition int32, values ...string) {
	t.Helper()
	p, err := c.NewProducer(deadline(t))
	require.NoError(t, err)
	var messages []kafka.Message
	for _, v := range values {
		messages = append(messages, kafka.Message{Topic: topic, Partition: partition, Value: []byte(v)})
	}
	_, err = p.Append(deadline(t), messages)
	require.NoError(t, err)
}

// abandon leaves the records of an aborted transaction in a log.
func abandon(t *testing.T, f cluster, c *kafka.Cluster, w *kafka.Writer, tx kafka.Transaction) {
	t.Helper()
	f.wire.lose(keyEnd, false)
	outcome, _ := w.Commit(deadline(t), tx)
	require.Equal(t, kafka.Unknown, outcome)
	require.NoError(t, w.Init(deadline(t)))
}

func TestEndOfAnEmptyPartitionIsTold(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(2, "in"))
	c := dial(t, f)
	s, err := fetcher(t, c).Subscribe("in", 0, 0)
	require.NoError(t, err)
	b := take(t, s)
	require.Empty(t, b.Records)
	require.Zero(t, b.Next)
	require.Zero(t, b.LastStable)
	appendTo(t, c, "in", 0, "x")
	b = take(t, s)
	require.Len(t, b.Records, 1)
	require.EqualValues(t, 1, b.Next)
	require.Equal(t, "in", b.Topic)
	require.Equal(t, 1, b.Bytes)
	s.Close()
	_, open := <-s.Batches()
	require.False(t, open)
	require.NoError(t, s.Err())
}

func TestAbortedAndControlRecordsMoveThePosition(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in", "out"))
	c := dial(t, f)
	w, other := writer(t, c, "a"), writer(t, c, "b")
	commit(t, w, kafka.Transaction{Records: outputs("out", 0, "first", 2)})
	abandon(t, f, c, w, kafka.Transaction{Records: outputs("out", 0, "aborted", 3)})
	commit(t, other, kafka.Transaction{Records: outputs("out", 0, "second", 2)})
	abandon(t, f, c, other, kafka.Transaction{Records: outputs("out", 0, "gone", 1)})

	// 2 + marker, 3 + marker, 2 + marker, 1 + marker
	got, next := values(t, c, "out", 0)
	require.Equal(t, []string{"first0", "first1", "second0", "second1"}, got)
	require.EqualValues(t, 12, next)
	end, err := c.LastStable(deadline(t), "out", 0)
	require.NoError(t, err)
	require.EqualValues(t, 12, end)

	s, err := fetcher(t, c).Subscribe("out", 0, kafka.Earliest)
	require.NoError(t, err)
	require.Equal(t, got, takeUntil(t, s, 12))

	// from the middle of an aborted transaction
	s, err = fetcher(t, c).Subscribe("out", 0, 4)
	require.NoError(t, err)
	require.Equal(t, []string{"second0", "second1"}, takeUntil(t, s, 12))

	// nothing but the tail: a batch without records
	next, err = c.Read(deadline(t), "out", 0, 9, kafka.Latest, func(b kafka.Batch) error {
		require.Empty(t, b.Records)
		return nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 12, next)
}

func TestOpenTransactionIsNotRead(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in", "out"))
	c := dial(t, f)
	w := writer(t, c, "a")
	commit(t, w, kafka.Transaction{Records: outputs("out", 0, "v", 1)})
	f.wire.lose(keyEnd, false)
	outcome, _ := w.Commit(deadline(t), kafka.Transaction{Records: outputs("out", 0, "open", 4)})
	require.Equal(t, kafka.Unknown, outcome)

	s, err := fetcher(t, c).Subscribe("out", 0, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"v0"}, takeUntil(t, s, 2))
	stable, err := c.LastStable(deadline(t), "out", 0)
	require.NoError(t, err)
	high, err := c.HighWatermark(deadline(t), "out", 0)
	require.NoError(t, err)
	require.EqualValues(t, 2, stable)
	require.EqualValues(t, 6, high)

	require.NoError(t, w.Init(deadline(t))) // ends it
	require.Empty(t, takeUntil(t, s, 7))
}

func TestReadUpToAPosition(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in"))
	c := dial(t, f)
	appendTo(t, c, "in", 0, "a", "b", "c", "d", "e")
	var got []string
	next, err := c.Read(deadline(t), "in", 0, 1, 4, func(b kafka.Batch) error {
		for _, r := range b.Records {
			got = append(got, string(r.Value))
		}
		require.Equal(t, len(b.Records), b.Bytes)
		return nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 4, next)
	require.Equal(t, []string{"b", "c", "d"}, got)

	next, err = c.Read(deadline(t), "in", 0, 5, kafka.Latest, func(kafka.Batch) error { return errors.New("not called") })
	require.NoError(t, err)
	require.EqualValues(t, 5, next)

	stop := errors.New("stop")
	next, err = c.Read(deadline(t), "in", 0, 0, kafka.Latest, func(kafka.Batch) error { return stop })
	require.ErrorIs(t, err, stop)
	require.Zero(t, next)

	_, err = c.Read(deadline(t), "none", 0, 0, 1, func(kafka.Batch) error { return nil })
	require.ErrorIs(t, err, kafka.ErrNoTopic)
	_, err = c.Read(deadline(t), "in", 3, 0, 1, func(kafka.Batch) error { return nil })
	require.ErrorIs(t, err, kafka.ErrNoTopic)
	_, err = c.Read(deadline(t), "in", 0, 100, 200, func(kafka.Batch) error { return nil })
	require.ErrorIs(t, err, kafka.ErrOffsetOutOfRange)
}

func TestOffsetOutOfRangeIsNeverReset(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(2, "in"))
	c := dial(t, f)
	appendTo(t, c, "in", 0, "a")
	appendTo(t, c, "in", 1, "b")
	fetch := fetcher(t, c)
	good, err := fetch.Subscribe("in", 1, 0)
	require.NoError(t, err)
	bad, err := fetch.Subscribe("in", 0, 77)
	require.NoError(t, err)
	none, err := fetch.Subscribe("none", 0, 0)
	require.NoError(t, err)
	ends(t, bad, kafka.ErrOffsetOutOfRange)
	ends(t, none, kafka.ErrNoTopic)
	require.Equal(t, []string{"b"}, takeUntil(t, good, 1)) // the others go on
	_, err = fetch.Subscribe("in", 0, -3)
	require.Error(t, err)
}

func TestLatestBeginsBehindTheLastRecord(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in"))
	c := dial(t, f)
	appendTo(t, c, "in", 0, "old")
	s, err := fetcher(t, c).Subscribe("in", 0, kafka.Latest)
	require.NoError(t, err)
	require.EqualValues(t, 1, take(t, s).Next)
	appendTo(t, c, "in", 0, "new")
	require.Equal(t, []string{"new"}, takeUntil(t, s, 2))
}

func TestLargeBatchIsFetchedAllTheSame(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(2, "in"))
	c := dial(t, f)
	big := string(noise(600 << 10))
	appendTo(t, c, "in", 0, big, big)
	appendTo(t, c, "in", 1, big)
	cfg := kafka.DefaultFetch()
	cfg.MaxBytesPerPartition, cfg.MaxBytes = 1<<10, 1<<10
	fetch := c.NewFetcher(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- fetch.Run(ctx) }()
	for p := range int32(2) {
		s, err := fetch.Subscribe("in", p, 0)
		require.NoError(t, err)
		require.Len(t, takeUntil(t, s, int64(2-p)), int(2-p))
	}
	cancel()
	require.NoError(t, <-done)
}

func TestSlowReaderHoldsUpNobody(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(2, "in"))
	c := dial(t, f)
	fetch := fetcher(t, c)
	slow, err := fetch.Subscribe("in", 0, 0)
	require.NoError(t, err)
	quick, err := fetch.Subscribe("in", 1, 0)
	require.NoError(t, err)
	for n := range int64(20) {
		appendTo(t, c, "in", 0, fmt.Sprintf("s%d", n))
		appendTo(t, c, "in", 1, fmt.Sprintf("q%d", n))
		require.Equal(t, []string{fmt.Sprintf("q%d", n)}, takeUntil(t, quick, n+1))
	}
	require.Len(t, takeUntil(t, slow, 20), 20)
}

func TestFetchFollowsTheLeader(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(3, "in"))
	c := dial(t, f)
	fetch := fetcher(t, c)
	subs := make([]*kafka.Subscription, 3)
	for p := range subs {
		var err error
		subs[p], err = fetch.Subscribe("in", int32(p), 0)
		require.NoError(t, err)
	}
	for n := range 6 {
		for p, s := range subs {
			require.NoError(t, f.MoveTopicPartition("in", int32(p), int32((n+p)%3)))
			value := fmt.Sprintf("%d-%d", p, n)
			appendTo(t, c, "in", int32(p), value)
			require.Equal(t, []string{value}, takeUntil(t, s, int64(n+1)))
		}
	}
	got, _ := values(t, c, "in", 1)
	require.Len(t, got, 6)
}

func TestFetchSurvivesBrokenConnections(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in"))
	c := dial(t, f)
	s, err := fetcher(t, c).Subscribe("in", 0, 0)
	require.NoError(t, err)
	for n := range int64(5) {
		f.wire.lose(keyFetch, n%2 == 0)
		appendTo(t, c, "in", 0, fmt.Sprint(n))
		require.Equal(t, []string{fmt.Sprint(n)}, takeUntil(t, s, n+1))
	}
	f.wire.lose(keyFetch, false)
	got, _ := values(t, c, "in", 0)
	require.Len(t, got, 5)
}

// One partition's data cannot be read; the other one shares its requests.
func TestBadDataEndsItsPartitionAlone(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(2, "in"))
	c := dial(t, f)
	appendTo(t, c, "in", 0, "a")
	appendTo(t, c, "in", 1, "b")
	f.ControlKey(keyFetch, func(req kmsg.Request) (kmsg.Response, error, bool) {
		f.KeepControl()
		for _, topic := range req.(*kmsg.FetchRequest).Topics {
			for _, p := range topic.Partitions {
				if p.Partition == 0 {
					return garbage(req.(*kmsg.FetchRequest)), nil, true
				}
			}
		}
		return nil, nil, false
	})
	fetch := fetcher(t, c)
	bad, err := fetch.Subscribe("in", 0, 0)
	require.NoError(t, err)
	good, err := fetch.Subscribe("in", 1, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, takeUntil(t, good, 1))
	late := time.After(patience)
	select {
	case _, open := <-bad.Batches():
		require.False(t, open)
		require.ErrorContains(t, bad.Err(), "in/0")
	case <-late:
		require.FailNow(t, "did not end")
	}
	_, err = c.Read(deadline(t), "in", 0, 0, 1, func(kafka.Batch) error { return nil })
	require.ErrorContains(t, err, "in/0")
}

// Compaction leaves batches without records where a producer's last sequence
// number must be remembered.
func TestEmptyBatchesAreSteppedOver(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(1, "in"))
	c := dial(t, f)
	appendTo(t, c, "in", 0, "0", "1", "2", "3", "4", "5")
	var asked []int64
	f.ControlKey(keyFetch, func(r kmsg.Request) (kmsg.Response, error, bool) {
		f.KeepControl()
		req := r.(*kmsg.FetchRequest)
		from := req.Topics[0].Partitions[0].FetchOffset
		asked = append(asked, from)
		if from >= 5 {
			return nil, nil, false
		}
		var data []byte
		for first := range int64(5) {
			data = append(data, emptyBatch(first)...)
		}
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		resp.Topics = []kmsg.FetchResponseTopic{{Topic: "in", Partitions: []kmsg.FetchResponseTopicPartition{
			{HighWatermark: 6, LastStableOffset: 6, RecordBatches: data},
		}}}
		return resp, nil, true
	})
	got, next := values(t, c, "in", 0)
	require.Equal(t, []string{"5"}, got)
	require.EqualValues(t, 6, next)
	require.Equal(t, []int64{0, 5}, asked) // not one offset at a time
}

// emptyBatch takes up one offset and has no records.
func emptyBatch(offset int64) []byte {
	b := (&kmsg.RecordBatch{FirstOffset: offset, Length: 49, Magic: 2, ProducerID: 1}).AppendTo(nil)
	const afterSum = 21
	sum := crc32.Checksum(b[afterSum:], crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(b[afterSum-4:], sum)
	return b
}

// garbage answers a fetch with a batch whose checksum is wrong.
func garbage(req *kmsg.FetchRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.FetchResponse)
	for _, topic := range req.Topics {
		rt := kmsg.FetchResponseTopic{Topic: topic.Topic}
		for _, p := range topic.Partitions {
			batch := kmsg.RecordBatch{Length: 49 + 10, Magic: 2, NumRecords: 1, Records: make([]byte, 10)}
			rt.Partitions = append(rt.Partitions, kmsg.FetchResponseTopicPartition{
				Partition: p.Partition, HighWatermark: 1, LastStableOffset: 1, RecordBatches: batch.AppendTo(nil),
			})
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func TestFetcherStartsAndStops(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(4, "in"))
	c := dial(t, f)
	for range 20 {
		fetch := c.NewFetcher(kafka.DefaultFetch())
		early, err := fetch.Subscribe("in", 0, 0)
		require.NoError(t, err)
		dropped, err := fetch.Subscribe("in", 1, 0)
		require.NoError(t, err)
		dropped.Close()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- fetch.Run(ctx) }()
		take(t, early)
		late, err := fetch.Subscribe("in", 2, 0)
		require.NoError(t, err)
		cancel()
		require.NoError(t, <-done)
		ends(t, early, kafka.ErrClosed)
		ends(t, late, kafka.ErrClosed)
		_, open := <-dropped.Batches()
		require.False(t, open)
		_, err = fetch.Subscribe("in", 3, 0)
		require.ErrorIs(t, err, kafka.ErrClosed)
		require.ErrorIs(t, fetch.Run(t.Context()), kafka.ErrClosed)
	}
}

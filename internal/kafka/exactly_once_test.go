package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/meterd/meterd/internal/kafka"
)

// copier copies partitions of one topic to those of another, exactly once, as
// meterd does with what it counts: it is the least that uses all of the package.
type copier struct {
	c       *kafka.Cluster
	fetch   *kafka.Fetcher
	group   *kafka.Group
	in, out string
	app     string
	failed  func(error)

	mu    sync.Mutex
	tasks map[int32]*task
}

type task struct {
	stop   chan struct{} // closed: finish the batch in hand
	cancel context.CancelFunc
	done   chan struct{}
}

func (k *copier) Assigned(ctx context.Context, partitions []int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range partitions {
		ctx, cancel := context.WithCancel(ctx)
		t := &task{stop: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
		k.tasks[p] = t
		go func() {
			defer close(t.done)
			for ctx.Err() == nil { // fenced while still assigned: begin anew
				if k.own(ctx, p, t.stop) {
					return
				}
			}
		}()
	}
}

func (k *copier) Revoked(_ context.Context, partitions []int32) {
	for _, t := range k.drop(partitions) {
		close(t.stop)
		<-t.done
		t.cancel()
	}
}

func (k *copier) Lost(partitions []int32) {
	for _, t := range k.drop(partitions) {
		t.cancel()
		<-t.done
	}
}

func (k *copier) drop(partitions []int32) (out []*task) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range partitions {
		if t := k.tasks[p]; t != nil {
			out = append(out, t)
			delete(k.tasks, p)
		}
	}
	return out
}

// own is a partition's life under one owner; false asks for another.
func (k *copier) own(ctx context.Context, p int32, stop chan struct{}) (over bool) {
	w := k.c.NewWriter(fmt.Sprintf("%s-%d", k.app, p), kafka.DefaultWriter())
	if err := w.Init(ctx); err != nil {
		return ctx.Err() != nil
	}
	at, _, err := k.c.CommittedOffset(ctx, k.app, k.in, p)
	if err != nil {
		return ctx.Err() != nil
	}
	sub, err := k.fetch.Subscribe(k.in, p, at)
	if err != nil {
		return true
	}
	defer sub.Close()
	for {
		select {
		case <-stop:
			return true
		case <-ctx.Done():
			return true
		case batch, open := <-sub.Batches():
			if !open {
				k.failed(sub.Err())
				return true
			}
			if batch.Next == at {
				continue
			}
			if !k.copy(ctx, w, p, at, batch) {
				return false
			}
			at = batch.Next
		}
	}
}

// copy commits one batch; false gives the partition up.
func (k *copier) copy(ctx context.Context, w *kafka.Writer, p int32, at int64, batch kafka.Batch) bool {
	for ctx.Err() == nil {
		member, ok := k.group.Member()
		if !ok {
			return false
		}
		tx := kafka.Transaction{Topic: k.in, Partition: p, Next: batch.Next, Member: member, Renew: k.group.Renew}
		for _, r := range batch.Records {
			tx.Records = append(tx.Records, kafka.Output{Topic: k.out, Partition: p, Value: r.Value})
		}
		outcome, _ := w.Commit(ctx, tx)
		switch outcome {
		case kafka.Committed:
			return true
		case kafka.Fenced:
			return false
		case kafka.Unknown:
			if err := w.Init(ctx); err != nil {
				return false
			}
			now, _, err := k.c.CommittedOffset(ctx, k.app, k.in, p)
			switch {
			case err != nil:
				return false
			case now == batch.Next:
				return true
			case now != at:
				k.failed(fmt.Errorf("partition %d stands at %d, neither %d nor %d", p, now, at, batch.Next))
				return false
			}
		}
	}
	return false
}

// startCopier runs one until the returned function is called.
func startCopier(t *testing.T, c *kafka.Cluster, app, in, out string, failed func(error)) (stop func()) {
	t.Helper()
	k := &copier{c: c, fetch: c.NewFetcher(kafka.DefaultFetch()), in: in, out: out, app: app, failed: failed, tasks: map[int32]*task{}}
	cfg := kafka.DefaultGroup()
	cfg.Group, cfg.Topic = app, in
	cfg.SessionTimeout, cfg.Heartbeat, cfg.Rebalance = 6*time.Second, 50*time.Millisecond, 10*time.Second
	var err error
	k.group, err = c.NewGroup(cfg, k)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	fetching, end := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- k.group.Run(ctx) }()
	go func() { done <- k.fetch.Run(fetching) }()
	return sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
		end()
		require.NoError(t, <-done)
	})
}

// seed is METERD_TEST_SEED, or a new one; it is logged either way.
func seed(t *testing.T) *rand.Rand {
	t.Helper()
	n := rand.Uint64()
	if s := os.Getenv("METERD_TEST_SEED"); s != "" {
		var err error
		n, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("METERD_TEST_SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// everyValueOnce demands that a partition has the numbers below n, in order.
func everyValueOnce(t *testing.T, c *kafka.Cluster, topic string, partition int32, n int) {
	t.Helper()
	got, _ := values(t, c, topic, partition)
	require.Len(t, got, n)
	for i, v := range got {
		require.Equal(t, strconv.Itoa(i), v)
	}
}

// Connections break at random requests, leaders and coordinators move, members
// come and go: in the end everything was copied once.
func TestExactlyOnceThroughTrouble(t *testing.T) {
	t.Parallel()
	const partitions, rounds = 4, 60
	random := seed(t)
	f := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(partitions, "in", "out"))
	c := dial(t, f)
	var mu sync.Mutex
	var failures []error
	failed := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failures = append(failures, err)
	}
	producer, err := c.NewProducer(deadline(t))
	require.NoError(t, err)
	stop := startCopier(t, c, "app", "in", "out", failed)
	defer stop()
	reached := func(p int32, n int64) {
		require.Eventually(t, func() bool {
			at, _, err := c.CommittedOffset(t.Context(), "app", "in", p)
			return err == nil && at >= n
		}, patience, time.Millisecond)
	}
	var guest func()
	keys := []int16{keyProduce, keyFetch, keyOffsetFetch, keyHeartbeat, keyInit, keyAddPartitions, keyAddOffsets, keyOffsetCommit, keyEnd}
	for n := range rounds {
		var messages []kafka.Message
		for p := range int32(partitions) {
			for i := range 5 {
				messages = append(messages, kafka.Message{Topic: "in", Partition: p, Value: fmt.Append(nil, n*5+i)})
			}
		}
		_, err := producer.Append(deadline(t), messages)
		require.NoError(t, err)
		reached(int32(random.IntN(partitions)), int64(n-1)*5) // the copiers keep up, so trouble meets work
		f.wire.lose(keys[random.IntN(len(keys))], random.IntN(2) == 0)
		switch random.IntN(6) {
		case 0:
			require.NoError(t, f.MoveTopicPartition("out", int32(random.IntN(partitions)), int32(random.IntN(3))))
		case 1:
			require.NoError(t, f.MoveTopicPartition("in", int32(random.IntN(partitions)), int32(random.IntN(3))))
		case 2:
			f.RehashCoordinators()
		case 3:
			if guest == nil {
				guest = startCopier(t, dial(t, f), "app", "in", "out", failed)
			} else {
				guest()
				guest = nil
			}
		}
	}
	if guest != nil {
		guest()
	}
	for p := range int32(partitions) {
		reached(p, rounds*5)
	}
	stop()
	mu.Lock()
	require.NoError(t, errors.Join(failures...))
	mu.Unlock()
	for p := range int32(partitions) {
		everyValueOnce(t, c, "out", p, rounds*5)
	}
}

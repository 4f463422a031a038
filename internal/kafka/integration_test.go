//go:build integration

package kafka_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/kafka"
)

// real connects to the Kafka of METERD_TEST_KAFKA, with topics that are the
// test's own. It returns the suffix of their names.
func real(t *testing.T, partitions int32, topics ...string) (*kafka.Cluster, string) {
	t.Helper()
	brokers := os.Getenv("METERD_TEST_KAFKA")
	require.NotEmpty(t, brokers, "METERD_TEST_KAFKA must name the brokers")
	cfg := kafka.Default()
	cfg.Brokers = strings.Split(brokers, ",")
	c := dialWith(t, cfg)
	suffix := fmt.Sprintf("-%d", time.Now().UnixNano())
	var specs []kafka.TopicSpec
	for _, name := range topics {
		specs = append(specs, kafka.TopicSpec{Name: name + suffix, Partitions: partitions})
	}
	require.NoError(t, c.CreateTopics(deadline(t), specs))
	return c, suffix
}

// proxy passes connections on and can lose answers.
func (w *wire) proxy(t *testing.T, to string) string {
	t.Helper()
	l, err := w.listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() { _, _ = io.Copy(server, client); _ = server.Close(); _ = client.Close() }()
			go func() { _, _ = io.Copy(client, server); _ = server.Close(); _ = client.Close() }()
		}
	}()
	return l.Addr().String()
}

func realTransaction(suffix string, n int64) kafka.Transaction {
	return kafka.Transaction{
		Records: outputs("out"+suffix, 0, "v", int(n)), Topic: "in" + suffix, Next: n, Member: kafka.Member{Group: "app" + suffix},
	}
}

func TestRealTransactions(t *testing.T) {
	c, suffix := real(t, 2, "in", "out")
	w := writer(t, c, "app"+suffix)
	began := time.Now()
	for n := range int64(50) {
		commit(t, w, realTransaction(suffix, n+1))
	}
	t.Logf("%s a transaction", time.Since(began)/50)
	require.EqualValues(t, 50, position(t, c, "app"+suffix, "in"+suffix, 0))
	got, next := values(t, c, "out"+suffix, 0)
	require.Len(t, got, 50*51/2)
	require.EqualValues(t, 50*51/2+50, next) // a marker each
	s, err := fetcher(t, c).Subscribe("out"+suffix, 0, kafka.Earliest)
	require.NoError(t, err)
	require.Equal(t, got, takeUntil(t, s, next))
}

func TestRealNewerOwnerFences(t *testing.T) {
	c, suffix := real(t, 1, "in", "out")
	old := writer(t, c, "app"+suffix)
	commit(t, old, realTransaction(suffix, 1))
	heir := writer(t, c, "app"+suffix)
	outcome, err := old.Commit(deadline(t), realTransaction(suffix, 2))
	require.ErrorIs(t, err, kafka.ErrFenced)
	require.Equal(t, kafka.Fenced, outcome)
	require.ErrorIs(t, old.Init(deadline(t)), kafka.ErrFenced)
	for n := range int64(5) {
		commit(t, heir, realTransaction(suffix, n+2))
	}
}

// An answer is lost somewhere in the transaction; with or without an heir that
// comes before the old owner asks what happened.
func TestRealUnknownOutcomes(t *testing.T) {
	c, suffix := real(t, 1, "in", "out")
	w := &wire{}
	through := w.redirect(t)
	group := "app" + suffix
	for _, key := range []int16{keyAddPartitions, keyAddOffsets, keyProduce, keyOffsetCommit, keyEnd} {
		for _, applied := range []bool{true, false} {
			for _, heir := range []bool{false, true} {
				t.Run(fmt.Sprintf("key %d applied %t heir %t", key, applied, heir), func(t *testing.T) {
					id := fmt.Sprintf("%s-%d-%t-%t", group, key, applied, heir)
					before := max(position(t, c, group, "in"+suffix, 0), 0)
					old := writer(t, through, id)
					w.lose(key, applied)
					outcome, err := old.Commit(deadline(t), realTransaction(suffix, before+1))
					require.Error(t, err)
					require.Equal(t, kafka.Unknown, outcome)
					want := before
					if key == keyEnd && applied {
						want++
					}
					if heir {
						newer := writer(t, c, id)
						require.Equal(t, want, max(position(t, c, group, "in"+suffix, 0), 0))
						require.ErrorIs(t, old.Init(deadline(t)), kafka.ErrFenced)
						commit(t, newer, realTransaction(suffix, before+2))
						return
					}
					began := time.Now()
					require.NoError(t, old.Init(deadline(t)))
					t.Logf("init took %s", time.Since(began))
					require.Equal(t, want, max(position(t, c, group, "in"+suffix, 0), 0))
					commit(t, old, realTransaction(suffix, before+2))
				})
			}
		}
	}
}

// The heir comes while a transaction of the old owner is open.
func TestRealHeirOfAnOpenTransaction(t *testing.T) {
	c, suffix := real(t, 1, "in", "out")
	w := &wire{}
	old := writer(t, w.redirect(t), "app"+suffix)
	w.lose(keyEnd, false)
	outcome, _ := old.Commit(deadline(t), realTransaction(suffix, 3))
	require.Equal(t, kafka.Unknown, outcome)
	began := time.Now()
	heir := writer(t, c, "app"+suffix)
	require.EqualValues(t, -1, position(t, c, "app"+suffix, "in"+suffix, 0))
	require.Less(t, time.Since(began), 5*time.Second) // not the transaction's timeout
	got, next := values(t, c, "out"+suffix, 0)
	require.Empty(t, got)
	require.EqualValues(t, 4, next)
	commit(t, heir, realTransaction(suffix, 1))
	require.ErrorIs(t, old.Init(deadline(t)), kafka.ErrFenced)
	commit(t, heir, realTransaction(suffix, 2))
}

func TestRealTransactionThatGotTooOld(t *testing.T) {
	c, suffix := real(t, 1, "in", "out")
	w := &wire{}
	cfg := kafka.DefaultWriter()
	cfg.Timeout = time.Second
	old := w.redirect(t).NewWriter("app"+suffix, cfg)
	require.NoError(t, old.Init(deadline(t)))
	w.lose(keyEnd, false)
	outcome, _ := old.Commit(deadline(t), realTransaction(suffix, 3))
	require.Equal(t, kafka.Unknown, outcome)
	require.Eventually(t, func() bool { // the broker looks every ten seconds
		stable, err := c.LastStable(t.Context(), "out"+suffix, 0)
		return err == nil && stable == 4
	}, 30*time.Second, 100*time.Millisecond)
	require.ErrorIs(t, old.Init(deadline(t)), kafka.ErrFenced)
	again := writer(t, c, "app"+suffix)
	commit(t, again, realTransaction(suffix, 1))
}

func TestRealTopics(t *testing.T) {
	c, suffix := real(t, 3, "in")
	spec := kafka.TopicSpec{Name: "changelog" + suffix, Partitions: 3, Compact: true, Configs: kafka.ChangelogConfigs()}
	compact := kafka.TopicSpec{Name: "contracts" + suffix, Partitions: 1, Compact: true, Configs: kafka.CompactConfigs()}
	require.NoError(t, c.CreateTopics(deadline(t), []kafka.TopicSpec{spec, compact, spec}))
	problems, err := c.CheckTopics(deadline(t), []kafka.TopicSpec{spec, compact, {Name: "in" + suffix, Partitions: 3}})
	require.NoError(t, err)
	require.Empty(t, problems)
	odd := kafka.TopicSpec{Name: "odd" + suffix, Partitions: 1, Configs: map[string]string{"no.such.setting": "1"}}
	require.ErrorContains(t, c.CreateTopics(deadline(t), []kafka.TopicSpec{odd}), "no.such.setting")
	require.Error(t, c.CreateTopics(deadline(t), []kafka.TopicSpec{{Name: "bad name!", Partitions: 1}}))
	spec.Compact, spec.Partitions = false, 4
	problems, err = c.CheckTopics(deadline(t), []kafka.TopicSpec{spec, {Name: "none" + suffix, Partitions: 1}})
	require.NoError(t, err)
	require.Len(t, problems, 3)
}

func TestRealGroup(t *testing.T) {
	c, suffix := real(t, 6, "in", "out")
	cr := newCrew(t, c)
	configured := func(address string) kafka.GroupConfig {
		cfg := groupConfig(address)
		cfg.Group, cfg.Topic = "app"+suffix, "in"+suffix
		cfg.SessionTimeout, cfg.Heartbeat = 6*time.Second, 100*time.Millisecond
		return cfg
	}
	w := writer(t, c, "app"+suffix)
	results := make(chan error, 8)
	var a *member
	ready := make(chan struct{})
	a = cr.start(configured("a"), func(ctx context.Context, _ []int32) {
		<-ready
		m, _ := a.Member()
		tx := realTransaction(suffix, 2)
		tx.Member, tx.Renew = m, a.Renew
		_, err := w.Commit(ctx, tx)
		results <- err
	})
	close(ready)
	cr.settle([]int{6}, a)
	old, ok := a.Member()
	require.True(t, ok)
	b := cr.start(configured("b"), nil)
	cr.settle([]int{3, 3}, a, b)
	require.NoError(t, <-results)
	tx := realTransaction(suffix, 4)
	tx.Member, tx.Renew = old, a.Renew
	commit(t, w, tx)
	tx.Renew = nil
	outcome, err := w.Commit(deadline(t), tx)
	require.Error(t, err)
	require.Equal(t, kafka.Fenced, outcome)
	w = writer(t, c, "app"+suffix) // for the hand-over of a, at the end
	d := cr.start(configured("d"), nil)
	cr.settle([]int{2, 2, 2}, a, b, d)
	require.NoError(t, b.stop())
	cr.settle([]int{3, 3}, a, d)
	require.Len(t, d.Instances(), 2)
	_, _, lost := d.calls()
	require.Zero(t, lost)
}

// redirect connects to the real Kafka through a wire.
func (w *wire) redirect(t *testing.T) *kafka.Cluster {
	t.Helper()
	cfg := kafka.Default()
	cfg.Brokers = strings.Split(os.Getenv("METERD_TEST_KAFKA"), ",")
	var mu sync.Mutex
	proxies := map[string]string{}
	cfg.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		if proxies[addr] == "" {
			proxies[addr] = w.proxy(t, addr)
		}
		to := proxies[addr]
		mu.Unlock()
		var d net.Dialer
		return d.DialContext(ctx, network, to)
	}
	return dialWith(t, cfg)
}

// What a writer leaves open that dies is found on a real broker, with the id of
// the writer; the next owner ends it.
func TestRealOpenTransactions(t *testing.T) {
	c, suffix := real(t, 1, "in", "out")
	w := &wire{}
	id := "app" + suffix
	old := writer(t, w.redirect(t), id)
	commit(t, old, realTransaction(suffix, 2))
	open, err := c.OpenTransactions(deadline(t), "in"+suffix, "out"+suffix)
	require.NoError(t, err)
	require.Empty(t, open)

	w.lose(keyEnd, false)
	_, err = old.Commit(deadline(t), realTransaction(suffix, 3))
	require.Error(t, err)
	open, err = c.OpenTransactions(deadline(t), "in"+suffix, "out"+suffix)
	require.NoError(t, err)
	require.Len(t, open, 1)
	require.Equal(t, "out"+suffix, open[0].Topic)
	require.Equal(t, id, open[0].ID)
	require.Equal(t, "Ongoing", open[0].State)
	require.False(t, open[0].Hanging)
	require.WithinDuration(t, time.Now(), open[0].Began, time.Minute)
	stable, err := c.LastStable(deadline(t), "out"+suffix, 0)
	require.NoError(t, err)
	require.Equal(t, stable, open[0].Start)

	require.NoError(t, old.Init(deadline(t)))
	open, err = c.OpenTransactions(deadline(t), "out"+suffix)
	require.NoError(t, err)
	require.Empty(t, open)
}

package app_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/ingest"
	"github.com/meterd/meterd/internal/kafka"
)

// errKilled is what a killed partition ends with.
var errKilled = errors.New("killed")

// killer stops a daemon at the nth time that it takes a step: from then on no
// partition of it takes any step.
type killer struct {
	at   ingest.Step
	left atomic.Int64
	dead chan struct{}
	once sync.Once
}

func killAt(at ingest.Step, nth int) *killer {
	k := &killer{at: at, dead: make(chan struct{})}
	k.left.Store(int64(nth))
	return k
}

func (k *killer) step(at ingest.Step) error {
	select {
	case <-k.dead:
		return errKilled
	default:
	}
	if at == k.at && k.left.Add(-1) == 0 {
		k.once.Do(func() { close(k.dead) })
		return errKilled
	}
	return nil
}

// feed is usage that crosses 50, 80 and 100 % of a limit of 1000, with a
// duplicate of each event, and what must come of it.
type feed struct {
	w     *world
	from  time.Time
	total map[string]int
}

func newFeed(w *world) *feed {
	for i := range 3 {
		client := fmt.Sprintf("client-%d", i)
		w.contract(client, fmt.Sprintf(`{"id":%q,"client":%q,"starts_at":"2020-01-01T00:00:00Z","limits":[
			{"id":"traffic","meter":"bytes","limit":"1000","thresholds":["50%%","80%%","100%%"]}]}`, client, client))
	}
	return &feed{w: w, from: time.Now(), total: map[string]int{}}
}

// send produces the events of one round, each twice.
func (f *feed) send(round int) {
	for i := range 3 {
		client := fmt.Sprintf("client-%d", i)
		for event := range 3 {
			id := fmt.Sprintf("%d-%d", round, event)
			quantity := 30 + 10*i + event
			for range 2 {
				f.w.use(id, client, "bytes", int64(quantity), f.from)
			}
			f.total[client] += quantity
		}
	}
}

// check demands that the daemon has counted exactly what was sent, and that
// each threshold was told of once, in order.
func (f *feed) check(t *testing.T, d *daemon) {
	t.Helper()
	for _, client := range slices.Sorted(maps.Keys(f.total)) {
		d.usage(t, client, "bytes", fmt.Sprint(f.total[client]))
	}
	told := map[string][]string{}
	ids := map[string]bool{}
	for _, e := range f.w.limitEvents() {
		require.False(t, ids[e.ID], "limit event %s is there twice", e.ID)
		ids[e.ID] = true
		for _, passed := range e.Thresholds {
			told[e.Client] = append(told[e.Client], passed.Threshold)
		}
	}
	for client, total := range f.total {
		var want []string
		for value, label := range map[int]string{500: "50%", 800: "80%", 1000: "100%"} {
			if total >= value {
				want = append(want, label)
			}
		}
		require.ElementsMatch(t, want, told[client], "%s at %d", client, total)
	}
}

// Whatever a daemon was doing when it died, its successor ends at the same
// totals and limit events, on what is on disk and without it.
func TestDeathAtEveryStep(t *testing.T) {
	steps := []ingest.Step{
		ingest.StepFenced, ingest.StepRestored, ingest.StepFolded, ingest.StepCommitting, ingest.StepCommitted,
		ingest.StepFlushing, ingest.StepFlushed, ingest.StepRevoked,
	}
	for _, step := range steps {
		for _, keepDisk := range []bool{true, false} {
			for _, nth := range []int{1, 4} {
				t.Run(fmt.Sprintf("%s %d, disk kept %v", step, nth, keepDisk), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t, 2)
					f := newFeed(w)
					f.send(0)
					k := killAt(step, nth)
					first := w.start(k.step)
					for round := 1; round <= 4; round++ {
						f.send(round)
						select {
						case <-k.dead:
						case <-time.After(120 * time.Millisecond): // lets commits and flushes happen in between
						}
					}
					err := first.end()
					if step != ingest.StepRevoked && nth == 1 {
						require.ErrorIs(t, err, errKilled)
					}
					if !keepDisk {
						w.cfg.State.Dir = t.TempDir()
					}
					f.send(5)
					second := w.start(nil)
					f.send(6)
					f.check(t, second)
					require.NoError(t, second.end())
				})
			}
		}
	}
}

// The reply to the end of a transaction is lost: the outcome is asked for, and
// nothing is counted twice or not at all.
func TestUnknownOutcome(t *testing.T) {
	const endTxn = 26
	for name, applied := range map[string]bool{"the commit was carried out": true, "the commit never arrived": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			f := newFeed(w)
			cut := &cutter{key: endTxn, applied: applied}
			d := w.startWith(app.Options{Dial: cut.dial})
			for round := range 6 {
				cut.armed.Store(true)
				f.send(round)
				require.Eventually(t, func() bool { return !cut.armed.Load() }, patience, time.Millisecond, "no transaction was cut")
				f.check(t, d)
			}
			require.NoError(t, d.end())
		})
	}
}

// A member that was silent for longer than its session is a zombie: it neither
// commits nor answers, and its partitions go on elsewhere.
func TestZombie(t *testing.T) {
	w := newWorld(t, 2)
	w.cfg.Kafka.SessionTimeout = config.Duration(6 * time.Second)
	w.cfg.Kafka.TransactionTimeout = config.Duration(2 * time.Second)
	f := newFeed(w)
	var frozen atomic.Bool
	thaw := make(chan struct{})
	zombie := w.startWith(app.Options{Dial: freezer(&frozen, thaw)})
	f.send(0)
	f.check(t, zombie)

	frozen.Store(true)
	f.send(1)
	w.cfg.State.Dir = t.TempDir()
	heir := w.start(nil)
	f.send(2)
	f.check(t, heir)
	close(thaw)
	f.send(3)
	f.check(t, heir)
	require.NoError(t, heir.end())
	require.NoError(t, zombie.end())
}

// The broker has fenced a writer, and nobody else took the partition: after a
// session it is counted on.
func TestFencedWithoutAnHeir(t *testing.T) {
	w := newWorld(t, 1)
	w.cfg.Kafka.SessionTimeout = config.Duration(6 * time.Second)
	w.cfg.Kafka.TransactionTimeout = config.Duration(2 * time.Second)
	f := newFeed(w)
	d := w.start(nil)
	f.send(0)
	f.check(t, d)
	require.NoError(t, w.cluster.NewWriter("meterd-usage-0", kafka.DefaultWriter()).Init(t.Context()))
	f.send(1)
	f.check(t, d)
	require.NoError(t, d.end())
}

// A daemon stops within the grace period also when no broker answers, and what
// it had not committed is counted by the next.
func TestStopsWithoutABroker(t *testing.T) {
	w := newWorld(t, 2)
	f := newFeed(w)
	var frozen atomic.Bool
	thaw := make(chan struct{})
	d := w.startWith(app.Options{Dial: freezer(&frozen, thaw)})
	f.send(0)
	f.check(t, d)
	frozen.Store(true)
	f.send(1)
	d.stop()
	select {
	case err := <-d.ended:
		d.over = true
		require.NoError(t, err)
	case <-time.After(58 * time.Second):
		require.Fail(t, "it did not stop within the grace period")
	}
	close(thaw)
	heir := w.start(nil)
	f.check(t, heir)
	require.NoError(t, heir.end())
}

// cutter is a network that loses the reply to one kind of request, or the
// request itself, once each time it is armed.
type cutter struct {
	key     int16
	applied bool
	armed   atomic.Bool
}

func (c *cutter) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return &cutConn{Conn: conn, cutter: c}, err
}

type cutConn struct {
	net.Conn
	cutter *cutter
	cut    atomic.Bool
}

var errCut = errors.New("connection cut by the test")

func (c *cutConn) Write(b []byte) (int, error) {
	const keyAt = 4 // behind the frame's length
	if len(b) >= keyAt+2 && int16(b[keyAt])<<8|int16(b[keyAt+1]) == c.cutter.key && c.cutter.armed.CompareAndSwap(true, false) {
		c.cut.Store(true)
		if !c.cutter.applied {
			return 0, errors.Join(errCut, c.Close())
		}
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b) // the reply has come: it was carried out
	if c.cut.Load() {
		return 0, errors.Join(errCut, c.Close())
	}
	return n, err
}

// freezer is a network that stands still while frozen.
func freezer(frozen *atomic.Bool, thaw <-chan struct{}) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if frozen.Load() {
			select {
			case <-thaw:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return &frozenConn{Conn: conn, frozen: frozen, thaw: thaw, closed: make(chan struct{})}, err
	}
}

// frozenConn takes what is written and passes it on when it thaws, as a network
// does that is cut for a while.
type frozenConn struct {
	net.Conn
	frozen *atomic.Bool
	thaw   <-chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (c *frozenConn) Write(b []byte) (int, error) {
	if !c.frozen.Load() {
		return c.Conn.Write(b)
	}
	held := slices.Clone(b)
	go func() {
		select {
		case <-c.thaw:
			_, _ = c.Conn.Write(held) // the other side may have given up
		case <-c.closed:
		}
	}()
	return len(b), nil
}

func (c *frozenConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

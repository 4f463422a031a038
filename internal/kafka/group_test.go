package kafka_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/meterd/meterd/internal/kafka"
)

// holder is a handler that remembers, and checks that what comes fits.
type holder struct {
	mu       sync.Mutex
	held     map[int32]bool
	assigned int // calls
	revoked  int
	lost     int
	wrong    []string
	during   func(ctx context.Context, partitions []int32) // in Revoked
	owners   *owners
}

// owners demands that no two members hold a partition at once.
type owners struct {
	mu    sync.Mutex
	by    map[int32]*holder
	wrong []string
}

func (o *owners) take(h *holder, p int32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.by[p] != nil {
		o.wrong = append(o.wrong, fmt.Sprintf("partition %d has two owners", p))
	}
	o.by[p] = h
}

func (o *owners) give(p int32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.by, p)
}

func (h *holder) Assigned(_ context.Context, partitions []int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.assigned++
	for _, p := range partitions {
		if h.held[p] {
			h.wrong = append(h.wrong, fmt.Sprintf("assigned %d twice", p))
		}
		h.held[p] = true
		h.owners.take(h, p)
	}
}

func (h *holder) Revoked(ctx context.Context, partitions []int32) {
	if h.during != nil {
		h.during(ctx, partitions)
	}
	h.drop(partitions, &h.revoked)
}

func (h *holder) Lost(partitions []int32) { h.drop(partitions, &h.lost) }

func (h *holder) drop(partitions []int32, count *int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*count++
	for _, p := range partitions {
		if !h.held[p] {
			h.wrong = append(h.wrong, fmt.Sprintf("dropped %d, which was not held", p))
		}
		delete(h.held, p)
		h.owners.give(p)
	}
}

func (h *holder) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.held)
}

func (h *holder) calls() (assigned, revoked, lost int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.assigned, h.revoked, h.lost
}

// member is a running Group.
type member struct {
	*kafka.Group
	*holder
	stop func() error
}

// crew starts members of one group over a topic.
type crew struct {
	t      *testing.T
	c      *kafka.Cluster
	owners *owners
}

func newCrew(t *testing.T, c *kafka.Cluster) *crew {
	t.Helper()
	cr := &crew{t: t, c: c, owners: &owners{by: map[int32]*holder{}}}
	t.Cleanup(func() {
		cr.owners.mu.Lock()
		defer cr.owners.mu.Unlock()
		require.Empty(t, cr.owners.wrong)
		require.Empty(t, cr.owners.by, "partitions left behind")
	})
	return cr
}

func groupConfig(address string) kafka.GroupConfig {
	cfg := kafka.DefaultGroup()
	cfg.Group, cfg.Topic, cfg.Address = "app", "in", address
	cfg.SessionTimeout, cfg.Heartbeat, cfg.Rebalance = 3*time.Second, 20*time.Millisecond, 5*time.Second
	return cfg
}

func (cr *crew) start(cfg kafka.GroupConfig, during func(context.Context, []int32)) *member {
	cr.t.Helper()
	h := &holder{held: map[int32]bool{}, owners: cr.owners, during: during}
	g, err := cr.c.NewGroup(cfg, h)
	require.NoError(cr.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	m := &member{Group: g, holder: h}
	m.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	cr.t.Cleanup(func() {
		require.NoError(cr.t, m.stop())
		require.Empty(cr.t, h.wrong)
	})
	return m
}

// settle waits until the members hold so many partitions each.
func (cr *crew) settle(counts []int, members ...*member) {
	cr.t.Helper()
	require.Eventually(cr.t, func() bool {
		var have []int
		for _, m := range members {
			have = append(have, m.count())
		}
		slices.Sort(have)
		return slices.Equal(have, counts)
	}, patience, 5*time.Millisecond)
}

func TestMembersShareAndKnowEachOther(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(8, "in"))
	cr := newCrew(t, dial(t, f))
	a := cr.start(groupConfig("http://a:8080"), nil)
	cr.settle([]int{8}, a)
	who, ok := a.Member()
	require.True(t, ok)
	require.Equal(t, "app", who.Group)
	require.NotEmpty(t, who.ID)

	b := cr.start(groupConfig("http://b:8080"), nil)
	cr.settle([]int{4, 4}, a, b)
	c := cr.start(groupConfig("http://c:8080"), nil)
	cr.settle([]int{2, 3, 3}, a, b, c)

	// everybody comes to know everybody, with all partitions
	for _, m := range []*member{a, b, c} {
		require.Eventually(t, func() bool {
			var addresses []string
			n := 0
			for _, i := range m.Instances() {
				addresses = append(addresses, i.Address)
				n += len(i.Partitions)
			}
			slices.Sort(addresses)
			return n == 8 && slices.Equal(addresses, []string{"http://a:8080", "http://b:8080", "http://c:8080"})
		}, patience, 5*time.Millisecond)
	}
	_, _, lost := a.calls()
	require.Zero(t, lost)

	require.NoError(t, b.stop())
	require.Zero(t, b.count())
	_, ok = b.Member()
	require.False(t, ok)
	cr.settle([]int{4, 4}, a, c)
	require.NoError(t, a.stop())
	cr.settle([]int{8}, c)
}

func TestOnlyMovedPartitionsStop(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(8, "in"))
	cr := newCrew(t, dial(t, f))
	var mu sync.Mutex
	var moved []int32
	a := cr.start(groupConfig("a"), func(_ context.Context, partitions []int32) {
		mu.Lock()
		defer mu.Unlock()
		moved = append(moved, partitions...)
	})
	cr.settle([]int{8}, a)
	b := cr.start(groupConfig("b"), nil)
	cr.settle([]int{4, 4}, a, b)
	mu.Lock()
	require.Len(t, moved, 4)
	mu.Unlock()
	assigned, revoked, lost := a.calls()
	require.Equal(t, []int{1, 1, 0}, []int{assigned, revoked, lost})
}

// While partitions are handed over the member is in good standing: it commits
// in the generation that takes them away.
func TestCommitDuringTheHandOver(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(2, "in", "out"))
	c := dial(t, f)
	cr := newCrew(t, c)
	w := writer(t, c, "app-in-0")
	results := make(chan error, 4)
	var a *member
	started := make(chan struct{})
	a = cr.start(groupConfig("a"), func(ctx context.Context, _ []int32) {
		<-started
		m, ok := a.Member()
		if !ok {
			results <- fmt.Errorf("no member while handing over")
			return
		}
		tx := transaction(2)
		tx.Member, tx.Renew = m, a.Renew
		_, err := w.Commit(ctx, tx)
		results <- err
	})
	close(started)
	cr.settle([]int{2}, a)
	old, ok := a.Member()
	require.True(t, ok)
	b := cr.start(groupConfig("b"), nil)
	cr.settle([]int{1, 1}, a, b)
	require.NoError(t, <-results)
	require.EqualValues(t, 2, position(t, c, "app", "in", 0))

	// a transaction that began in the first generation ends in the present one
	tx := transaction(3)
	tx.Member, tx.Renew = old, a.Renew
	commit(t, w, tx)
	require.EqualValues(t, 3, position(t, c, "app", "in", 0))
	// and without Renew it is over
	tx.Renew = nil
	outcome, err := w.Commit(deadline(t), tx)
	require.Error(t, err)
	require.Equal(t, kafka.Fenced, outcome)
}

func TestMemberThatIsThrownOutLosesAll(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]int16{"unknown member": unknownMember, "illegal generation": illegalGeneration} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fake(t, kfake.SeedTopics(4, "in"))
			cr := newCrew(t, dial(t, f))
			cfg := groupConfig("a")
			cfg.SessionTimeout = time.Second // the coordinator forgets the first membership then
			a := cr.start(cfg, nil)
			cr.settle([]int{4}, a)
			before, _ := a.Member()
			answers(f, keyHeartbeat, code, 1)
			require.Eventually(t, func() bool {
				_, _, lost := a.calls()
				return lost == 1
			}, patience, 5*time.Millisecond)
			cr.settle([]int{4}, a)
			after, ok := a.Member()
			require.True(t, ok)
			require.NotEqual(t, before, after)
			_, ok = a.Renew(t.Context(), before)
			require.False(t, ok)
		})
	}
}

func TestMembershipOutlivesItsCoordinator(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.NumBrokers(3), kfake.SeedTopics(4, "in"))
	cr := newCrew(t, dial(t, f))
	a := cr.start(groupConfig("a"), nil)
	cr.settle([]int{4}, a)
	for range 5 {
		f.wire.lose(keyHeartbeat, true)
		answers(f, keyHeartbeat, notCoordinator, 1)
		f.wire.lose(keyHeartbeat, false)
		require.Eventually(t, func() bool { return f.wire.left() == 0 }, patience, 5*time.Millisecond)
	}
	b := cr.start(groupConfig("b"), nil)
	cr.settle([]int{2, 2}, a, b)
	assigned, _, lost := a.calls()
	require.Equal(t, 1, assigned)
	require.Zero(t, lost)
}

func TestSilentCoordinatorEndsTheMembership(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(4, "in"))
	cr := newCrew(t, dial(t, f))
	cfg := groupConfig("a")
	cfg.SessionTimeout = 500 * time.Millisecond
	a := cr.start(cfg, nil)
	cr.settle([]int{4}, a)
	var stop sync.Once
	over := make(chan struct{})
	f.ControlKey(keyHeartbeat, func(kmsg.Request) (kmsg.Response, error, bool) {
		f.KeepControl()
		select {
		case <-over:
			f.DropControl()
			return nil, nil, false
		default:
			return nil, nil, true // no answer, ever
		}
	})
	require.Eventually(t, func() bool {
		_, _, lost := a.calls()
		return lost >= 1
	}, patience, 5*time.Millisecond)
	stop.Do(func() { close(over) })
	cr.settle([]int{4}, a)
}

func TestSlowHandOverKeepsTheMembership(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(4, "in"))
	cr := newCrew(t, dial(t, f))
	cfg := groupConfig("a")
	cfg.SessionTimeout = 300 * time.Millisecond
	release := make(chan struct{})
	a := cr.start(cfg, func(context.Context, []int32) { <-release })
	cr.settle([]int{4}, a)
	b := cr.start(groupConfig("b"), nil)
	timer := time.AfterFunc(time.Second, func() { close(release) }) // some session timeouts
	defer timer.Stop()
	cr.settle([]int{2, 2}, a, b)
	_, revoked, lost := a.calls()
	require.Equal(t, 1, revoked)
	require.Zero(t, lost)
}

func TestStaticMemberComesBackToItsPartitions(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(4, "in"))
	cr := newCrew(t, dial(t, f))
	cfg := groupConfig("a")
	cfg.InstanceID = "pod-0"
	other := groupConfig("b")
	other.InstanceID = "pod-1"
	a, b := cr.start(cfg, nil), cr.start(other, nil)
	cr.settle([]int{2, 2}, a, b)
	require.NoError(t, a.stop())
	again := cr.start(cfg, nil)
	cr.settle([]int{2, 2}, again, b)
	_, revoked, lost := b.calls()
	require.LessOrEqual(t, revoked, 1) // at most for the first join of a
	require.Zero(t, lost)
}

// The coordinator gives a static member that comes back another id, and tells
// nobody. Who asks it for something by its id must find it all the same.
func TestStaticMemberThatComesBackIsKnown(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(4, "in"))
	cr := newCrew(t, dial(t, f))
	first, second := groupConfig("a"), groupConfig("b")
	first.InstanceID, second.InstanceID = "pod-0", "pod-1"
	a := cr.start(first, nil)
	cr.settle([]int{4}, a)
	b := cr.start(second, nil)
	cr.settle([]int{2, 2}, a, b)
	require.NoError(t, b.stop())
	again := cr.start(second, nil)
	cr.settle([]int{2, 2}, a, again)
	require.Eventually(t, func() bool {
		me, ok := again.Member()
		return ok && slices.ContainsFunc(a.Instances(), func(i kafka.Instance) bool { return i.ID == me.ID })
	}, patience, 5*time.Millisecond, "the others look for who it was")
	cr.settle([]int{2, 2}, a, again)
	_, revoked, lost := a.calls()
	require.Equal(t, 1, revoked, "for the first join of b")
	require.Zero(t, lost)
}

func TestSecondProcessWithAnInstanceIDEndsTheFirst(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.SeedTopics(4, "in"))
	c := dial(t, f)
	cfg := groupConfig("a")
	cfg.InstanceID = "pod-0"
	h := &holder{held: map[int32]bool{}, owners: &owners{by: map[int32]*holder{}}}
	g, err := c.NewGroup(cfg, h)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- g.Run(t.Context()) }()
	require.Eventually(t, func() bool { return h.count() == 4 }, patience, 5*time.Millisecond)
	second := newCrew(t, c).start(cfg, nil)
	select {
	case err := <-done:
		require.ErrorIs(t, err, kafka.ErrFencedInstance)
	case <-time.After(patience):
		require.FailNow(t, "goes on")
	}
	require.Zero(t, h.count())
	require.Eventually(t, func() bool { return second.count() == 4 }, patience, 5*time.Millisecond)
}

func TestGroupOfNoTopicFails(t *testing.T) {
	t.Parallel()
	f := fake(t)
	g, err := dial(t, f).NewGroup(groupConfig("a"), &holder{})
	require.NoError(t, err)
	require.ErrorIs(t, g.Run(deadline(t)), kafka.ErrNoTopic)
	_, err = dial(t, f).NewGroup(kafka.GroupConfig{}, &holder{})
	require.Error(t, err)
}

// Members come and go all the time; what holds is that no partition ever has two
// owners, and that all are held in the end.
func TestMembersComeAndGo(t *testing.T) {
	t.Parallel()
	f := fake(t, kfake.NumBrokers(2), kfake.SeedTopics(6, "in"))
	cr := newCrew(t, dial(t, f))
	stay := cr.start(groupConfig("stay"), nil)
	for n := range 6 {
		guest := cr.start(groupConfig(fmt.Sprint("guest", n)), nil)
		if n%2 == 0 {
			require.Eventually(t, func() bool { return guest.count() > 0 }, patience, time.Millisecond)
		}
		require.NoError(t, guest.stop())
	}
	cr.settle([]int{6}, stay)
	_, _, lost := stay.calls()
	require.Zero(t, lost)
}

package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/meterd/meterd/internal/failpoint"
	"github.com/meterd/meterd/test/faults/proxy"
)

// running are the points at which a meterd that counts can die, starting those
// on the way there.
var (
	running = []string{
		failpoint.Fetched, "folded", "committing", failpoint.Begun, failpoint.OffsetsAdded, failpoint.Written,
		failpoint.Placed, failpoint.Ended, "committed", "flushing", failpoint.DiskWriting, failpoint.DiskWritten, "flushed",
	}
	// unaware are those at which one does not look any more whether one is still a
	// member.
	unaware = []string{
		"committing", "committing", "committing", failpoint.Begun, failpoint.OffsetsAdded, failpoint.Written, failpoint.Placed,
		failpoint.Ended, "committed", failpoint.DiskWriting, "folded",
	}
	starting = []string{"fenced", failpoint.Replayed, "restored", failpoint.ContractTaken, failpoint.DiskWriting}
	stopping = []string{"revoked", failpoint.HandedOver, failpoint.DiskWritten}
)

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return (least + time.Duration(r.Int64N(int64(most-least)))).Round(10 * time.Millisecond)
}

// kinds are all that can be drawn.
func kinds(onReal bool) []kind {
	list := []kind{
		{"kill at", 14, killAt},
		{"kill starting", 6, killStarting},
		{"kill stopping", 3, killStopping},
		{"kill", 5, kill},
		{"kill burst", 1, killBurst},
		{"kill unanswered", 5, killUnanswered},
		{"stop", 3, stop},
		{"zombie", 2, zombie},
		{"reply", 16, reply},
		{"end lost", 5, endLost},
		{"refusal", 12, refusal},
		{"reset", 3, reset},
		{"cut", 6, cut},
		{"slow link", 3, slowLink},
		{"broker pause", 2, brokerPause},
		{"fence", 2, fence},
		{"join and leave", 2, joinAndLeave},
		{"registry", 3, registryFails},
		{"history", 2, historyFails},
		{"damage", 5, damage},
		{"same directory", 1, sameDirectory},
		{"poison", 3, poison},
		{"disk full", 2, diskFull},
		{"hanging", 2, hangingTransaction},
		{"contracts", 3, contractsChange},
	}
	// Of the in-memory Kafka, a transaction that is being ended survives no kill:
	// the position may stand without the records.
	if onReal {
		list = append(list, kind{"broker kill", 3, brokerKill})
	} else {
		list = append(list, kind{"leaders move", 3, moves("shuffle")}, kind{"coordinators move", 3, moves("rehash")})
	}
	return list
}

type act = func(ctx context.Context, w *World) (bool, error)

// on draws an instance, and returns an act on it that no other fault of the
// whole process is under way with.
func on(r *rand.Rand, f func(ctx context.Context, i *Instance) (bool, error)) (string, act) {
	n := r.IntN(instances)
	return fmt.Sprintf("meterd-%d", n), func(ctx context.Context, w *World) (bool, error) {
		i := w.instances[n]
		i.busy.Lock()
		defer i.busy.Unlock()
		return f(ctx, i)
	}
}

// firing is how long an armed point or shot waits to be met.
const firing = 4 * time.Second

func killAt(r *rand.Rand) (string, act) {
	point, nth := pick(r, running), 1+r.IntN(12)
	who, do := on(r, func(ctx context.Context, i *Instance) (bool, error) {
		if err := i.Arm(point, "kill", nth); err != nil {
			return false, err
		}
		return i.Fired(ctx, firing), nil
	})
	return fmt.Sprintf("%s at %s, time %d", who, point, nth), do
}

// killStarting kills a process and then again on its way up, some times without
// its disk.
func killStarting(r *rand.Rand) (string, act) {
	point, wipe := pick(r, starting), r.IntN(2) == 0
	who, do := on(r, func(ctx context.Context, i *Instance) (bool, error) {
		i.Down()
		if wipe {
			if err := os.RemoveAll(i.dir); err != nil {
				return false, err
			}
		}
		if err := i.Arm(point, "kill", 1); err != nil {
			return false, err
		}
		if err := i.Start(); err != nil {
			return false, err
		}
		i.Fired(ctx, firing) // and without that, it was a kill
		return true, nil
	})
	return fmt.Sprintf("%s at %s, disk kept %v", who, point, !wipe), do
}

// killStopping kills a process that was told to stop.
func killStopping(r *rand.Rand) (string, act) {
	point := pick(r, stopping)
	who, do := on(r, func(ctx context.Context, i *Instance) (bool, error) {
		if err := i.Arm(point, "kill", 1); err != nil {
			return false, err
		}
		i.Terminate()
		return i.Fired(ctx, firing), nil
	})
	return who + " at " + point, do
}

func kill(r *rand.Rand) (string, act) {
	return on(r, func(_ context.Context, i *Instance) (bool, error) {
		i.Kill()
		return true, nil
	})
}

func killBurst(r *rand.Rand) (string, act) {
	var gaps []time.Duration
	for range 8 {
		gaps = append(gaps, between(r, 0, 600*time.Millisecond))
	}
	who, do := on(r, func(ctx context.Context, i *Instance) (bool, error) {
		for _, gap := range gaps {
			if !pause(ctx, gap) {
				return false, nil
			}
			i.Kill()
		}
		return true, nil
	})
	return fmt.Sprintf("%s after %v", who, gaps), do
}

// transactional are the requests of a transaction.
var transactional = []int16{
	proxy.EndTxn, proxy.EndTxn, proxy.AddPartitionsToTxn, proxy.AddOffsetsToTxn, proxy.TxnOffsetCommit, proxy.Produce,
}

// killUnanswered kills a process whose request is carried out and not answered,
// or that is to arrive after its death.
func killUnanswered(r *rand.Rand) (string, act) {
	shot := &proxy.Shot{Key: pick(r, transactional), Skip: r.IntN(6), What: proxy.DelayReply, Delay: time.Second}
	if r.IntN(3) == 0 {
		shot.What, shot.Delay = proxy.LateRequest, between(r, 100*time.Millisecond, 2*time.Second)
	}
	who, do := on(r, func(ctx context.Context, i *Instance) (bool, error) {
		hit := i.fire(ctx, shot)
		if hit {
			i.Kill()
		}
		return hit, nil
	})
	return who + " in " + shot.String(), do
}

// fire lets a shot meet a request, and takes it back if none comes.
func (i *Instance) fire(ctx context.Context, shot *proxy.Shot) bool {
	i.proxy.Fire(shot)
	select {
	case <-shot.Hit():
		return true
	case <-ctx.Done():
	case <-time.After(firing):
	}
	i.proxy.Withdraw(shot)
	return false
}

// stop lets a process stand still at a point, for less than its session.
func stop(r *rand.Rand) (string, act) {
	return standstill(r, running, between(r, 200*time.Millisecond, sessionTimeout/2))
}

// zombie lets it stand still until others have its partitions.
func zombie(r *rand.Rand) (string, act) {
	return standstill(r, unaware, between(r, sessionTimeout+2*time.Second, sessionTimeout+6*time.Second))
}

func standstill(r *rand.Rand, points []string, d time.Duration) (string, act) {
	point, nth := pick(r, points), 1+r.IntN(8)
	who, do := on(r, func(ctx context.Context, i *Instance) (bool, error) {
		if err := i.Arm(point, "stop", nth); err != nil {
			return false, err
		}
		if !i.Fired(ctx, firing) {
			i.Signal(syscall.SIGSTOP)
		}
		pause(ctx, d)
		i.Signal(syscall.SIGCONT)
		return true, nil
	})
	return fmt.Sprintf("%s at %s, time %d, for %s", who, point, nth, d), do
}

// reply loses or delays one request or its reply.
func reply(r *rand.Rand) (string, act) {
	others := []int16{
		proxy.InitProducerID, proxy.Fetch, proxy.Heartbeat, proxy.OffsetFetch, proxy.ListOffsets, proxy.Metadata,
		proxy.FindCoordinator, proxy.JoinGroup, proxy.SyncGroup,
	}
	shot := &proxy.Shot{
		Key: pick(r, transactional), Skip: r.IntN(8),
		What: pick(r, []proxy.Failure{proxy.LoseReply, proxy.Silence, proxy.DelayReply, proxy.LoseRequest, proxy.LateRequest}),
	}
	if r.IntN(3) == 0 {
		shot.Key, shot.Skip = pick(r, others), 0
	}
	if shot.What == proxy.DelayReply || shot.What == proxy.LateRequest {
		shot.Delay = between(r, 50*time.Millisecond, 5*time.Second)
	}
	return shoot(r, shot)
}

// endLost loses the end of a transaction, on either way, or lets it come late.
func endLost(r *rand.Rand) (string, act) {
	shot := &proxy.Shot{
		Key: proxy.EndTxn, Skip: r.IntN(4),
		What: pick(r, []proxy.Failure{proxy.LoseReply, proxy.Silence, proxy.LoseRequest, proxy.LateRequest}),
	}
	if shot.What == proxy.LateRequest {
		shot.Delay = between(r, 5*time.Millisecond, 400*time.Millisecond)
	}
	return shoot(r, shot)
}

func shoot(r *rand.Rand, shot *proxy.Shot) (string, act) {
	n := r.IntN(instances)
	return fmt.Sprintf("meterd-%d: %s", n, shot), func(ctx context.Context, w *World) (bool, error) {
		return w.instances[n].fire(ctx, shot), nil
	}
}

// refusals are codes that a broker may refuse a request with.
var refusals = map[int16][]int16{
	//                      14 loading, 15 not available, 16 not here, 47 epoch, 48 state, 49 mapping, 51 concurrent, 90 fenced
	proxy.InitProducerID:     {14, 15, 16, 51},
	proxy.AddPartitionsToTxn: {3, 14, 15, 16, 47, 48, 49, 51, 90},
	proxy.AddOffsetsToTxn:    {14, 15, 16, 47, 48, 51, 90},
	proxy.EndTxn:             {14, 15, 16, 47, 48, 51, 90},
	proxy.TxnOffsetCommit:    {14, 15, 16, 22, 25, 27, 47, 90}, // 22 generation, 25 member, 27 rebalance
	proxy.Produce:            {3, 6, 7, 19, 20, 45, 47, 59, 120},
	proxy.Fetch:              {56}, // storage
	proxy.OffsetFetch:        {14, 15, 16, 88},
	proxy.Heartbeat:          {15, 16, 22, 25, 27},
	proxy.JoinGroup:          {14, 15, 16},
	proxy.SyncGroup:          {15, 16, 27},
}

var refusable = []int16{
	proxy.InitProducerID, proxy.AddPartitionsToTxn, proxy.AddOffsetsToTxn, proxy.EndTxn, proxy.EndTxn, proxy.TxnOffsetCommit,
	proxy.TxnOffsetCommit, proxy.Produce, proxy.Produce, proxy.Fetch, proxy.OffsetFetch, proxy.Heartbeat, proxy.JoinGroup, proxy.SyncGroup,
}

func refusal(r *rand.Rand) (string, act) {
	key := pick(r, refusable)
	shot := &proxy.Shot{Key: key, What: proxy.Refuse, Code: pick(r, refusals[key]), Times: 1 + r.IntN(3)}
	if r.IntN(4) == 0 {
		shot.Times = 20
	}
	return shoot(r, shot)
}

func reset(r *rand.Rand) (string, act) {
	n := r.IntN(instances)
	return fmt.Sprintf("all connections of meterd-%d", n), func(_ context.Context, w *World) (bool, error) {
		w.instances[n].proxy.Reset()
		return true, nil
	}
}

func cut(r *rand.Rand) (string, act) {
	n, way := r.IntN(instances), r.IntN(3)
	d := between(r, 300*time.Millisecond, sessionTimeout+6*time.Second)
	text := []string{"to the brokers", "from the brokers", "both ways"}[way]
	return fmt.Sprintf("meterd-%d %s for %s", n, text, d), func(ctx context.Context, w *World) (bool, error) {
		i := w.instances[n]
		i.net.Lock()
		defer i.net.Unlock()
		p := i.proxy
		if way != 1 {
			p.Cut(proxy.ToBroker)
		}
		if way != 0 {
			p.Cut(proxy.ToClient)
		}
		defer p.Heal()
		pause(ctx, d)
		if d < sessionTimeout+time.Second || !i.busy.TryLock() {
			return true, nil
		}
		defer i.busy.Unlock()
		// it cannot know whether it is still a member
		return true, i.says(ctx, `"name":"group","ok":false`, time.Second)
	}
}

func slowLink(r *rand.Rand) (string, act) {
	n, d := r.IntN(instances), between(r, time.Second, 5*time.Second)
	link := pick(r, []proxy.Link{
		{Latency: 200 * time.Millisecond}, {Latency: 20 * time.Millisecond}, {Rate: 64 << 10}, {Slice: 1}, {Latency: 5 * time.Millisecond, Rate: 256 << 10},
	})
	return fmt.Sprintf("meterd-%d %+v for %s", n, link, d), func(ctx context.Context, w *World) (bool, error) {
		i := w.instances[n]
		i.net.Lock()
		defer i.net.Unlock()
		i.proxy.Slow(link)
		defer i.proxy.Heal()
		pause(ctx, d)
		return true, nil
	}
}

func brokerPause(r *rand.Rand) (string, act) {
	unit, d := r.IntN(3), between(r, 200*time.Millisecond, 5*time.Second)
	return fmt.Sprintf("%d for %s", unit, d), func(ctx context.Context, w *World) (bool, error) {
		w.broker.Lock()
		defer w.broker.Unlock()
		unit := unit % w.cluster.Units()
		if err := w.cluster.Pause(unit); err != nil {
			return false, err
		}
		pause(ctx, d)
		return true, w.cluster.Resume(unit)
	}
}

func brokerKill(r *rand.Rand) (string, act) {
	unit, d := r.IntN(3), between(r, 0, 3*time.Second)
	return fmt.Sprintf("%d for %s", unit, d), func(ctx context.Context, w *World) (bool, error) {
		w.broker.Lock()
		defer w.broker.Unlock()
		unit := unit % w.cluster.Units()
		if err := w.cluster.Kill(unit); err != nil {
			return false, err
		}
		pause(ctx, d)
		return true, w.cluster.Start(unit)
	}
}

func moves(what string) func(*rand.Rand) (string, act) {
	return func(*rand.Rand) (string, act) {
		return what, func(_ context.Context, w *World) (bool, error) {
			w.broker.Lock()
			defer w.broker.Unlock()
			err := w.cluster.Move(what)
			return !errors.Is(err, errors.ErrUnsupported), err
		}
	}
}

func registryFails(r *rand.Rand) (string, act) {
	how, d := pick(r, []string{refusing, hanging, slow, truncated, lying}), between(r, time.Second, 4*time.Second)
	n := r.IntN(instances)
	return fmt.Sprintf("%s for %s, while meterd-%d begins", how, d, n), func(ctx context.Context, w *World) (bool, error) {
		i := w.instances[n]
		i.busy.Lock()
		defer i.busy.Unlock()
		w.registry.Break(how)
		defer w.registry.Break("")
		i.Kill() // what it knows, it would not ask for
		pause(ctx, d)
		return true, nil
	}
}

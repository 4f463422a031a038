package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"time"

	"github.com/meterd/meterd/internal/loadgen"
)

func clientName(n int) string { return loadgen.ClientName(n) }

// recovery is how long everything may take to be well after all is healed: a
// JoinGroup that nobody answers is given up after 63 seconds.
const recovery = 100 * time.Second

// poll asks for the usage of clients, whoever answers, until ctx ends. The
// position that an answer is of never goes back.
func (w *World) poll(ctx context.Context, seed uint64) (answers int) {
	r := rand.New(rand.NewPCG(seed, 1))
	seen := map[int32]int64{}
	for pause(ctx, 15*time.Millisecond) {
		i := pick(r, w.instances)
		name := clientName(r.IntN(clients / 10))
		var answer struct {
			AsOf struct {
				Partition int32 `json:"partition"`
				Offset    int64 `json:"offset"`
			} `json:"as_of"`
		}
		if i.Get(ctx, "/v1/clients/"+url.PathEscape(name)+"/usage", &answer) != nil {
			continue // not ready, dead, or the client is not known yet
		}
		answers++
		at := answer.AsOf
		if at.Offset < seen[at.Partition] {
			w.violate("%s answered as of %d/%d, after an answer as of %d", i.name, at.Partition, at.Offset, seen[at.Partition])
		}
		seen[at.Partition] = max(seen[at.Partition], at.Offset)
	}
	return answers
}

// settled is how long things have to be well without a break: a rebalance may
// follow the one before.
const settled = 1500 * time.Millisecond

// ready waits until every partition is counted by one instance, each has its
// share, and all are well.
func (w *World) ready(ctx context.Context, limit time.Duration) error {
	until := time.Now().Add(limit)
	since := time.Now()
	for {
		err := w.counted(ctx)
		if err != nil {
			since = time.Now()
		} else if time.Since(since) > settled {
			return nil
		}
		if time.Now().After(until) || !pause(ctx, 50*time.Millisecond) {
			if err == nil {
				err = ctx.Err()
			}
			return fmt.Errorf("not well after %s: %w", limit, err)
		}
	}
}

var errPartitions = errors.New("partitions are not shared out")

// counted tells what is not well.
func (w *World) counted(ctx context.Context) error {
	for _, i := range w.instances {
		owned := 0
		var answer struct {
			Checks []struct {
				Name string `json:"name"`
			} `json:"checks"`
		}
		if err := i.Get(ctx, "/readyz?verbose", &answer); err != nil {
			return err
		}
		for _, c := range answer.Checks {
			if strings.HasPrefix(c.Name, "partition-") {
				owned++
			}
		}
		if owned != partitions/len(w.instances) {
			return fmt.Errorf("%w: %s has %d of %d", errPartitions, i.name, owned, partitions)
		}
	}
	return nil
}

// verify has meterd recount everything.
func (w *World) verify(ctx context.Context, via *Instance) (string, error) {
	args := []string{"--wait", recovery.String(), "--http", "http://" + via.address}
	for _, l := range w.sorted() {
		args = append(args, "--ledger", l)
	}
	out, err := w.command(ctx, "verify", args...)
	for range 2 { // partitions may have moved once more meanwhile
		if err == nil || !strings.Contains(out, "503 Service Unavailable") || w.ready(ctx, recovery) != nil {
			break
		}
		out, err = w.command(ctx, "verify", args...)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1], err
}

// stuck demands that no transaction is open on any topic.
func (w *World) stuck(ctx context.Context) error {
	until := time.Now().Add(recovery)
	for {
		ends, err := w.admin.ListEndOffsets(ctx)
		if err != nil {
			return err
		}
		stable, err := w.admin.ListCommittedOffsets(ctx)
		if err != nil {
			return err
		}
		var open strings.Builder
		for topic, list := range stable {
			for partition, s := range list {
				if end, ok := ends.Lookup(topic, partition); ok && end.Err == nil && s.Err == nil && s.Offset < end.Offset {
					fmt.Fprintf(&open, " %s/%d is stable to %d of %d;", topic, partition, s.Offset, end.Offset)
				}
			}
		}
		if open.Len() == 0 {
			return nil
		}
		if time.Now().After(until) || !pause(ctx, 200*time.Millisecond) {
			return fmt.Errorf("transactions are open after %s:%s", recovery, open.String())
		}
	}
}

// check demands that everything is right, now that all is healed.
func (w *World) check(ctx context.Context) {
	began := time.Now()
	if err := w.ready(ctx, recovery); err != nil {
		w.violate("%v", err)
		return
	}
	well := time.Since(began)
	if w.past != "" { // it waits for what is pending, of which answers could change between two looks
		if err := w.wholeTotals(ctx, w.instances[0]); err != nil {
			w.violate("%v", err)
		}
	}
	line, err := w.verify(ctx, w.instances[0])
	if err != nil {
		w.violate("%v", err)
	}
	if err := w.stuck(ctx); err != nil {
		w.violate("%v", err)
	}
	w.log("well after %s; %s", well.Round(time.Millisecond), line)
	// What is on disk is as right: they stop, and go on with it.
	if err := w.each(func(i *Instance) error { return i.Stop() }); err != nil {
		w.violate("%v", err)
	}
	if err := w.each(func(i *Instance) error { return i.Start() }); err != nil {
		w.violate("%v", err)
	}
	if err := w.ready(ctx, recovery); err != nil {
		w.violate("after a clean stop: %v", err)
	}
	if line, err = w.verify(ctx, w.instances[len(w.instances)-1]); err != nil {
		w.violate("after a clean stop: %v", err)
	}
	w.log("after a clean stop: %s", line)
}

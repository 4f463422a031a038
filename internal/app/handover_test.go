package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/ingest"
)

// tour is a contract that goes to and fro between clients of two partitions,
// each of whom has used 60 % of its limit.
type tour struct {
	w       *world
	clients []string
	moves   int
}

func newTour(w *world) *tour {
	first := "client-0"
	second := ""
	for i := 1; second == ""; i++ {
		if c := fmt.Sprintf("client-%d", i); w.owner([]byte(c), w.parts) != w.owner([]byte(first), w.parts) {
			second = c
		}
	}
	tr := &tour{w: w, clients: []string{first, second}}
	for _, c := range tr.clients {
		w.use("1", c, "bytes", 600, time.Now())
	}
	return tr
}

func (tr *tour) at() string { return tr.clients[tr.moves%2] }

func (tr *tour) move() {
	tr.moves++
	tr.w.contract("tour", fmt.Sprintf(`{"id":"tour","client":%q,"starts_at":"2020-01-01T00:00:00Z","limits":[
		{"id":"traffic","meter":"bytes","limit":"1000","thresholds":["50%%"]}]}`, tr.at()))
}

// told waits until there are limit events of the present client, and demands
// that all numbers and ids are there once, without gaps.
func (tr *tour) told(t *testing.T) []limitEvent {
	t.Helper()
	var events []limitEvent
	require.Eventually(t, func() bool {
		events = tr.w.limitEvents()
		slices.SortFunc(events, func(a, b limitEvent) int { return int(a.Sequence - b.Sequence) })
		n := len(events)
		return n > 0 && events[n-1].Kind == "crossed" && events[n-1].Client == tr.at()
	}, patience, 20*time.Millisecond, "%s is told nothing", tr.at())
	events = tr.w.limitEvents() // partitions are read one after the other: now none can miss what came before the last
	slices.SortFunc(events, func(a, b limitEvent) int { return int(a.Sequence - b.Sequence) })
	ids := map[string]bool{}
	for i, e := range events {
		require.EqualValues(t, i+1, e.Sequence, "%+v", events)
		require.False(t, ids[e.ID], "id %s is there twice", e.ID)
		ids[e.ID] = true
	}
	return events
}

func TestNumbersFollowAContractBetweenPartitions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	tr := newTour(w)
	tr.move()
	d := w.start(nil)
	tr.told(t)
	for range 3 {
		tr.move()
		events := tr.told(t)
		require.Len(t, events, 2*tr.moves-1, "each move clears and crosses")
	}
	require.NoError(t, d.end())
	tr.move() // while nobody looks
	second := w.start(nil)
	tr.told(t)
	require.NoError(t, second.end())
	w.verified(t)
}

func TestNumbersFollowAContractBetweenInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	tr := newTour(w)
	tr.move()
	first := w.start(nil)
	tr.told(t)
	w.cfg.State.Dir = t.TempDir()
	second := w.start(nil)
	require.Eventually(t, func() bool {
		var answer struct {
			Instances []struct{ Partitions []struct{ State string } }
		}
		status, body := first.get(t, "/v1/assignments")
		return status == http.StatusOK && json.Unmarshal([]byte(body), &answer) == nil && len(answer.Instances) == 2 &&
			!slices.ContainsFunc(answer.Instances, func(i struct{ Partitions []struct{ State string } }) bool {
				return len(i.Partitions) != 1 || i.Partitions[0].State != "running"
			})
	}, patience, 20*time.Millisecond)
	for range 4 {
		tr.move()
		require.Len(t, tr.told(t), 2*tr.moves-1)
	}
	require.NoError(t, first.end())
	tr.move()
	tr.told(t)
	require.NoError(t, second.end())
	w.verified(t)
}

// Whatever a daemon was doing when it died while a contract moved, no number is
// given twice or left out.
func TestDeathWhileAContractMoves(t *testing.T) {
	t.Parallel()
	for _, step := range []ingest.Step{ingest.StepCommitting, ingest.StepCommitted, ingest.StepFlushed} {
		for nth := 3; nth <= 5; nth++ {
			t.Run(fmt.Sprintf("%s %d", step, nth), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 2)
				tr := newTour(w)
				tr.move()
				k := killAt(step, nth)
				first := w.start(k.step)
				for round := range 4 {
					select {
					case <-k.dead:
					case <-time.After(60 * time.Millisecond): // lets commits happen in between
					}
					w.use(fmt.Sprint("more", round), tr.at(), "bytes", 1, time.Now())
					tr.move()
				}
				_ = first.end() // it may have been killed or not
				second := w.start(nil)
				tr.told(t)
				require.NoError(t, second.end())
				w.verified(t)
			})
		}
	}
}

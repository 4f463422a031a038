package httpapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// nearLimit is a limit of an active contract, with how much of it is used.
// Complete is false while history is to add to that.
type nearLimit struct {
	Client      string                `json:"client"`
	Contract    string                `json:"contract"`
	LimitID     string                `json:"limit_id"`
	Meter       string                `json:"meter"`
	Dimensions  map[string]string     `json:"dimensions"`
	Enforcement contracts.Enforcement `json:"enforcement"`
	Limit       string                `json:"limit"`
	Usage       string                `json:"usage"`
	Utilization string                `json:"utilization"`
	Blocked     bool                  `json:"blocked"`
	Complete    bool                  `json:"complete"`
	NextReset   usage.Time            `json:"next_reset"`
}

// UnmarshalJSON reads null as no end.
func (l *nearLimit) UnmarshalJSON(data []byte) error {
	type plain nearLimit
	open := plain{NextReset: usage.MaxTime}
	if err := json.Unmarshal(data, &open); err != nil {
		return fmt.Errorf("limit: %w", err)
	}
	*l = nearLimit(open)
	return nil
}

// share is Utilization as a number, for the order alone.
func (l *nearLimit) share() float64 {
	share, _ := strconv.ParseFloat(l.Utilization, 64) // it always is one
	return share
}

const (
	// nearestEvery is how long the nearest limits are shown at least, and
	// nearestRest how many times as long as it took to find them: looking at all
	// clients that have contracts is never more than a small part of the work.
	nearestEvery = 5 * time.Second
	nearestRest  = 50
)

// nearest are the limits of clients of this instance that are used most, found
// anew now and then while somebody asks.
type nearest struct {
	mu    sync.Mutex // guards all below
	list  []nearLimit
	until time.Time
}

func (n *nearest) get(s *Server) []nearLimit {
	n.mu.Lock()
	defer n.mu.Unlock()
	if began := s.parts.Now(); began.After(n.until) {
		n.list = s.findNearest()
		now := s.parts.Now()
		n.until = now.Add(max(nearestEvery, nearestRest*now.Sub(began)))
	}
	return n.list
}

// noCounters selects no counter, and all limits.
var noCounters = aggregate.Selection{Period: "-", Dimensions: map[string]string{"": ""}}

func (s *Server) findNearest() []nearLimit {
	var list []nearLimit
	seen := map[string]bool{}
	for _, e := range s.parts.Contracts.Entries() {
		if e.Contract == nil || seen[e.Contract.Client] {
			continue
		}
		seen[e.Contract.Client] = true
		reader, ok := s.parts.Partitions.Running(s.parts.Partitions.Of(e.Contract.Client))
		if !ok {
			continue
		}
		view := reader.View(e.Contract.Client, noCounters)
		for i := range view.Limits {
			if v := &view.Limits[i]; !v.Ended && v.Contract.StartsAt <= view.AsOf.Time {
				list = append(list, near(&view, v))
			}
		}
		if len(list) > 100*maxNearest {
			list = nearestOf(list)
		}
	}
	return nearestOf(list)
}

func near(view *aggregate.View, v *aggregate.LimitView) nearLimit {
	l := showLimit(v)
	return nearLimit{
		Client: view.Client, Contract: l.Contract, LimitID: l.LimitID, Meter: l.Meter, Dimensions: l.Dimensions, Enforcement: l.Enforcement,
		Limit: l.Limit, Usage: l.Usage, Utilization: l.Utilization, Blocked: l.Blocked, Complete: v.Seed.Complete() && view.Known,
		NextReset: l.NextReset,
	}
}

// nearestOf returns the first of list, which it sorts, most used first.
func nearestOf(list []nearLimit) []nearLimit {
	slices.SortFunc(list, func(a, b nearLimit) int {
		return cmp.Or(
			-cmp.Compare(a.share(), b.share()), cmp.Compare(a.Client, b.Client), cmp.Compare(a.Contract, b.Contract), cmp.Compare(a.LimitID, b.LimitID),
		)
	})
	return append([]nearLimit{}, list[:min(len(list), maxNearest)]...)
}

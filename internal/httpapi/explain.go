package httpapi

import (
	"net/http"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

type explainAnswer struct {
	Client    string             `json:"client"`
	AsOf      asOf               `json:"as_of"`
	Complete  bool               `json:"complete"`
	Contracts []contractRef      `json:"contracts"`
	Counters  []explainedCounter `json:"counters"`
	Limits    []explainedLimit   `json:"limits"`
}

// contractRef is a revision in force of which a limit is explained.
type contractRef struct {
	ID       string          `json:"id"`
	State    contracts.State `json:"state"`
	Revision int64           `json:"revision"`
	StartsAt usage.Time      `json:"starts_at"`
	EndsAt   usage.Time      `json:"ends_at"`
}

// explainedCounter is a counter and where its total comes from: what history
// knew is its seed, what the stream brought is Counted.
type explainedCounter struct {
	counter
	Scope   *scope  `json:"scope"`
	Counted counted `json:"counted"`
}

// scope says for which contract a counter is kept, and what it takes; null for
// one of the default schedule.
type scope struct {
	Contract string     `json:"contract"`
	Period   usage.Kind `json:"period"`
	Timezone string     `json:"timezone"`
}

// counted are the records of the usage topic from the offset From up to, and
// without, To. Usage is null where the meter does not add up.
type counted struct {
	From   int64   `json:"from"`
	To     int64   `json:"to"`
	Events int64   `json:"events"`
	Usage  *string `json:"usage"`
}

type explainedLimit struct {
	limit
	Events []told `json:"events"`
}

// told is a limit event that was told in the period of the limit.
type told struct {
	ID string `json:"id"`
	aggregate.Telling
}

// explain answers how the numbers of a client came about.
func (s *Server) explain(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "meter")
	if err != nil {
		return err
	}
	sel := aggregate.Selection{Meter: values.Get("meter")}
	if sel.Meter != "" {
		if _, err := s.meter(sel.Meter); err != nil {
			return err
		}
	}
	return s.ofClient(w, r, sel, func(view aggregate.View, at asOf) (any, error) {
		if !view.Known && len(view.Counters) == 0 {
			return nil, refuse(errIncomplete, "history is being asked for this client")
		}
		a := explainAnswer{
			Client: view.Client, AsOf: at, Complete: view.Complete && view.Known, Contracts: []contractRef{},
			Counters: make([]explainedCounter, 0, len(view.Counters)), Limits: []explainedLimit{},
		}
		for i := range view.Counters {
			a.Counters = append(a.Counters, s.explainCounter(&view.Counters[i], at.Offset))
		}
		now := view.AsOf.Time
		for i := range view.Limits {
			v := &view.Limits[i]
			if sel.Meter != "" && v.Limit.MeterName != sel.Meter {
				continue
			}
			a.Limits = append(a.Limits, s.explainLimit(v))
			c := v.Contract
			if !slices.ContainsFunc(a.Contracts, func(known contractRef) bool { return known.ID == c.ID }) {
				a.Contracts = append(a.Contracts, contractRef{c.ID, c.State(now), c.Revision, c.StartsAt, c.EndsAt})
			}
		}
		return a, nil
	})
}

func (s *Server) explainCounter(v *aggregate.CounterView, position int64) explainedCounter {
	c := explainedCounter{
		counter: showCounter(v),
		Counted: counted{From: v.Seed.Boundary, To: position, Events: v.Events - v.Seed.Events},
	}
	if !v.Scope.Default() {
		c.Scope = &scope{Contract: v.Scope.Contract, Period: v.Scope.Kind, Timezone: v.Scope.Timezone}
	}
	m := s.parts.Catalog.Find(v.Meter)
	if m < 0 {
		return c
	}
	switch s.parts.Catalog.Meters[m].Aggregation {
	case usage.Sum, usage.Count:
		if q, ok := v.Total.Add(-v.Seed.Usage); ok {
			text := q.Format(v.Decimals)
			c.Counted.Usage = &text
		}
	}
	return c
}

func (s *Server) explainLimit(v *aggregate.LimitView) explainedLimit {
	l := explainedLimit{limit: showLimit(v), Events: make([]told, 0, len(v.Told))}
	for _, t := range v.Told {
		if t.Labels == nil {
			t.Labels = []string{}
		}
		id := alerts.Identity{
			ApplicationID: s.cfg.ApplicationID, Contract: v.Contract.ID, Limit: v.Limit.ID,
			Dimensions: v.Dimensions, Period: v.Period.ID, Sequence: t.Sequence,
		}
		l.Events = append(l.Events, told{ID: id.ID(), Telling: t})
	}
	return l
}

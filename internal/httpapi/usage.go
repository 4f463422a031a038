package httpapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// asOf says what an answer stands on: all records of the partition below
// Offset. Time is the clock's when that was committed or, while there is nothing
// to commit, when meterd last looked.
type asOf struct {
	Topic      string     `json:"topic"`
	Partition  int32      `json:"partition"`
	Offset     int64      `json:"offset"`
	Time       usage.Time `json:"time"`
	LagRecords int64      `json:"lag_records"`
}

// UnmarshalJSON reads null as a time before all others.
func (a *asOf) UnmarshalJSON(data []byte) error {
	type plain asOf
	open := plain{Time: usage.MinTime}
	if err := json.Unmarshal(data, &open); err != nil {
		return fmt.Errorf("as_of: %w", err)
	}
	*a = asOf(open)
	return nil
}

type usageAnswer struct {
	Client   string    `json:"client"`
	AsOf     asOf      `json:"as_of"`
	Complete bool      `json:"complete"`
	Counters []counter `json:"counters"`
}

// counter is a counter. Overflow marks the one that takes what is beyond the
// combinations of values that are kept apart. Estimated says that Usage is
// within Error of what is right, relatively and in one standard deviation.
type counter struct {
	Meter      string            `json:"meter"`
	Dimensions map[string]string `json:"dimensions"`
	Overflow   bool              `json:"overflow,omitempty"`
	Period     alerts.PeriodInfo `json:"period"`
	Usage      string            `json:"usage"`
	Estimated  bool              `json:"estimated,omitempty"`
	Error      string            `json:"error,omitempty"`
	Events     int64             `json:"events"`
	Seed       seed              `json:"seed"`
	FirstEvent usage.Time        `json:"first_event"`
	LastEvent  usage.Time        `json:"last_event"`
	Limits     []limitRef        `json:"limits"`
}

// seed is what a counter has from history. Cut and Bound are there where that
// is not exact.
type seed struct {
	State    aggregate.SeedState `json:"state"`
	Usage    string              `json:"usage"`
	Boundary int64               `json:"boundary"`
	Cut      *usage.Time         `json:"cut,omitempty"`
	Bound    string              `json:"bound,omitempty"`
}

// boundText says how far from right a bounded seed may be.
const boundText = "history was asked for what lies before the time cut, the stream for what stands from the offset boundary on: " +
	"what only one of the two puts on its side of the seam is missing or there twice"

type limitRef struct {
	Contract string `json:"contract"`
	LimitID  string `json:"limit_id"`
}

type limitsAnswer struct {
	Client   string  `json:"client"`
	AsOf     asOf    `json:"as_of"`
	Complete bool    `json:"complete"`
	Limits   []limit `json:"limits"`
}

type limit struct {
	Contract         string                `json:"contract"`
	ContractRevision int64                 `json:"contract_revision"`
	LimitID          string                `json:"limit_id"`
	Meter            string                `json:"meter"`
	Dimensions       map[string]string     `json:"dimensions"`
	Enforcement      contracts.Enforcement `json:"enforcement"`
	Limit            string                `json:"limit"`
	Usage            string                `json:"usage"`
	Remaining        string                `json:"remaining"`
	Utilization      string                `json:"utilization"`
	Thresholds       []threshold           `json:"thresholds"`
	Period           alerts.PeriodInfo     `json:"period"`
	NextReset        usage.Time            `json:"next_reset"`
	Blocked          bool                  `json:"blocked"`
}

type threshold struct {
	Threshold string `json:"threshold"`
	Value     string `json:"value"`
	Crossed   bool   `json:"crossed"`
}

// usage answers with the counters of a client.
func (s *Server) usage(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "meter", "period", "dimensions...")
	if err != nil {
		return err
	}
	sel := aggregate.Selection{Meter: values.Get("meter"), Period: values.Get("period")}
	if sel.Dimensions, err = dimensions(values["dimensions"]); err != nil {
		return err
	}
	return s.ofClient(w, r, sel, func(view aggregate.View, at asOf) (any, error) {
		if !view.Known && len(view.Counters) == 0 {
			return nil, refuse(errIncomplete, "history is being asked for this client")
		}
		a := usageAnswer{Client: view.Client, AsOf: at, Complete: view.Complete && view.Known, Counters: make([]counter, 0, len(view.Counters))}
		for i := range view.Counters {
			a.Counters = append(a.Counters, showCounter(&view.Counters[i]))
		}
		return a, nil
	})
}

// limits answers with the limits of a client. Which limits there are is known
// from the contracts, also for a client of whom history is yet to tell.
func (s *Server) limits(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return s.ofClient(w, r, aggregate.Selection{}, func(view aggregate.View, at asOf) (any, error) {
		a := limitsAnswer{Client: view.Client, AsOf: at, Limits: make([]limit, 0, len(view.Limits))}
		for i := range view.Limits {
			a.Limits = append(a.Limits, showLimit(&view.Limits[i]))
		}
		a.Complete = view.Complete && (view.Known || len(a.Limits) == 0)
		return a, nil
	})
}

// show makes an answer of what was committed of a client.
type show func(aggregate.View, asOf) (any, error)

// ofClient answers a GET from the partition of the client in the path.
func (s *Server) ofClient(w http.ResponseWriter, r *http.Request, sel aggregate.Selection, show show) error {
	client, err := pathID(r, "client")
	if err != nil {
		return err
	}
	return s.atOwner(w, r, question{client: client, selection: sel}, show)
}

// question is what a request wants to know of a client. Body is the request's,
// for passing it on.
type question struct {
	client    string
	selection aggregate.Selection
	body      []byte
}

// atOwner answers from the partition of a client, here or where it runs.
func (s *Server) atOwner(w http.ResponseWriter, r *http.Request, q question, show show) error {
	client := q.client
	partition := s.parts.Partitions.Of(client)
	reader, ok := s.parts.Partitions.Running(partition)
	if !ok {
		return s.peers.relay(w, r, partition, q.body)
	}
	view := reader.View(client, q.selection)
	lag := max(0, reader.Lag())
	if !view.Known {
		s.parts.LookUp(partition, client)
	}
	at := asOf{Topic: s.cfg.Topic, Partition: partition, Offset: view.AsOf.Position, Time: view.AsOf.At, LagRecords: lag}
	v, err := show(view, at)
	// The partition may have been ours when we looked, then the process slept,
	// another instance took it over and counted on, and somebody read that: what
	// we saw would make their numbers go back.
	if _, ok := s.parts.Partitions.Running(partition); !ok {
		return refuse(errNotReady, "partition %d is being handed over", partition)
	}
	if err != nil {
		return err
	}
	if r.Method == http.MethodPost {
		return answer(w, v)
	}
	return answerNumbers(w, r, v, func() (any, error) { return show(view, asOf{}) })
}

// answerNumbers answers a GET with v. Its entity tag is that of what it is
// without its as_of, which bare makes.
func answerNumbers(w http.ResponseWriter, r *http.Request, v any, bare func() (any, error)) error {
	numbers, err := bare()
	if err != nil {
		return err
	}
	tagged, err := encode(numbers)
	if err != nil {
		return err
	}
	body, err := encode(v)
	if err != nil {
		return err
	}
	return answerTagged(w, r, weakTag(tagged), body)
}

func showPeriod(p usage.Period) alerts.PeriodInfo {
	return alerts.PeriodInfo{ID: p.ID, Start: p.Start, End: p.End, Timezone: p.Timezone}
}

func showCounter(v *aggregate.CounterView) counter {
	c := counter{
		Meter: v.Meter, Dimensions: showDimensions(v.Dimensions), Overflow: overflow(v.Dimensions), Period: showPeriod(v.Period),
		Usage: v.Total.Format(v.Decimals), Events: v.Events, Seed: showSeed(v),
		FirstEvent: v.First, LastEvent: v.Last, Limits: make([]limitRef, 0, len(v.Limits)),
	}
	if v.Estimated {
		c.Estimated, c.Error = true, aggregate.DistinctError
	}
	for _, l := range v.Limits {
		c.Limits = append(c.Limits, limitRef{Contract: l.Contract, LimitID: l.Limit})
	}
	return c
}

func showSeed(v *aggregate.CounterView) seed {
	shown := seed{State: v.Seed.State, Usage: v.Seed.Usage.Format(v.Decimals), Boundary: v.Seed.Boundary}
	if v.Seed.State == aggregate.SeedBounded {
		cut := v.Seed.Cut
		shown.Cut, shown.Bound = &cut, boundText
	}
	return shown
}

// showDimensions returns values, {} for none.
func showDimensions(values map[string]string) map[string]string {
	if values == nil {
		return map[string]string{}
	}
	return maps.Clone(values)
}

// overflow tells whether values are those of what is beyond the combinations
// that are kept apart.
func overflow(values map[string]string) bool {
	for _, value := range values {
		if value != usage.OverflowValue {
			return false
		}
	}
	return len(values) > 0
}

func showLimit(v *aggregate.LimitView) limit {
	l, decimals := v.Limit, v.Limit.Decimals
	shown := limit{
		Contract: v.Contract.ID, ContractRevision: v.Contract.Revision, LimitID: l.ID, Meter: l.MeterName,
		Dimensions: showDimensions(v.Dimensions), Enforcement: l.Enforcement,
		Limit: l.Value.Format(decimals), Usage: v.Total.Format(decimals), Remaining: alerts.Remaining(l, v.Total),
		Utilization: usage.Utilization(v.Total, l.Value), Thresholds: make([]threshold, 0, len(l.Thresholds)),
		Period: showPeriod(v.Period), NextReset: v.Period.End, Blocked: alerts.Blocked(l, v.Total),
	}
	if v.Ended {
		shown.Blocked, shown.NextReset = false, usage.MaxTime
	}
	for _, t := range l.Thresholds {
		stands := slices.ContainsFunc(v.Standing, func(o contracts.Threshold) bool { return o.Label == t.Label })
		shown.Thresholds = append(shown.Thresholds, threshold{Threshold: t.Label, Value: t.Value.Format(decimals), Crossed: stands})
	}
	return shown
}

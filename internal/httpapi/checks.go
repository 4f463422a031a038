package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// maxChecks bounds the uses of one request.
const maxChecks = 100

// checksAnswer has a decision for each use, in their order. Each stands for
// itself: a use before it in the request is not counted.
type checksAnswer struct {
	Allowed bool          `json:"allowed"`
	Results []checkAnswer `json:"results"`
}

// checkAll answers for several uses, all of them or none.
func (s *Server) checkAll(w http.ResponseWriter, r *http.Request, requests []checkRequest, uses []*alerts.Use) error {
	results, err := s.decideAll(r, requests, uses)
	if err != nil {
		return err
	}
	a := checksAnswer{Allowed: true, Results: results}
	for i := range results {
		a.Allowed = a.Allowed && results[i].Allowed
	}
	return answer(w, a)
}

// decideAll decides about uses: those whose partitions run here, and has the
// others decided by the instances that have them, each of which is asked once.
func (s *Server) decideAll(r *http.Request, requests []checkRequest, uses []*alerts.Use) ([]checkAnswer, error) {
	results := make([]checkAnswer, len(uses))
	elsewhere := map[string][]int{} // by instance
	owners := map[string]Instance{}
	for i, use := range uses {
		partition := s.parts.Partitions.Of(requests[i].Client)
		decided, here, err := s.decideHere(partition, requests[i].Client, use)
		switch {
		case err != nil:
			return nil, err
		case here:
			results[i] = decided
			continue
		}
		owner, ok := s.peers.owner(partition)
		if !ok || forwarded(r) {
			return nil, refuse(errNotReady, "partition %d is not running yet", partition)
		}
		owners[owner.ID] = owner
		elsewhere[owner.ID] = append(elsewhere[owner.ID], i)
	}
	group, ctx := errgroup.WithContext(r.Context())
	group.SetLimit(maxAsked)
	r = r.WithContext(ctx)
	for id, places := range elsewhere {
		group.Go(func() error { return s.decideThere(r, owners[id], requests, places, results) })
	}
	return results, group.Wait()
}

// decideHere decides about a use, and returns false where the partition does
// not run here all the time.
func (s *Server) decideHere(partition int32, client string, use *alerts.Use) (a checkAnswer, here bool, err error) {
	reader, ok := s.parts.Partitions.Running(partition)
	if !ok {
		return a, false, nil
	}
	view := reader.View(client, aggregate.Selection{Meter: use.Meter, Dimensions: s.allDimensions(use)})
	if !view.Known {
		s.parts.LookUp(partition, client)
	}
	at := asOf{Topic: s.cfg.Topic, Partition: partition, Offset: view.AsOf.Position, Time: view.AsOf.At, LagRecords: max(0, reader.Lag())}
	limits, err := s.applying(&view, use)
	if _, ok := s.parts.Partitions.Running(partition); !ok { // as in atOwner
		return a, false, nil
	}
	if err != nil {
		return a, true, err
	}
	return decide(limits, use, at), true, nil
}

// decideThere has another instance decide about the requests at places, and
// puts its results there.
func (s *Server) decideThere(r *http.Request, owner Instance, requests []checkRequest, places []int, results []checkAnswer) error {
	var all struct {
		Checks []checkRequest `json:"checks"`
	}
	for _, i := range places {
		all.Checks = append(all.Checks, requests[i])
	}
	body, err := encode(all)
	if err != nil {
		return err
	}
	reply, err := s.peers.ask(r, owner, body)
	if err != nil {
		return refuse(errNotReady, "an instance that has partitions of these clients does not answer").because(err)
	}
	var a checksAnswer
	switch {
	case reply.status != http.StatusOK:
		return passedOn(&reply)
	case json.Unmarshal(reply.body, &a) != nil || len(a.Results) != len(places):
		return refuse(errNotReady, "an instance that has partitions of these clients does not answer").
			because(fmt.Errorf("instance %s: not a result for each of %d checks", owner.ID, len(places)))
	}
	for n, i := range places {
		results[i] = a.Results[n]
	}
	return nil
}

// passedOn is what another instance refused, for the one that asked us.
func passedOn(reply *reply) error {
	var p problem
	if json.Unmarshal(reply.body, &p) == nil {
		for _, k := range kinds {
			if p.Type == "/problems/"+k.name && p.Status == k.status {
				return refuse(k.err, "%s", p.Detail)
			}
		}
	}
	return refuse(errNotReady, "another instance answers with status %d", reply.status)
}

// Use is what Check is asked about.
type Use struct {
	Client     string
	Meter      string
	Quantity   string // a decimal
	Dimensions map[string]string
}

// Decision is what Check says of a use: its limits are those that apply.
type Decision struct {
	Allowed bool
	Limits  []DecidedLimit
}

// DecidedLimit is a limit as it is before a use. NextReset is usage.MaxTime
// where there is none.
type DecidedLimit struct {
	Contract, LimitID string
	Soft              bool
	Limit, Remaining  string
	Allowed           bool
	NextReset         usage.Time
}

// Check decides as POST /v1/check does, for those who ask by another protocol
// with the same tokens: authorization is what they have in place of the header.
// StatusOf tells what an error is.
func (s *Server) Check(ctx context.Context, authorization string, uses []Use) ([]Decision, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, pathCheck, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	g, err := s.granted(r)
	if err != nil {
		return nil, err
	}
	requests := make([]checkRequest, len(uses))
	for i, u := range uses {
		quantity, err := json.Marshal(u.Quantity)
		if err != nil {
			return nil, fmt.Errorf("check: %w", err)
		}
		requests[i] = checkRequest{Client: u.Client, Meter: u.Meter, Quantity: quantity, Dimensions: u.Dimensions}
		if u.Client == "" {
			return nil, refuse(errBadRequest, "client: is missing")
		}
		if err := checkID("client", u.Client); err != nil {
			return nil, err
		}
		if err := g.allows(g.checks(u.Client)); err != nil {
			return nil, err
		}
	}
	checked, err := s.usesOf(requests, true)
	if err != nil {
		return nil, err
	}
	results, err := s.decideAll(r, requests, checked)
	if err != nil {
		return nil, err
	}
	decisions := make([]Decision, len(results))
	for i := range results {
		decisions[i] = results[i].decision()
	}
	return decisions, nil
}

func (a *checkAnswer) decision() Decision {
	d := Decision{Allowed: a.Allowed}
	for _, l := range a.Limits {
		d.Limits = append(d.Limits, DecidedLimit{
			Contract: l.Contract, LimitID: l.LimitID, Soft: l.Enforcement == contracts.Soft, Limit: l.Limit, Remaining: l.Remaining,
			Allowed: l.Allowed, NextReset: l.NextReset,
		})
	}
	return d
}

// StatusOf returns the status of an error of Check, and what its client may be
// told of it.
func StatusOf(err error) (status int, detail string) {
	p := problemOf(err)
	return p.Status, p.Detail
}

// UnmarshalJSON reads null as no end.
func (l *checkedLimit) UnmarshalJSON(data []byte) error {
	type plain checkedLimit
	open := plain{NextReset: usage.MaxTime}
	if err := json.Unmarshal(data, &open); err != nil {
		return fmt.Errorf("limit: %w", err)
	}
	*l = checkedLimit(open)
	return nil
}

package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

const (
	// inForceTimeout is how long a reader waits until all partitions judge by
	// the revision that it is to see.
	inForceTimeout = 2 * time.Second
	inForcePoll    = 5 * time.Millisecond
	// maxPageBytes ends a page of contracts before its limit of entries.
	maxPageBytes = 8 << 20
)

type contractsAnswer struct {
	Contracts []contract `json:"contracts"`
	Next      string     `json:"next"`
}

// contract is a revision. Reason is null unless it was rejected; then Contract
// is null where the revision is not JSON.
type contract struct {
	ID       string          `json:"id"`
	State    contracts.State `json:"state"`
	Revision int64           `json:"revision"`
	Reason   *string         `json:"reason"`
	Contract json.RawMessage `json:"contract"`
}

// inForce returns the last good revision of e. There must be one.
func inForce(e *contracts.Entry, now usage.Time) contract {
	return contract{ID: e.ID, State: e.Contract.State(now), Revision: e.Contract.Revision, Contract: e.Contract.Raw}
}

// rejected returns the bad revision on top of e. There must be one.
func rejected(e *contracts.Entry) contract {
	c := contract{ID: e.ID, State: contracts.Rejected, Revision: e.Revision, Reason: &e.Reason}
	if len(e.Raw) <= contracts.MaxBytes && utf8.Valid(e.Raw) && json.Valid(e.Raw) {
		c.Contract = e.Raw
	}
	return c
}

// client returns the client that a rejected revision names, or "".
func (c *contract) client() string {
	var named struct {
		Client string `json:"client"`
	}
	if json.Unmarshal(c.Contract, &named) != nil {
		return "" // it was rejected for a reason
	}
	return named.Client
}

// contracts answers with a page of revisions in the order of contract ids: of
// each contract the one in force, and then a rejected one that came later. The
// two are never parted, so a page may have one entry more than was asked for.
func (s *Server) contracts(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "state", "client", "after", "limit")
	if err != nil {
		return err
	}
	after, limit, err := page(values)
	if err != nil {
		return err
	}
	state, client := contracts.State(values.Get("state")), values.Get("client")
	switch state {
	case "", contracts.Active, contracts.Future, contracts.Ended, contracts.Rejected:
	default:
		return refuse(errBadRequest, "state: not one of active, future, ended, rejected")
	}
	if err := checkID("client", client); err != nil {
		return err
	}
	if client, err = s.ownClient(r, client); err != nil {
		return err
	}
	now := usage.TimeOf(s.parts.Now())
	a := contractsAnswer{Contracts: []contract{}}
	size := 0
	for _, e := range s.parts.Contracts.Entries() {
		if after != "" && e.ID <= after {
			continue
		}
		found := matching(&e, now, state, client)
		if len(found) == 0 {
			continue
		}
		if len(a.Contracts) >= limit || size >= maxPageBytes {
			// A rejected record may have any key; a page ends only at one that
			// the next can begin after.
			if last := a.Contracts[len(a.Contracts)-1].ID; last != "" && checkID("after", last) == nil {
				a.Next = last
				break
			}
		}
		for _, c := range found {
			size += len(c.Contract)
		}
		a.Contracts = append(a.Contracts, found...)
	}
	return answer(w, a)
}

// matching returns the revisions of e in the given state and of the given
// client; an empty one is any.
func matching(e *contracts.Entry, now usage.Time, state contracts.State, client string) []contract {
	var found []contract
	of := client == ""
	if e.Contract != nil {
		c := inForce(e, now)
		of = of || e.Contract.Client == client
		if of && (state == "" || state == c.State) {
			found = append(found, c)
		}
	}
	if e.Reason == "" || state != "" && state != contracts.Rejected {
		return found
	}
	if c := rejected(e); of || c.client() == client {
		found = append(found, c)
	}
	return found
}

// contract answers with the revision of a contract that is in force, once all
// partitions here judge by it.
func (s *Server) contract(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	g := s.grantOf(r)
	e, ok := s.parts.Contracts.Entry(id)
	if !g.reads() && (!ok || e.Contract == nil || !g.sees(e.Contract.Client)) {
		return refuse(errForbidden, "the token allows to see contracts of its own clients alone") // whether there are others or not
	}
	// Asked for after the entry, the version is that of its change or a later
	// one.
	version := s.parts.Contracts.Version()
	ctx, cancel := context.WithTimeout(r.Context(), inForceTimeout)
	defer cancel()
	if !until(ctx, func() bool { return s.parts.Judges(version) && !s.parts.Holds(id) }) {
		return refuse(errNotReady, "the last change of contracts is not in force in all partitions yet")
	}
	if !ok || e.Contract == nil {
		return refuse(errNotFound, "there is no contract of this id")
	}
	return answerContract(w, r, inForce(&e, usage.TimeOf(s.parts.Now())))
}

// answerContract answers with c and its revision as the entity tag.
func answerContract(w http.ResponseWriter, r *http.Request, c contract) error {
	body, err := encode(c)
	if err != nil {
		return err
	}
	return answerTagged(w, r, etag(c.Revision), body)
}

// until waits for holds to be true, and returns false when ctx ends first.
func until(ctx context.Context, holds func() bool) bool {
	if holds() {
		return true
	}
	poll := time.NewTicker(inForcePoll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-poll.C:
			if holds() {
				return true
			}
		}
	}
}

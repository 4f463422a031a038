package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

const (
	pathHandover = "/v1/internal/handover"
	// maxHandoverBytes bounds what an instance says of the contracts that it is
	// asked for at once. One alone may have a million numbers.
	maxHandoverBytes = 1 << 30
)

type handoverRequest struct {
	Partition *int32         `json:"partition"`
	Contracts []heldContract `json:"contracts"`
}

type heldContract struct {
	ID       string `json:"id"`
	Revision int64  `json:"revision"`
}

type handoverAnswer struct {
	Contracts []handedContract `json:"contracts"`
}

type handedContract struct {
	heldContract
	Limits []numbered `json:"limits"`
}

// numbered is how far the limit events of a limit, its values and a period are
// numbered.
type numbered struct {
	Limit       string                `json:"limit_id"`
	Dimensions  map[string]string     `json:"dimensions,omitempty"`
	Where       map[string]string     `json:"where,omitempty"`
	Place       int                   `json:"place"`
	Period      numberedPeriod        `json:"period"`
	Client      string                `json:"client"`
	Meter       string                `json:"meter"`
	Scope       aggregate.Scope       `json:"scope"`
	Revision    int64                 `json:"contract_revision"`
	Value       int64                 `json:"limit"` // in the meter's smallest unit
	Decimals    int                   `json:"decimals"`
	Enforcement contracts.Enforcement `json:"enforcement"`
	Sequence    int64                 `json:"sequence"`
	Closed      bool                  `json:"closed"`
}

// numberedPeriod has null for a start or end that there is none of.
type numberedPeriod struct {
	ID       string     `json:"id"`
	Start    usage.Time `json:"start"`
	End      usage.Time `json:"end"`
	Timezone string     `json:"timezone"`
}

func (p *numberedPeriod) UnmarshalJSON(data []byte) error {
	type plain numberedPeriod
	open := plain{Start: usage.MinTime, End: usage.MaxTime}
	if err := json.Unmarshal(data, &open); err != nil {
		return fmt.Errorf("period: %w", err)
	}
	*p = numberedPeriod(open)
	return nil
}

func numberedOf(r *aggregate.LimitRecord) numbered {
	return numbered{
		Limit: r.Limit, Dimensions: r.Dimensions, Where: r.Where, Place: r.Place, Period: numberedPeriod(r.Period),
		Client: r.Client, Meter: r.Meter, Scope: r.Scope, Revision: r.Revision, Value: int64(r.Value), Decimals: r.Decimals,
		Enforcement: r.Enforcement, Sequence: r.Sequence, Closed: r.Closed,
	}
}

func (n *numbered) record(contract string) aggregate.LimitRecord {
	return aggregate.LimitRecord{
		Contract: contract, Limit: n.Limit, Dimensions: n.Dimensions, Where: n.Where, Place: n.Place, Period: usage.Period(n.Period),
		Client: n.Client, Meter: n.Meter, Scope: n.Scope, Revision: n.Revision, Value: usage.Quantity(n.Value), Decimals: n.Decimals,
		Enforcement: n.Enforcement, Sequence: n.Sequence, Closed: n.Closed,
	}
}

// handover answers another instance with what a partition here has told of
// contracts that came to one of theirs. Of which nothing final is known yet is
// not in the answer.
func (s *Server) handover(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	body, err := jsonBody(r)
	if err != nil {
		return err
	}
	var request handoverRequest
	if err := json.Unmarshal(body, &request); err != nil {
		return refuse(errBadRequest, "the body is not a JSON object with partition and contracts: %s", plain(err))
	}
	if request.Partition == nil {
		return refuse(errBadRequest, "partition: is missing")
	}
	asked := make([]aggregate.Held, 0, len(request.Contracts))
	for _, c := range request.Contracts {
		asked = append(asked, aggregate.Held{Contract: c.ID, Revision: c.Revision})
	}
	handed, ok := s.parts.HandOver(*request.Partition, asked)
	if !ok {
		return refuse(errNotReady, "partition %d does not run here", *request.Partition)
	}
	a := handoverAnswer{Contracts: []handedContract{}}
	for i := range handed {
		h := handedContract{heldContract: heldContract{ID: handed[i].Contract, Revision: handed[i].Revision}, Limits: []numbered{}}
		for j := range handed[i].Limits {
			h.Limits = append(h.Limits, numberedOf(&handed[i].Limits[j]))
		}
		a.Contracts = append(a.Contracts, h)
	}
	return answer(w, a)
}

// AskHandover asks the instance that has partition what it has told there of
// contracts. Those of which it has nothing final to say yet are left out; while
// nobody is known to have the partition, all are.
func (s *Server) AskHandover(ctx context.Context, partition int32, asked []aggregate.Held) ([]aggregate.Handover, error) {
	owner, ok := s.peers.owner(partition)
	if !ok {
		return nil, nil
	}
	request := handoverRequest{Partition: &partition}
	for _, h := range asked {
		request.Contracts = append(request.Contracts, heldContract{ID: h.Contract, Revision: h.Revision})
	}
	body, err := encode(request)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, pathHandover, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask for a handover: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	if s.cfg.TokensFile != "" {
		token, err := adminToken(s.cfg.TokensFile) // instances have them in common: they pass on those of clients
		if err != nil {
			return nil, fmt.Errorf("http.tokens_file: %w", err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	reply, err := s.peers.askUpTo(r, owner, body, maxHandoverBytes)
	if err != nil {
		return nil, err
	}
	if reply.status != http.StatusOK {
		return nil, fmt.Errorf("instance %s answers for partition %d with status %d", owner.ID, partition, reply.status)
	}
	return readHandover(reply.body)
}

func readHandover(body []byte) ([]aggregate.Handover, error) {
	var a handoverAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("decode a handover: %w", err)
	}
	list := make([]aggregate.Handover, 0, len(a.Contracts))
	for i := range a.Contracts {
		c := &a.Contracts[i]
		h := aggregate.Handover{Held: aggregate.Held{Contract: c.ID, Revision: c.Revision}}
		for j := range c.Limits {
			h.Limits = append(h.Limits, c.Limits[j].record(c.ID))
		}
		list = append(list, h)
	}
	return list, nil
}

package druid

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"
)

const (
	// proofGap is the least time between the two readings of a proof. It is
	// longer than Druid takes to notice that a service died (some 10 s in the
	// slower installations), so that at the second reading the coordinator
	// knows of what was lost at the first.
	proofGap = 15 * time.Second
	// maxProofs bounds what is remembered; more than partitions × boundaries in
	// use at a time.
	maxProofs = 4096
)

// edge is where history ends in one partition.
type edge struct {
	partition int32
	boundary  int64
}

// proof is what is known of the rows below an edge where their count alone
// proves nothing.
type proof struct {
	known   *control  // proven: what a complete answer has
	wanted  bool      // the last answer was neither complete by itself nor the known one
	witness *control  // a reading under good conditions, waiting for a second
	at      time.Time // of witness
}

// proofs remembers them by edge; one exists from the first answer that needed
// it. They are never written down: after a restart pending questions are
// proven anew.
type proofs struct {
	mu   sync.Mutex
	edge map[edge]proof // under mu
}

func (p *proofs) find(e edge) proof {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.edge[e]
}

func (p *proofs) put(e edge, value proof) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.edge == nil {
		p.edge = make(map[edge]proof)
	}
	if _, ok := p.edge[e]; !ok && len(p.edge) >= maxProofs {
		for other := range p.edge { // any one: it can be proven again
			delete(p.edge, other)
			break
		}
	}
	p.edge[e] = value
}

// judge returns nil if what c counts below e is complete, else ErrIncomplete.
//
// conditions is what was found of Druid's state before c was read: nil means
// that everything below e was published and every segment available. If that
// holds after c too, and did with an equal c at least proofGap ago, these are
// the rows that Druid has and keeps, gaps and all.
func (s *Seeder) judge(ctx context.Context, e edge, c control, conditions error) error {
	if c.complete(e.boundary) {
		return nil
	}
	counted := fmt.Errorf("%w: %d rows of offsets %d to %d below boundary %d", ErrIncomplete, c.rows, c.minOffset, c.maxOffset, e.boundary)
	if c.rows > e.boundary {
		return fmt.Errorf("%w: more rows than offsets: some records are in history twice", counted)
	}
	if s.cfg.Supervisor == "" {
		return fmt.Errorf("%w: no supervisor is configured that could prove the gaps", counted)
	}
	p := s.proofs.find(e)
	if p.known != nil && *p.known == c {
		return nil
	}
	if conditions == nil {
		conditions = s.settled(ctx, e)
	}
	if conditions != nil {
		s.proofs.put(e, proof{known: p.known, wanted: true})
		return fmt.Errorf("%w: %w", counted, conditions)
	}
	now := s.now()
	if p.witness == nil || *p.witness != c {
		s.proofs.put(e, proof{known: p.known, wanted: true, witness: &c, at: now})
		return fmt.Errorf("%w: a second equal reading is needed", counted)
	}
	if now.Sub(p.at) < proofGap {
		return fmt.Errorf("%w: a second equal reading is needed, %s after the first", counted, proofGap)
	}
	s.proofs.put(e, proof{known: &c})
	return nil
}

// errUnsettled tells that no proof is to be had right now.
var errUnsettled = errors.New("history is not settled")

// settled returns nil if the status pages say that all rows below e are
// published and available. Alone that proves little, for they are late to tell
// of a failure: see judge.
func (s *Seeder) settled(ctx context.Context, e edge) error {
	var status supervisorStatus
	if err := s.http.get(ctx, "/druid/indexer/v1/supervisor/"+url.PathEscape(s.cfg.Supervisor)+"/status", &status); err != nil {
		return fmt.Errorf("ask supervisor: %w", err)
	}
	if status.Payload.DataSource != s.cfg.Datasource {
		return fmt.Errorf("%w: supervisor fills datasource %q", errUnsettled, status.Payload.DataSource)
	}
	if err := status.published(e); err != nil {
		return fmt.Errorf("%w: %w", errUnsettled, err)
	}
	var unavailable map[string]int64 // by datasource
	path := "/druid/coordinator/v1/datasources/" + url.PathEscape(s.cfg.Datasource) + "/loadstatus?forceMetadataRefresh=true&simple"
	if err := s.http.get(ctx, path, &unavailable); err != nil {
		return fmt.Errorf("ask coordinator: %w", err)
	}
	switch n, ok := unavailable[s.cfg.Datasource]; {
	case !ok:
		return fmt.Errorf("%w: datasource has no load status", errUnsettled)
	case n != 0:
		return fmt.Errorf("%w: %d segments are not available", errUnsettled, n)
	}
	return nil
}

// supervisorStatus is the part of a Kafka supervisor's status that tells what
// is published: every task, reading or publishing, began where its
// predecessors' published rows end.
type supervisorStatus struct {
	Payload struct {
		DataSource      string
		State           string
		ActiveTasks     []taskStatus
		PublishingTasks []taskStatus
	}
}

type taskStatus struct {
	ID              string
	StartingOffsets map[string]int64 // by partition; with several topics by topic:partition, which proves nothing
}

func (s *supervisorStatus) published(e edge) error {
	if s.Payload.State != "RUNNING" {
		return fmt.Errorf("supervisor is %q", s.Payload.State)
	}
	partition, found := fmt.Sprint(e.partition), false
	for _, task := range append(s.Payload.ActiveTasks, s.Payload.PublishingTasks...) {
		start, ok := task.StartingOffsets[partition]
		if ok && start < e.boundary {
			return fmt.Errorf("task %s holds rows from offset %d, below boundary %d", task.ID, start, e.boundary)
		}
		found = found || ok
	}
	if !found {
		return fmt.Errorf("no task reads partition %d", e.partition)
	}
	return nil
}

package aggregate

import (
	"fmt"
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// Preview is what a change of a contract would do to one client now.
type Preview struct {
	Events  []*alerts.Event // undated
	Pending bool            // some of it depends on history that is yet to be asked
}

// Preview returns the limit events that a change of the contract id would cause
// for client from what was committed: next takes its place, at revision, or
// where next is nil or another client's, it is gone. Nothing changes.
func (s *State) Preview(client, id string, next *contracts.Contract, revision int64, now usage.Time) (Preview, error) {
	table := contracts.NewTable(s.cfg.Catalog)
	cfg := s.cfg
	cfg.Handover = false // what it has told is all here
	scratch := New(cfg, table)
	concerned := []string{client}
	if e, ok := s.terms.Entry(id); ok && e.Contract != nil && e.Contract.Client != client {
		concerned = append(concerned, e.Contract.Client) // numbers go on from those told there
	}
	for _, name := range concerned {
		if err := s.copyTo(scratch, table, name); err != nil {
			return Preview{}, err
		}
	}
	scratch.Loaded(now)
	scratch.Begin(now)
	defer scratch.End()
	scratch.TakeContracts()
	told := scratch.Told() // what is yet to be taken in here, too
	var value []byte
	if next != nil && next.Client == client {
		value = next.Raw
	}
	if err := table.Apply([]byte(id), value, revision); err != nil {
		return Preview{}, fmt.Errorf("contract %s: %w", id, err)
	}
	scratch.TakeContracts()
	p := Preview{Events: slices.DeleteFunc(scratch.open.events[told:], func(e *alerts.Event) bool { return e.Client != client })}
	for _, u := range scratch.open.dirty {
		p.Pending = p.Pending || u.made && u.counter.client.name == client && !u.counter.seed.Complete()
	}
	return p, nil
}

// copyTo copies the contracts of a client, and what was committed of it.
func (s *State) copyTo(scratch *State, table *contracts.Table, client string) error {
	for _, c := range s.terms.Of(client) {
		if err := table.Apply([]byte(c.ID), c.Raw, c.Revision); err != nil {
			return fmt.Errorf("contract %s: %w", c.ID, err)
		}
	}
	for _, record := range s.recordsOf(client) {
		if err := scratch.Load(record); err != nil {
			return err
		}
	}
	return nil
}

// recordsOf returns the committed records of a client, and of the partition as
// a whole.
func (s *State) recordsOf(client string) []any {
	s.mu.RLock()
	defer s.mu.RUnlock()
	whole := s.birth
	whole.Position, whole.Time = s.committed.Position, s.committed.Time
	records := []any{&whole}
	c := s.clients.named(client)
	if c == nil {
		return records
	}
	for k := range c.counters() {
		if value, ok := s.valueOf(k); ok {
			at := *k
			at.counterValue = value
			r := at.record(s.cfg.Catalog)
			records = append(records, &r)
		}
	}
	for _, l := range c.limits {
		at := *l
		if l.txn == s.open.id {
			u := &s.open.limits[l.undo]
			if u.made {
				continue
			}
			at.limitValue = u.before
		}
		r := at.record()
		records = append(records, &r)
	}
	return records
}

package contracts

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/meterd/meterd/internal/usage"
)

// State is what an entry of the table is at some instant.
type State string

// The states of an entry. A contract is Active from StartsAt until EndsAt;
// Rejected entries have never had a good revision, or have a bad one on top
// of it.
const (
	Active   State = "active"
	Future   State = "future"
	Ended    State = "ended"
	Rejected State = "rejected"
)

// Entry is what the table knows of one contract id.
type Entry struct {
	ID       string
	Contract *Contract       // the last good revision, nil where there was none
	Revision int64           // the last revision, good or not
	Reason   string          // why the last revision was rejected, "" where it was not
	Raw      json.RawMessage // the rejected value
}

// State returns what e is at now: Rejected where its last revision was.
func (e *Entry) State(now usage.Time) State {
	if e.Reason != "" {
		return Rejected
	}
	return e.Contract.State(now)
}

// State returns whether c is yet to start, active, or ended at now.
func (c *Contract) State(now usage.Time) State {
	switch {
	case now < c.StartsAt:
		return Future
	case now >= c.EndsAt:
		return Ended
	}
	return Active
}

// Change is one step of the table: after it, Client has Contracts, and no
// others. A contract that moved between clients is two changes.
type Change struct {
	Version   int64
	Client    string
	Contracts []*Contract // in order of their ids
	ID        string      // the contract that changed
	Revision  int64       // the offset of the record that changed it
	Prev      *Contract   // what it was before, of this client or another; nil: nothing
	Next      *Contract   // what it is from then on, likewise
}

// maxChanges bounds the history of changes that Table keeps. Whoever is
// further behind starts again from the whole table.
const maxChanges = 100_000

// Table is all contracts of the topic, in every instance the whole of it.
//
// One goroutine may call Apply; any number may call the rest.
type Table struct {
	catalog *usage.Catalog

	mu       sync.RWMutex // guards all below
	entries  map[string]*Entry
	removed  map[string]int64       // ids last seen as null, and where
	clients  map[string][]*Contract // replaced, never changed in place
	changes  []Change               // versions without gaps, the last is version
	version  int64
	position int64 // next offset of the topic
}

// NewTable returns an empty table for the meters of catalog.
func NewTable(catalog *usage.Catalog) *Table {
	return &Table{
		catalog: catalog,
		entries: map[string]*Entry{},
		removed: map[string]int64{},
		clients: map[string][]*Contract{},
	}
}

// Apply takes in the record at offset revision. A bad one leaves the last good
// revision in force; the error, always an ErrInvalid, is also kept in the
// entry. A nil value removes.
func (t *Table) Apply(key, value []byte, revision int64) error {
	id := string(key)
	var (
		contract *Contract
		err      error
	)
	if value != nil {
		contract, err = Parse(key, value, revision, t.catalog)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.position = max(t.position, revision+1)
	entry := t.entries[id]
	if err != nil {
		next := Entry{ID: id, Revision: revision, Reason: Reason(err), Raw: bytes.Clone(value)}
		if entry != nil {
			next.Contract = entry.Contract
		}
		t.entries[id] = &next
		return err
	}
	var old *Contract
	if entry != nil && entry.Contract != nil {
		old = entry.Contract
		t.drop(old, contract, revision)
	}
	if contract == nil {
		delete(t.entries, id)
		t.removed[id] = revision
		return nil
	}
	delete(t.removed, id)
	t.entries[id] = &Entry{ID: id, Contract: contract, Revision: revision}
	list := append(without(t.clients[contract.Client], id), contract)
	slices.SortFunc(list, func(a, b *Contract) int { return cmp.Compare(a.ID, b.ID) })
	t.set(Change{Client: contract.Client, Contracts: list, ID: id, Revision: revision, Prev: old, Next: contract})
	return nil
}

// Reason is the text of an ErrInvalid without the words that each has.
func Reason(err error) string {
	return strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": ")
}

// drop takes old from its client, unless next takes its place there at once.
func (t *Table) drop(old, next *Contract, revision int64) {
	if next != nil && next.Client == old.Client {
		return
	}
	t.set(Change{Client: old.Client, Contracts: without(t.clients[old.Client], old.ID), ID: old.ID, Revision: revision, Prev: old, Next: next})
}

func without(list []*Contract, id string) []*Contract {
	return slices.DeleteFunc(slices.Clone(list), func(c *Contract) bool { return c.ID == id })
}

// set makes the next change.
func (t *Table) set(c Change) {
	if len(c.Contracts) == 0 {
		delete(t.clients, c.Client)
	} else {
		t.clients[c.Client] = c.Contracts
	}
	t.version++
	c.Version = t.version
	if len(t.changes) >= 2*maxChanges {
		t.changes = slices.Clone(t.changes[len(t.changes)-maxChanges:])
	}
	t.changes = append(t.changes, c)
}

// ReadUpTo notes that the topic has nothing more below offset next: what stood
// there last may have been compacted away.
func (t *Table) ReadUpTo(next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.position = max(t.position, next)
}

// Position returns the offset of the next record to take in.
func (t *Table) Position() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.position
}

// Version returns the version of the last change, 0 before the first.
func (t *Table) Version() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.version
}

// ChangesSince returns the changes after version, oldest first. It returns
// false where they are no longer kept: start again from All.
func (t *Table) ChangesSince(version int64) ([]Change, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	missing := t.version - version
	if missing > int64(len(t.changes)) {
		return nil, false
	}
	return slices.Clone(t.changes[int64(len(t.changes))-missing:]), true
}

// All returns the contracts of every client that has any, in the order of their
// ids, the version that this is, and the offset up to which it was read.
func (t *Table) All() (clients map[string][]*Contract, version, position int64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.clients), t.version, t.position
}

// Of returns client's contracts in the order of their ids.
func (t *Table) Of(client string) []*Contract {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.clients[client]
}

// Removed returns the offset of the null that removed the contract, and
// whether one was seen.
func (t *Table) Removed(id string) (int64, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	revision, ok := t.removed[id]
	return revision, ok
}

// Entry returns what is known of the contract, and false for nothing.
func (t *Table) Entry(id string) (Entry, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e, ok := t.entries[id]
	if !ok {
		return Entry{}, false
	}
	return *e, true
}

// Entries returns all entries in the order of their ids.
func (t *Table) Entries() []Entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	list := make([]Entry, 0, len(t.entries))
	for _, id := range slices.Sorted(maps.Keys(t.entries)) {
		list = append(list, *t.entries[id])
	}
	return list
}

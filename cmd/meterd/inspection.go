package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// inspection takes in the records of a partition's changelog, of which a later
// one under the same key replaces the one before.
type inspection struct {
	client   string // whose records are kept; empty: nobody's
	decoder  schema.ChangelogDecoder
	sizes    map[string]int // by key, how many things the record holds
	records  map[string]keptRecord
	position *aggregate.PositionRecord
	bad      map[string]bool // keys of what this version cannot read
}

func newInspection(client string) *inspection {
	return &inspection{client: client, sizes: map[string]int{}, records: map[string]keptRecord{}, bad: map[string]bool{}}
}

func (i *inspection) take(key, value []byte) {
	name := string(key)
	delete(i.sizes, name)
	delete(i.records, name)
	delete(i.bad, name)
	if value == nil {
		return
	}
	record, err := i.decoder.Decode(key, value)
	if err != nil {
		i.bad[name] = true
		return
	}
	i.sizes[name] = 1
	switch r := record.(type) {
	case *aggregate.CounterRecord:
		if i.client != "" && r.Client == i.client {
			i.records[name] = keptRecord{Key: name, Counter: newKeptCounter(r)}
		}
	case *aggregate.LimitRecord:
		if i.client != "" && r.Client == i.client {
			i.records[name] = keptRecord{Key: name, Limit: newKeptLimit(r)}
		}
	case *aggregate.DedupeRecord:
		i.sizes[name] = len(r.Hashes)
	case *aggregate.PositionRecord:
		i.position = r
	}
}

// holding returns what was taken in of a partition, up to an offset of its
// changelog.
func (i *inspection) holding(partition int32, changelog int64) holding {
	h := holding{Partition: partition, Changelog: changelog, Unreadable: len(i.bad)}
	if p := i.position; p != nil {
		h.Position = &keptPosition{Position: p.Position, Time: p.Time, Boundary: p.Boundary, BoundaryTime: p.BoundaryTime, Contracts: p.Contracts}
	}
	for key, n := range i.sizes {
		switch schema.KindOfKey([]byte(key)) {
		case aggregate.CounterKind:
			h.Counters += n
		case aggregate.LimitKind:
			h.Limits += n
		case aggregate.DedupeKind:
			h.EventIDs += n
		case aggregate.VoidKind:
			h.Voids += n
		}
	}
	if i.client != "" {
		h.Records = slices.SortedFunc(maps.Values(i.records), func(a, b keptRecord) int { return cmp.Compare(a.Key, b.Key) })
	}
	return h
}

// holding is what is kept of a partition. Changelog is the offset of its
// changelog below which all is in it.
type holding struct {
	Partition  int32         `json:"partition"`
	Changelog  int64         `json:"changelog"`
	Position   *keptPosition `json:"position"` // nil: it was never counted
	Counters   int           `json:"counters"`
	Limits     int           `json:"limits"`
	EventIDs   int           `json:"event_ids"`
	Voids      int           `json:"voids"`
	Unreadable int           `json:"unreadable"` // records that this version cannot read
	Records    []keptRecord  `json:"records,omitempty"`
}

type keptPosition struct {
	Position     int64      `json:"position"`
	Time         usage.Time `json:"time"`
	Boundary     int64      `json:"boundary"`
	BoundaryTime usage.Time `json:"boundary_time"`
	Contracts    int64      `json:"contracts"` // next offset of the contracts topic
}

// keptRecord is one record of a client: a counter or what a limit has told.
type keptRecord struct {
	Key     string       `json:"key"`
	Counter *keptCounter `json:"counter,omitempty"`
	Limit   *keptLimit   `json:"limit,omitempty"`
}

type keptCounter struct {
	Meter      string            `json:"meter"`
	Contract   string            `json:"contract,omitempty"` // whose own counter it is
	Dimensions map[string]string `json:"dimensions"`
	Period     alerts.PeriodInfo `json:"period"`
	Usage      string            `json:"usage"`
	Events     int64             `json:"events"`
	FirstEvent usage.Time        `json:"first_event"`
	LastEvent  usage.Time        `json:"last_event"`
	Seed       keptSeed          `json:"seed"`
}

type keptSeed struct {
	State    aggregate.SeedState `json:"state"`
	Usage    string              `json:"usage"`
	Boundary int64               `json:"boundary"`
}

func newKeptCounter(r *aggregate.CounterRecord) *keptCounter {
	return &keptCounter{
		Meter: r.Meter, Contract: r.Scope.Contract, Dimensions: given(r.Dimensions), Period: periodInfo(r.Period),
		Usage: r.Total.Format(r.Decimals), Events: r.Events, FirstEvent: r.First, LastEvent: r.Last,
		Seed: keptSeed{State: r.Seed.State, Usage: r.Seed.Usage.Format(r.Decimals), Boundary: r.Seed.Boundary},
	}
}

type keptLimit struct {
	Contract   string              `json:"contract"`
	Revision   int64               `json:"contract_revision"`
	LimitID    string              `json:"limit_id"`
	Meter      string              `json:"meter"`
	Dimensions map[string]string   `json:"dimensions"`
	Period     alerts.PeriodInfo   `json:"period"`
	Limit      string              `json:"limit"`
	Standing   []string            `json:"standing"`
	Sequence   int64               `json:"sequence"`
	Ended      bool                `json:"ended"`
	Events     []aggregate.Telling `json:"events"`
}

func newKeptLimit(r *aggregate.LimitRecord) *keptLimit {
	l := &keptLimit{
		Contract: r.Contract, Revision: r.Revision, LimitID: r.Limit, Meter: r.Meter, Dimensions: given(r.Dimensions),
		Period: periodInfo(r.Period), Limit: r.Value.Format(r.Decimals), Standing: []string{}, Sequence: r.Sequence,
		Ended: r.Closed, Events: append([]aggregate.Telling{}, r.Told...),
	}
	for _, t := range r.Standing {
		l.Standing = append(l.Standing, t.Label)
	}
	return l
}

func periodInfo(p usage.Period) alerts.PeriodInfo {
	return alerts.PeriodInfo{ID: p.ID, Start: p.Start, End: p.End, Timezone: p.Timezone}
}

// given returns values, {} for none.
func given(values map[string]string) map[string]string {
	if values == nil {
		return map[string]string{}
	}
	return values
}

func (e *environment) printHoldings(list []holding) error {
	rows := [][]string{{"PARTITION", "POSITION", "PARTITION TIME", "BOUNDARY", "COUNTERS", "LIMITS", "EVENT IDS", "VOIDS", "CHANGELOG"}}
	var records []keptRecord
	for i := range list {
		h := &list[i]
		row := []string{strconv.Itoa(int(h.Partition)), "-", "-", "-"}
		if p := h.Position; p != nil {
			row = []string{row[0], strconv.FormatInt(p.Position, 10), cmp.Or(p.Time.String(), "-"), strconv.FormatInt(p.Boundary, 10)}
		}
		for _, n := range []int{h.Counters, h.Limits, h.EventIDs, h.Voids} {
			row = append(row, strconv.Itoa(n))
		}
		rows = append(rows, append(row, strconv.FormatInt(h.Changelog, 10)))
		records = append(records, h.Records...)
	}
	if err := e.writeTable(rows...); err != nil {
		return err
	}
	for _, h := range list {
		if h.Unreadable > 0 {
			fmt.Fprintf(e.stdout, "partition %d: %d records that this version cannot read\n", h.Partition, h.Unreadable)
		}
	}
	for i := range records {
		fmt.Fprintf(e.stdout, "\n%s\n  %s\n", records[i].Key, records[i].text())
	}
	return nil
}

// text says in a line what a record holds.
func (r *keptRecord) text() string {
	if c := r.Counter; c != nil {
		text := fmt.Sprintf("%s of %d events, the last at %s", c.Usage, c.Events, cmp.Or(c.LastEvent.String(), "no time"))
		if c.Seed.State != aggregate.SeedNone {
			text += fmt.Sprintf("; history below offset %d: %s, %s", c.Seed.Boundary, c.Seed.Usage, c.Seed.State)
		}
		return text
	}
	l := r.Limit
	standing := "nothing stands"
	if len(l.Standing) > 0 {
		standing = strings.Join(l.Standing, " ") + " stand"
	}
	return fmt.Sprintf("limit %s of revision %d: %s, %d limit events", l.Limit, l.Revision, standing, l.Sequence)
}

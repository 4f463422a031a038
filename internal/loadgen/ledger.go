package loadgen

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/meterd/meterd/internal/usage"
)

// Ledger is what the events of a run add up to.
type Ledger struct {
	Complete   bool
	Seed       uint64
	First      int64
	Events     int64
	Totals     map[Key]Total
	Endpoints  map[EndpointKey]Total // of meters that keep endpoints apart
	Partitions map[int32]Tally
}

// Key is a client, a meter and the id of a period.
type Key struct{ Client, Meter, Period string }

// EndpointKey is a Key and an endpoint.
type EndpointKey struct {
	Key
	Endpoint string
}

// Total is what must be counted, in the meter's unit.
type Total struct{ Events, Quantity int64 }

// Tally is what was written to a partition.
type Tally struct {
	Records     int64 `json:"records"`
	Duplicates  int64 `json:"duplicates"`
	Undecodable int64 `json:"undecodable"`
	Late        int64 `json:"late"`
	Voids       int64 `json:"voids"`
}

// ErrIncomplete is returned when a ledger does not say all that was written.
var ErrIncomplete = errors.New("ledger is not complete: an append had failed")

// endpointDimension is the name that the endpoint has as a dimension, and its
// path.
const (
	endpointDimension = "endpoint"
	endpointPath      = "properties.endpoint"
)

// Each calls fn with every total, in no order. Dimensions are nil for whatever
// they are.
func (l *Ledger) Each(fn func(client, meter, period string, dimensions map[string]string, events, quantity int64)) {
	for k, t := range l.Totals {
		fn(k.Client, k.Meter, k.Period, nil, t.Events, t.Quantity)
	}
	for k, t := range l.Endpoints {
		fn(k.Client, k.Meter, k.Period, map[string]string{endpointDimension: k.Endpoint}, t.Events, t.Quantity)
	}
}

// EachPartition calls fn with what every partition has, in no order.
func (l *Ledger) EachPartition(fn func(partition int32, records, duplicates, undecodable, voids int64)) {
	for p, t := range l.Partitions {
		fn(p, t.Records, t.Duplicates, t.Undecodable, t.Voids)
	}
}

// line is any line of a ledger's file.
type line struct {
	Ledger    *int   `json:"ledger"`
	Complete  bool   `json:"complete"`
	Seed      uint64 `json:"seed"`
	First     int64  `json:"first"`
	Partition *int32 `json:"partition"`
	Tally
	Client     string            `json:"client"`
	Meter      string            `json:"meter"`
	Period     string            `json:"period"`
	Dimensions map[string]string `json:"dimensions"`
	Events     int64             `json:"events"`
	Quantity   string            `json:"quantity"`
}

// ReadLedger reads a ledger's file. It returns ErrIncomplete for one whose run
// has failed.
func ReadLedger(r io.Reader) (*Ledger, error) {
	l := &Ledger{Totals: map[Key]Total{}, Endpoints: map[EndpointKey]Total{}, Partitions: map[int32]Tally{}}
	scanner := bufio.NewScanner(r)
	headed := false
	for n := 1; scanner.Scan(); n++ {
		var at line
		d := json.NewDecoder(bytes.NewReader(scanner.Bytes()))
		d.DisallowUnknownFields()
		if err := d.Decode(&at); err != nil {
			return nil, fmt.Errorf("ledger: line %d: %w", n, err)
		}
		switch {
		case at.Ledger != nil && *at.Ledger == 1 && !headed:
			l.Complete, l.Seed, l.First, l.Events, headed = at.Complete, at.Seed, at.First, at.Events, true
		case at.Partition != nil && headed:
			l.Partitions[*at.Partition] = at.Tally
		case at.Client != "" && headed:
			quantity, err := strconv.ParseInt(at.Quantity, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("ledger: line %d: quantity: %w", n, err)
			}
			k, t := Key{at.Client, at.Meter, at.Period}, Total{at.Events, quantity}
			if at.Dimensions == nil {
				l.Totals[k] = t
			} else {
				l.Endpoints[EndpointKey{k, at.Dimensions[endpointDimension]}] = t
			}
		default:
			return nil, fmt.Errorf("ledger: line %d: not a line of a ledger", n)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	switch {
	case !headed:
		return nil, errors.New("ledger: is empty")
	case !l.Complete:
		return nil, ErrIncomplete
	}
	return l, nil
}

// book is a ledger that is being written.
type book struct {
	g        *Generator
	clients  int
	meters   []string
	apart    []bool // of each meter: it keeps endpoints apart, and nothing else
	each     bool   // an event counts on every meter, because none is named
	schedule usage.Schedule
	pages    []*page // the last used first
	tally    []Tally
	events   int64
}

// page is what a book has of one period, in dense form.
type page struct {
	period    usage.Period
	totals    []Total            // by client, then by meter
	endpoints map[endpoint]Total // of the meters that keep them apart
}

type endpoint struct {
	row  int // in totals
	name string
}

func newBook(g *Generator, t Target) *book {
	b := &book{g: g, clients: g.load.Clients, each: t.Mapping.Meter == "", schedule: t.Catalog.Schedule, tally: make([]Tally, t.Partitions)}
	record, err := layout(t.Mapping)
	for _, i := range t.meters() {
		meter := &t.Catalog.Meters[i]
		b.meters = append(b.meters, meter.Name)
		b.apart = append(b.apart, err == nil && record.propertied() && len(meter.Dimensions) == 1 &&
			t.Catalog.Paths[meter.Dimensions[0].Field] == endpointPath)
	}
	return b
}

// page returns the page of the period that an instant lies in.
func (b *book) page(at time.Time) *page {
	t := usage.TimeOf(at)
	for i, p := range b.pages {
		if p.period.Contains(t) {
			b.pages[0], b.pages[i] = p, b.pages[0]
			return p
		}
	}
	p := &page{period: b.schedule.At(t), totals: make([]Total, b.clients*len(b.meters)), endpoints: map[endpoint]Total{}}
	b.pages = append([]*page{p}, b.pages...)
	return p
}

// add takes in an event whose time is at and of which the quantity counts, or 1
// where none is written.
func (b *book) add(ev *Event, at time.Time, quantity int64, partition int32) {
	b.events++
	tally := &b.tally[partition]
	tally.Records++
	one := Total{1, quantity}
	switch ev.Kind {
	case Undecodable:
		tally.Undecodable++
		return
	case Duplicate:
		tally.Duplicates++
		return
	case Void:
		tally.Voids++
		one = Total{-1, -quantity}
	case Late:
		tally.Late++
	}
	p := b.page(at)
	first, last := ev.Meter, ev.Meter
	if b.each {
		first, last = 0, len(b.meters)-1
	}
	for m := first; m <= last; m++ {
		row := ev.Client*len(b.meters) + m
		p.totals[row].add(one)
		if b.apart[m] {
			k := endpoint{row, b.g.endpoint(ev)}
			t := p.endpoints[k]
			t.add(one)
			p.endpoints[k] = t
		}
	}
}

func (t *Total) add(o Total) {
	t.Events += o.Events
	t.Quantity += o.Quantity
}

// used is what a client has of a meter in all periods.
func (b *book) used(client, meter int) (sum Total) {
	for _, p := range b.pages {
		sum.add(p.totals[client*len(b.meters)+meter])
	}
	return sum
}

// write writes the file that ReadLedger reads.
func (b *book) write(to io.Writer, load Load, complete bool) error {
	w := bufio.NewWriterSize(to, 1<<16)
	fmt.Fprintf(w, `{"ledger":1,"complete":%t,"seed":%d,"first":%d,"events":%d}`+"\n", complete, load.Seed, load.First, b.events)
	for p, t := range b.tally {
		fmt.Fprintf(w, `{"partition":%d,"records":%d,"duplicates":%d,"undecodable":%d,"late":%d,"voids":%d}`+"\n",
			p, t.Records, t.Duplicates, t.Undecodable, t.Late, t.Voids)
	}
	for _, p := range b.pages {
		for row, t := range p.totals {
			if t != (Total{}) {
				b.writeTotal(w, p, row, "", t)
			}
		}
		for k, t := range p.endpoints {
			if t != (Total{}) {
				b.writeTotal(w, p, k.row, fmt.Sprintf(`"dimensions":{"%s":%s},`, endpointDimension, usage.AppendCanonicalString(nil, k.name)), t)
			}
		}
	}
	if err := w.Flush(); err != nil { // keeps the first error of all writes
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

func (b *book) writeTotal(w io.Writer, p *page, row int, dimensions string, t Total) {
	meter := usage.AppendCanonicalString(nil, b.meters[row%len(b.meters)])
	fmt.Fprintf(w, `{"client":"%s","meter":%s,"period":"%s",%s"events":%d,"quantity":"%d"}`+"\n",
		ClientName(row/len(b.meters)), meter, p.period.ID, dimensions, t.Events, t.Quantity)
}

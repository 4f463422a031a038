package loadgen

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/meterd/meterd/internal/usage"
)

// Ledger is what the events of a run add up to.
type Ledger struct {
	Complete   bool
	Seed       uint64
	First      int64
	Events     int64
	Totals     map[Key]Total
	Partitions map[int32]Tally
}

// Key is a client and a meter.
type Key struct{ Client, Meter string }

// Total is what must be counted, in the meter's unit.
type Total struct{ Events, Quantity int64 }

// Tally is what was written to a partition.
type Tally struct {
	Records     int64 `json:"records"`
	Duplicates  int64 `json:"duplicates"`
	Undecodable int64 `json:"undecodable"`
	Late        int64 `json:"late"`
}

// ErrIncomplete is returned when a ledger does not say all that was written.
var ErrIncomplete = errors.New("ledger is not complete: an append had failed")

// Each calls fn with every total, in no order.
func (l *Ledger) Each(fn func(client, meter string, events, quantity int64)) {
	for k, t := range l.Totals {
		fn(k.Client, k.Meter, t.Events, t.Quantity)
	}
}

// EachPartition calls fn with what every partition has, in no order.
func (l *Ledger) EachPartition(fn func(partition int32, records, duplicates, undecodable int64)) {
	for p, t := range l.Partitions {
		fn(p, t.Records, t.Duplicates, t.Undecodable)
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
	Client   string `json:"client"`
	Meter    string `json:"meter"`
	Events   int64  `json:"events"`
	Quantity string `json:"quantity"`
}

// ReadLedger reads a ledger's file. It returns ErrIncomplete for one whose run
// has failed.
func ReadLedger(r io.Reader) (*Ledger, error) {
	l := &Ledger{Totals: map[Key]Total{}, Partitions: map[int32]Tally{}}
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
			l.Totals[Key{at.Client, at.Meter}] = Total{at.Events, quantity}
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

// book is a ledger that is being written, in dense form.
type book struct {
	meters []string
	each   bool    // an event counts on every meter, because none is named
	totals []Total // by client, then by meter
	tally  []Tally
	events int64
}

func newBook(load Load, t Target) *book {
	b := &book{each: t.Mapping.Meter == "", tally: make([]Tally, t.Partitions)}
	for i := range t.Catalog.Meters {
		b.meters = append(b.meters, t.Catalog.Meters[i].Name)
	}
	b.totals = make([]Total, load.Clients*len(b.meters))
	return b
}

// add takes in an event of which the quantity counts, or 1 where none is
// written.
func (b *book) add(ev *Event, quantity int64, partition int32) {
	b.events++
	tally := &b.tally[partition]
	tally.Records++
	switch ev.Kind {
	case Undecodable:
		tally.Undecodable++
		return
	case Duplicate:
		tally.Duplicates++
		return
	case Late:
		tally.Late++
	}
	row := b.totals[ev.Client*len(b.meters):][:len(b.meters)]
	if !b.each {
		row = row[ev.Meter : ev.Meter+1]
	}
	for m := range row {
		row[m].Events++
		row[m].Quantity += quantity
	}
}

// write writes the file that ReadLedger reads.
func (b *book) write(to io.Writer, load Load, complete bool) error {
	w := bufio.NewWriterSize(to, 1<<16)
	fmt.Fprintf(w, `{"ledger":1,"complete":%t,"seed":%d,"first":%d,"events":%d}`+"\n", complete, load.Seed, load.First, b.events)
	for p, t := range b.tally {
		fmt.Fprintf(w, `{"partition":%d,"records":%d,"duplicates":%d,"undecodable":%d,"late":%d}`+"\n", p, t.Records, t.Duplicates, t.Undecodable, t.Late)
	}
	for i, t := range b.totals {
		if t.Events > 0 {
			meter := usage.AppendCanonicalString(nil, b.meters[i%len(b.meters)])
			fmt.Fprintf(w, `{"client":"%s","meter":%s,"events":%d,"quantity":"%d"}`+"\n", ClientName(i/len(b.meters)), meter, t.Events, t.Quantity)
		}
	}
	if err := w.Flush(); err != nil { // keeps the first error of all writes
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

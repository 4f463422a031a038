// Package loadgen writes synthetic usage events, and tells what they add up
// to.
//
// Event i is a pure function of the seed, the shape of the load and i, so a
// run can be repeated, and continued by one that begins where it ended. Some
// events are duplicates of one a bounded distance behind, some take back one
// that was written shortly before, some are late, some are no events at all;
// the rest has an id of its own. Each is written exactly once within the life
// of the process, on the partition where the configured partitioner puts its
// client. Events name meters without a condition; those with one choose among
// them.
//
// The Ledger of a run counts what the brokers have acknowledged. Its file has
// one JSON object a line:
//
//	{"ledger":1,"complete":true,"seed":1,"first":0,"events":1000000}
//	{"partition":0,"records":125000,"duplicates":61,"undecodable":24,"late":130,"voids":12}
//	{"client":"client-9e3779b1","meter":"bytes_out","period":"2026-11","events":17,"quantity":"8211"}
//	{"client":"client-9e3779b1","meter":"bytes_out","period":"2026-11","dimensions":{"endpoint":"/v1/items"},"events":3,"quantity":"1200"}
//
// The first line comes once. Where complete is false, an append has failed and
// more may be on the topic than the ledger says. A partition's records are all
// that were written to it, its duplicates, undecodable records and voids
// included. A client's events and quantity are without those three, and without
// what the voids take back; they count whatever the meter's aggregation is, in
// the default schedule's period of the event's time, and the quantity is in the
// meter's unit. A line with dimensions is of one combination of a meter that
// keeps apart the endpoint, and nothing else, of an event's properties.
package loadgen

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// Target is where events go and how they are written there, as the
// configuration has it.
type Target struct {
	Topic          string
	Partitions     int32
	Partitioner    kafka.Partitioner
	ContractsTopic string
	Format         schema.Format
	Mapping        schema.Mapping
	Catalog        *usage.Catalog
}

// Load is what is written. Begin with Default.
type Load struct {
	Seed    uint64
	First   int64 // number of the first event
	Events  int64 // how many
	Rate    int   // events a second; 0: as fast as the brokers take them
	Clients int
	Zipf    float64 // exponent of how use is spread over clients; 0: evenly

	// EvenMeters uses every meter as much as any other; otherwise each is used
	// about half as much as the one before.
	EvenMeters bool

	// Shares of the events, from 0 to 1.
	Duplicates   float64
	Undecodable  float64
	Late         float64
	SecondSchema float64 // written with another schema, which is mapped as well
	Voids        float64 // take back an event written shortly before; usage.fields.void must be mapped
	Negative     float64 // have a quantity below zero

	// Dimensions is how many endpoints there are among the properties of events,
	// used by Zipf's law; 0: a few, not in all events.
	Dimensions int

	// DuplicateWithin is how many events a duplicate is behind its original at
	// most. It has to be within the dedupe window.
	DuplicateWithin int64
	// LateBy is how far the time of a late event lies back at most.
	LateBy time.Duration

	// Start is the time of the first event, and Span what all of them are
	// spread over evenly; records have the same timestamps. A zero Start writes
	// live: each event has the time at which it is written.
	Start time.Time
	Span  time.Duration

	// Contracts is how many clients get a contract, with limits at which
	// thresholds are crossed while the events are counted.
	Contracts int
}

// Default is a million live events of 100,000 clients.
func Default() Load {
	return Load{
		Seed: 1, Events: 1_000_000, Clients: 100_000, Zipf: 1.1,
		Duplicates: 0.0005, Undecodable: 0.0002, Late: 0.001,
		DuplicateWithin: 50_000, LateBy: 40 * time.Minute,
	}
}

// maxClients bounds the table of clients to what memory bears.
const maxClients = 50_000_000

// maxDimensions bounds the endpoints, as each client may use all of them.
const maxDimensions = 1_000_000

// voidBehind is how many events a void is behind what it takes back. It is one
// number, so that no event is taken back twice.
const voidBehind = 500

// Validate returns an error that names the first value that is wrong.
func (l Load) Validate() error {
	switch {
	case l.Events < 1:
		return fmt.Errorf("events: %d is not above 0", l.Events)
	case l.First < 0 || l.First > math.MaxInt64-l.Events:
		return fmt.Errorf("first-event: %d is out of range", l.First)
	case l.Rate < 0:
		return fmt.Errorf("rate: %d is negative", l.Rate)
	case l.Clients < 1 || l.Clients > maxClients:
		return fmt.Errorf("clients: %d is not from 1 to %d", l.Clients, maxClients)
	case !(l.Zipf >= 0 && l.Zipf <= 10):
		return fmt.Errorf("zipf: %g is not from 0 to 10", l.Zipf)
	case l.Contracts < 0 || l.Contracts > l.Clients:
		return fmt.Errorf("contracts: %d is not from 0 to the number of clients", l.Contracts)
	case l.Dimensions < 0 || l.Dimensions > maxDimensions:
		return fmt.Errorf("dimensions: %d is not from 0 to %d", l.Dimensions, maxDimensions)
	case l.DuplicateWithin < 1:
		return fmt.Errorf("duplicate-within: %d is not above 0", l.DuplicateWithin)
	case l.LateBy < 0:
		return fmt.Errorf("late-by: %s is negative", l.LateBy)
	case l.Span < 0 || l.Start.IsZero() && l.Span > 0:
		return errors.New("span: needs a start, and must not be negative")
	}
	for _, share := range []struct {
		name  string
		value float64
	}{
		{"duplicates", l.Duplicates},
		{"undecodable", l.Undecodable},
		{"late", l.Late},
		{"second-schema", l.SecondSchema},
		{"voids", l.Voids},
		{"negative", l.Negative},
	} {
		if !(share.value >= 0 && share.value <= 1) {
			return fmt.Errorf("%s: %g is not from 0 to 1", share.name, share.value)
		}
	}
	if l.Duplicates+l.Undecodable+l.Late+l.Voids > 1 {
		return errors.New("duplicates, undecodable, late and voids together are more than 1")
	}
	return nil
}

// Validate returns an error where no event can be written so that the
// configuration would count it.
func (t Target) Validate() error {
	switch {
	case t.Topic == "" || t.Partitions < 1 || t.Partitioner == nil:
		return errors.New("usage topic, its partitions or its partitioner is missing")
	case len(t.meters()) == 0:
		return errors.New("meters: there are none without a condition to write events of")
	}
	_, err := layout(t.Mapping)
	return err
}

// meters returns the places in the catalog of the meters that events name:
// those without a condition.
func (t Target) meters() []int {
	var list []int
	for i := range t.Catalog.Meters {
		if t.Catalog.Meters[i].When == nil {
			list = append(list, i)
		}
	}
	return list
}

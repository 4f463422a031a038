// Package load is the work that the contenders of the benchmark are given: the
// usage events of meterd's own generator, a contract for the clients, and the
// ledger of what must have been counted and told of them in the end.
//
// Everything is a pure function of the shape, so what is written and what is
// expected are made apart from one another. A ledger has two truths, for
// contenders that count a repeated event once and for those that count it each
// time.
package load

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/loadgen"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// Shape is how much of what is written.
type Shape struct {
	Events     int64
	Clients    int
	Meters     int     // up to len(Names)
	Zipf       float64 // exponent of how use is spread over clients; 0: evenly over clients and meters
	Partitions int32
	Contracts  int  // how many clients have one, with a limit on every meter
	Crossing   int  // on about how many keys thresholds are passed
	Clean      bool // no late, repeated or undecodable events
}

// Names are the meters', the most used first.
var Names = [8]string{"api_requests", "storage_gb_hours", "egress_bytes", "compute_seconds", "tokens_in", "tokens_out", "messages_sent", "seats"}

// Thresholds are the per cent of a limit that are told.
var Thresholds = [3]int64{50, 80, 100}

// seed of everything random.
const seed = 1

// begin and perSecond lay the events of a load that is not live into time.
var begin = time.Date(2026, 6, 15, 0, 0, 0, 0, time.UTC)

const perSecond = 50_000

// events returns the shape as meterd's generator has it.
func (s Shape) events() loadgen.Load {
	l := loadgen.Default()
	l.Seed, l.Events, l.Clients, l.Zipf, l.EvenMeters = seed, s.Events, s.Clients, s.Zipf, s.Zipf == 0
	l.Start, l.Span = begin, time.Duration(float64(s.Events)/perSecond*float64(time.Second))
	if s.Clean {
		l.Duplicates, l.Undecodable, l.Late = 0, 0, 0
	}
	return l
}

// target is where and how events are written.
func (s Shape) target(topic string) (loadgen.Target, error) {
	partitioner, err := kafka.NewPartitioner("murmur2")
	if err != nil {
		return loadgen.Target{}, err
	}
	catalog := &usage.Catalog{Schedule: usage.Schedule{Kind: usage.Lifetime, Zone: time.UTC}}
	for _, name := range Names[:s.Meters] {
		catalog.Meters = append(catalog.Meters, usage.Meter{Name: name, Aggregation: usage.Sum})
	}
	return loadgen.Target{
		Topic: topic, Partitions: s.Partitions, Partitioner: partitioner,
		Format: schema.Avro, Mapping: schema.DefaultDecoderConfig().Mapping, Catalog: catalog,
	}, nil
}

// Total is what a key must hold.
type Total struct{ Sum, Count int64 }

// Crossing is a threshold of a key's limit.
type Crossing struct {
	Key       int // client times meters, plus meter
	Threshold int64
}

// Ledger is the truth about a load.
type Ledger struct {
	Shape       Shape
	Undecodable int64
	Keys        int // that have events

	generator *loadgen.Generator
	once, all []Total // by key: repeated events once, and each time
	limits    []int64 // by key; 0: none
}

// NewLedger counts the events of a shape, and draws the limits of the
// contracts from that.
func NewLedger(s Shape) *Ledger {
	l := &Ledger{
		Shape: s, generator: loadgen.NewGenerator(s.events(), s.Meters),
		once: make([]Total, s.Clients*s.Meters), all: make([]Total, s.Clients*s.Meters), limits: make([]int64, s.Clients*s.Meters),
	}
	l.count(0, s.Events)
	l.draw()
	return l
}

// Grow adds events to the end of the load. The limits stay.
func (l *Ledger) Grow(events int64) {
	l.count(l.Shape.Events, l.Shape.Events+events)
	l.Shape.Events += events
}

// count takes in the events from one number up to another.
func (l *Ledger) count(from, to int64) {
	for i := from; i < to; i++ {
		ev := l.generator.At(i)
		if ev.Kind == loadgen.Undecodable {
			l.Undecodable++
			continue
		}
		k := l.key(ev.Client, ev.Meter)
		if l.all[k].Count == 0 {
			l.Keys++
		}
		l.all[k].add(ev.Quantity)
		if ev.Kind != loadgen.Duplicate {
			l.once[k].add(ev.Quantity)
		}
	}
}

// User returns the client of an event: whoever uses more is met more often.
func (l *Ledger) User(event int64) string { return l.Client(l.generator.At(event).Client) }

func (t *Total) add(quantity int64) {
	t.Sum += quantity
	t.Count++
}

func (l *Ledger) key(client, meter int) int { return client*l.Shape.Meters + meter }

// draw gives about as many keys as are to cross a limit that they come to in
// the course of the load, and all others one out of their reach.
func (l *Ledger) draw() {
	contracted := l.once[:min(l.Shape.Contracts, l.Shape.Clients)*l.Shape.Meters]
	least, able := l.able(contracted)
	for k, t := range contracted {
		h := scatter(uint64(k))
		if t.Count >= least && h%uint64(able) < uint64(l.Shape.Crossing) {
			// 0.7 to 1.9 times the use: one, two or all of the thresholds
			l.limits[k] = max(1, t.Sum*int64(70+scatter(h)%121)/100)
		} else {
			l.limits[k] = t.Sum*4 + 1_000_000 + int64(h%1000)*1000
		}
	}
}

// able returns how many events a key must have to be chosen, and how many keys
// have as many.
func (l *Ledger) able(contracted []Total) (least int64, able int) {
	for least = 20; ; least /= 2 {
		able = 0
		for _, t := range contracted {
			if t.Count >= least && t.Count > 0 {
				able++
			}
		}
		if able >= l.Shape.Crossing || least <= 1 {
			return max(1, least), max(1, able)
		}
	}
}

// scatter is the finalizer of splitmix64.
func scatter(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Crossers returns which thresholds each event passes, by its number. It is of
// clean loads, in which both truths are one.
func (l *Ledger) Crossers() map[int64][]Crossing {
	sums := make([]int64, len(l.once))
	found := map[int64][]Crossing{}
	for i := range l.Shape.Events {
		ev := l.generator.At(i)
		k := l.key(ev.Client, ev.Meter)
		before := sums[k]
		sums[k] += ev.Quantity
		for _, t := range Thresholds {
			if at := l.limits[k] * t; at > 0 && before*100 < at && at <= sums[k]*100 {
				found[i] = append(found[i], Crossing{Key: k, Threshold: t})
			}
		}
	}
	return found
}

// totals returns one of the two truths.
func (l *Ledger) totals(once bool) []Total {
	if once {
		return l.once
	}
	return l.all
}

// crossings returns what must have been told.
func (l *Ledger) crossings(once bool) map[Crossing]bool {
	due := map[Crossing]bool{}
	for k, t := range l.totals(once) {
		for _, threshold := range Thresholds {
			if l.limits[k] > 0 && t.Sum*100 >= l.limits[k]*threshold {
				due[Crossing{Key: k, Threshold: threshold}] = true
			}
		}
	}
	return due
}

// Client returns the name of client number n.
func (l *Ledger) Client(n int) string { return loadgen.ClientName(n) }

// find returns the key of a client's meter.
func (l *Ledger) find(client, meter string) (key int, ok bool) {
	digits, named := strings.CutPrefix(client, "client-")
	scattered, err := strconv.ParseUint(digits, 16, 32)
	n := int(uint32(scattered) * inverse)
	if !named || err != nil || n >= l.Shape.Clients || loadgen.ClientName(n) != client {
		return 0, false
	}
	for m, name := range Names[:l.Shape.Meters] {
		if name == meter {
			return l.key(n, m), true
		}
	}
	return 0, false
}

// inverse undoes the scattering of client names: generator's factor times it is
// 1 in 32 bits.
const inverse uint32 = 0x0e8b2f51

// BusiestShare returns which share of the use a share of the clients has, the
// busiest first.
func BusiestShare(clients int, exponent, share float64) float64 {
	busiest, all := 0.0, 0.0
	for n := range clients {
		weight := math.Pow(float64(n+1), -exponent)
		all += weight
		if float64(n) < share*float64(clients) {
			busiest += weight
		}
	}
	return busiest / all
}

package loadgen

import (
	"math"
	"strconv"
	"time"
)

// Kind is what is special about an event.
type Kind uint8

// The kinds of events.
const (
	Normal Kind = iota
	Late
	Duplicate
	Undecodable
	Void
)

// Event is one event before it is written.
type Event struct {
	Kind     Kind
	Origin   int64 // the event whose id and content this is; another one's for a duplicate or a void
	Client   int
	Meter    int
	Quantity int64
	Behind   time.Duration // how late it is
	Endpoint int           // of Load.Dimensions
}

// Generator makes events. It never changes, so any number of goroutines may
// use it.
type Generator struct {
	load   Load
	meters int
	shares []uint64 // of the kinds, as bounds of a hash
	pick   *picker
	choose *picker // of endpoints; nil: none
}

// NewGenerator returns the generator of a load on so many meters.
func NewGenerator(load Load, meters int) *Generator {
	g := &Generator{load: load, meters: meters, pick: newPicker(load.Clients, load.Zipf)}
	if load.Dimensions > 0 {
		g.choose = newPicker(load.Dimensions, endpointZipf)
	}
	sum := 0.0
	for _, share := range []float64{load.Undecodable, load.Duplicates, load.Late, load.Voids} {
		sum += share
		g.shares = append(g.shares, fraction(sum))
	}
	return g
}

// endpointZipf is the exponent of how use is spread over endpoints.
const endpointZipf = 1.2

// fraction returns the bound below which a share of all hashes lies.
func fraction(share float64) uint64 {
	if share >= 1 {
		return math.MaxUint64
	}
	return uint64(share * (1 << 63) * 2)
}

// scatter is a bijection of 64 bits in which neighbours become strangers: the
// finalizer of splitmix64.
func scatter(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Purposes keep the hashes of one event apart.
const (
	forKind = iota + 1
	forOriginal
	forContent
	forQuantity
	forLateness
	forID
	forText
	forSign
	forEndpoint
)

func (g *Generator) hash(i int64, purpose uint64) uint64 {
	return scatter(scatter(g.load.Seed+purpose<<56) ^ uint64(i))
}

// drawn returns the kind that event i was drawn to have.
func (g *Generator) drawn(i int64) Kind {
	switch h := g.hash(i, forKind); {
	case h < g.shares[0]:
		return Undecodable
	case h < g.shares[1]:
		return Duplicate
	case h < g.shares[2]:
		return Late
	case h < g.shares[3]:
		return Void
	}
	return Normal
}

// At returns event i. One that was drawn to be a duplicate or a void, but whose
// original would not be counted by itself, is a normal event.
func (g *Generator) At(i int64) Event {
	kind := g.drawn(i)
	var original int64
	switch kind {
	case Duplicate:
		original = i - 1 - int64(g.hash(i, forOriginal)%uint64(g.load.DuplicateWithin))
	case Void:
		original = i - min(voidBehind, g.load.DuplicateWithin)
	default:
		return g.content(i, kind)
	}
	if original >= 0 {
		if k := g.drawn(original); k == Normal || k == Late {
			e := g.content(original, k)
			e.Kind = kind
			return e
		}
	}
	return g.content(i, Normal)
}

// content returns event i as an event of its own.
func (g *Generator) content(i int64, kind Kind) Event {
	h := g.hash(i, forContent)
	e := Event{Kind: kind, Origin: i, Client: g.pick.client(h)}
	e.Meter = g.meter(h >> 40)
	e.Quantity = 1 + int64(g.hash(i, forQuantity)%1000)
	if g.load.Negative > 0 && g.hash(i, forSign) < fraction(g.load.Negative) {
		e.Quantity = -e.Quantity
	}
	if g.choose != nil {
		e.Endpoint = g.choose.client(g.hash(i, forEndpoint))
	}
	if kind == Late && g.load.LateBy > 0 {
		least := min(time.Minute, g.load.LateBy/2)
		e.Behind = least + time.Duration(g.hash(i, forLateness)%uint64(g.load.LateBy-least+1))
	}
	return e
}

// meter returns the meter that the bits of a hash draw.
func (g *Generator) meter(bits uint64) (m int) {
	if g.load.EvenMeters {
		return int(bits % uint64(g.meters))
	}
	for ; bits&1 == 1 && m < g.meters-1; bits >>= 1 {
		m++
	}
	return m
}

// clientMask keeps client names within the 32 bits they are scattered in.
const clientMask = 1<<32 - 1

// ClientName returns the name of client number n. Neighbours in rank are
// strangers in name, and no two clients share one.
func ClientName(n int) string {
	// Multiplying by an odd number is a bijection of 32 bits.
	h := strconv.FormatUint(uint64(n)*0x9e3779b1&clientMask, 16)
	return "client-" + "00000000"[len(h):] + h
}

const hexDigits = "0123456789abcdef"

// appendID appends the id of event i in the form of a UUID. The lower half is
// a bijection of i, so ids of one seed never meet.
func (g *Generator) appendID(dst []byte, i int64) []byte {
	dst = appendHex(dst, scatter(g.load.Seed^forID<<56), 64, 32)
	dst = append(dst, '-')
	dst = appendHex(dst, scatter(g.load.Seed^forID<<56), 32, 16)
	dst = append(dst, '-')
	dst = appendHex(dst, scatter(g.load.Seed^forID<<56), 16, 0)
	low := g.hash(i, forID)
	dst = append(dst, '-')
	dst = appendHex(dst, low, 64, 48)
	dst = append(dst, '-')
	return appendHex(dst, low, 48, 0)
}

// appendHex appends the bits of x below from and from to on.
func appendHex(dst []byte, x uint64, from, to int) []byte {
	for shift := from - 4; shift >= to; shift -= 4 {
		dst = append(dst, hexDigits[x>>shift&15])
	}
	return dst
}

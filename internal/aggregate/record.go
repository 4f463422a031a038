package aggregate

import (
	"strconv"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// SeedState is how much a counter knows of what was used before its boundary.
type SeedState string

// The states of a seed.
const (
	SeedNone    SeedState = "none"    // no history is configured: the counter began at zero
	SeedPending SeedState = "pending" // asked for, not answered
	SeedExact   SeedState = "exact"   // answered, with proof
	SeedBounded SeedState = "bounded" // answered, within a bound
	SeedFailed  SeedState = "failed"  // answered with an error so far; it is asked again
)

// Seed is the part of a counter's total that came from history: events of its
// period below Boundary, an offset of the usage topic.
type Seed struct {
	State    SeedState
	Usage    usage.Quantity
	Events   int64
	Boundary int64
	Cut      usage.Time // of a bounded seed: history was asked for what lies before it; else 0
}

// Complete tells whether a total with this seed is all there is to count.
func (s Seed) Complete() bool { return s.State != SeedPending && s.State != SeedFailed }

// some tells whether history had anything.
func (s Seed) some() bool { return s.Events != 0 || s.Usage != 0 }

// Scope says which counter of a client and meter is meant: the zero Scope is
// the default counter, of the configured schedule; any other is of a limit
// that cannot use it.
type Scope struct {
	Contract string     `json:"contract"`
	Kind     usage.Kind `json:"period"`
	Timezone string     `json:"timezone"`
	StartsAt usage.Time `json:"starts_at"`

	// What the counters take of a meter's dimensions, where that is neither all
	// of them nor none: canonical JSON of the object of required values and of
	// the array of names (sorted) whose values are counted apart. "" is none.
	Where string `json:"where,omitempty"`
	Per   string `json:"per,omitempty"`
}

// Default tells whether s is the scope of default counters.
func (s Scope) Default() bool { return s == Scope{} }

// CounterRecord is the changelog's record of one counter: absolute, so that
// applying it twice is harmless.
type CounterRecord struct {
	Client     string
	Meter      string
	Scope      Scope
	Dimensions map[string]string // values, required ones and those counted apart; nil: the total
	Period     usage.Period
	Decimals   int
	Total      usage.Quantity
	Events     int64
	First      usage.Time // event times of the earliest and the latest event counted
	Last       usage.Time
	Seed       Seed
	Distinct   []byte // of a meter that counts distinct values: the set of them

	scopeKey string // what stands in the key for Scope; "" where that was not written down
}

// LimitRecord is the changelog's record of what one limit has told in one
// period.
type LimitRecord struct {
	Contract    string
	Limit       string
	Dimensions  map[string]string // the per values
	Where       map[string]string // with Dimensions, those of the counter
	Place       int               // in the contract
	Period      usage.Period
	Client      string
	Meter       string
	Scope       Scope
	Revision    int64
	Value       usage.Quantity
	Decimals    int
	Enforcement contracts.Enforcement
	Standing    []contracts.Threshold // with the values they were crossed at
	Sequence    int64                 // of the last limit event
	Closed      bool                  // its period has ended and was evaluated
	Last        *alerts.Event         // the last limit event, for limit-state
	Told        []Telling             // the last limit events, oldest first, at most MaxTold
}

// MaxTold bounds how many limit events are remembered of a limit and period.
const MaxTold = 16

// Telling is what is remembered of a limit event, to explain it later.
type Telling struct {
	Sequence  int64            `json:"sequence"`
	Kind      alerts.EventKind `json:"kind"`
	Labels    []string         `json:"thresholds"`
	Before    string           `json:"usage_before"`
	After     string           `json:"usage_after"`
	Revision  int64            `json:"contract_revision"`
	Cause     alerts.Cause     `json:"cause"`
	Late      bool             `json:"late"`
	DecidedAt usage.Time       `json:"decided_at"`
	Silent    bool             `json:"marked,omitempty"` // by a seed that is not announced: it stands in limit-state alone
}

// PositionRecord is the changelog's record of how far a partition is counted.
type PositionRecord struct {
	Position     int64      // next offset to read
	Time         usage.Time // partition time
	Boundary     int64      // where counting began
	BoundaryTime usage.Time // when that was decided, by the clock
	Meters       []MeterBirth
	Contracts    int64 // next offset of the contracts topic to be taken in
	Settled      int64 // what came below it on that topic waits for no other partition
}

// MeterBirth says from where on a meter is counted: one that the configuration
// gets later begins later.
type MeterBirth struct {
	Name     string
	Shape    uint64     // a hash of all that its totals depend on
	Boundary int64      // the first offset that it counts
	Time     usage.Time // when that was decided
}

// Hash stands for a client and an event id.
type Hash struct{ Hi, Lo uint64 }

// DedupeRecord is the changelog's record of event ids that were counted in one
// commit, as hashes.
type DedupeRecord struct {
	Bucket usage.Time // end of the slice of time that they expire with
	Offset int64      // the position at which the commit began
	Piece  int        // of several, where one record would be too large
	Void   bool       // they were taken back, or were to be before they came
	Hashes []Hash
}

// Keys of the changelog: a JSON array that begins with the kind of record.
const (
	CounterKind  = "counter"
	LimitKind    = "limit"
	PositionKind = "position"
	DedupeKind   = "dedupe"
	VoidKind     = "void" // a DedupeRecord of voids
)

// AppendCounterKey appends the changelog key of r.
func (r *CounterRecord) AppendCounterKey(dst []byte) []byte {
	dst = append(dst, `["counter",`...)
	dst = append(usage.AppendCanonicalString(dst, r.Client), ',')
	dst = append(usage.AppendCanonicalString(dst, r.Meter), ',')
	if r.scopeKey != "" {
		dst = append(append(dst, r.scopeKey...), ',')
	} else {
		dst = append(r.Scope.appendKey(dst), ',')
	}
	dst = append(usage.AppendCanonicalMap(dst, r.Dimensions), ',')
	dst = usage.AppendCanonicalString(dst, r.Period.ID)
	return append(dst, ']')
}

func (s Scope) appendKey(dst []byte) []byte {
	if s.Default() {
		return append(dst, '{', '}')
	}
	m := map[string]string{
		"contract": s.Contract, "period": string(s.Kind), "timezone": s.Timezone, "starts_at": s.StartsAt.String(),
	}
	if s.Where != "" {
		m["where"] = s.Where
	}
	if s.Per != "" {
		m["per"] = s.Per
	}
	return usage.AppendCanonicalMap(dst, m)
}

// Key returns the changelog key of r.
func (r *LimitRecord) Key() string {
	dst := append(make([]byte, 0, 64), `["limit",`...)
	dst = append(usage.AppendCanonicalString(dst, r.Contract), ',')
	dst = append(usage.AppendCanonicalString(dst, r.Limit), ',')
	dst = append(usage.AppendCanonicalMap(dst, r.Dimensions), ',')
	dst = usage.AppendCanonicalString(dst, r.Period.ID)
	return string(append(dst, ']'))
}

// PositionKey is the changelog key of the PositionRecord of a partition.
func PositionKey(partition int32) string {
	return `["position",` + strconv.Itoa(int(partition)) + `]`
}

// Key returns the changelog key of r.
func (r *DedupeRecord) Key() string {
	dst := append(make([]byte, 0, 64), `["dedupe",`...)
	if r.Void {
		dst = append(dst[:0], `["void",`...)
	}
	dst = append(usage.AppendCanonicalString(dst, r.Bucket.String()), ',')
	dst = append(strconv.AppendInt(dst, r.Offset, 10), ',')
	dst = strconv.AppendInt(dst, int64(r.Piece), 10)
	return string(append(dst, ']'))
}

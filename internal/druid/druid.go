// Package druid answers "how much did these clients use below this boundary?"
// from history in Apache Druid, and only with proof that the answer is whole.
//
// Druid answers 200 with rows missing while a segment is unavailable or a task
// has died, so every question begins with a native groupBy that has a control
// count of all rows of the partition below the boundary, and with it the sums:
// both come from the same segments. Where records are kept apart by more than
// their meter, that groupBy counts the rows of each client instead, and a
// second one, over the rows of those clients alone, must count the same. What
// cannot prove itself is ErrIncomplete, never a smaller number and never zero.
//
// A datasource without the partition and the offset of its rows can be asked
// what was there before a point in time. Such answers are Bounded: nothing that
// Druid has is missing, but the point is not quite the boundary.
//
// Ask makes one attempt. Run and Submitter are the front for many clients:
// they gather requests into batches, ask a few at a time, and retry for ever.
// All of it may be used by any number of goroutines.
package druid

import (
	"errors"
	"hash/maphash"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/usage"
)

// ErrIncomplete is returned when an answer does not prove that it has every
// row below the boundary: it may be right, but nobody can know. Ask again.
var ErrIncomplete = errors.New("history is not proven complete")

// ErrOverflow is returned when a total does not fit, or when Druid's sum may
// have wrapped around.
var ErrOverflow = errors.New("total is out of range")

// ErrColumns is returned when the datasource cannot give exact totals: a column
// is missing or has the wrong type, or rows are rolled up.
var ErrColumns = errors.New("datasource cannot give exact totals")

// Question asks for the totals of some clients in one partition.
type Question struct {
	Partition int32
	// Boundary is the first offset that does not count. At 0 there is nothing
	// to ask, and every total is proven zero. If the offsets before it are
	// known to be transaction markers, the offset after the last record means
	// the same and can be proven sooner: Druid never reports to have passed a
	// marker before it has read a record behind it.
	Boundary int64
	// Start and End bound the event time: Start <= t < End. usage.MinTime and
	// usage.MaxTime leave a side open.
	Start, End usage.Time
	// Cut is what separates the rows below the boundary from others where they
	// have no offsets (Config.Bounded): about when the record at Boundary was
	// appended. Where rows are told apart by event time it is rounded down to a
	// multiple of Config.Granularity. Ignored where rows have offsets.
	Cut     usage.Time
	Clients []string
}

// Total is what the records of one client add up to that agree in meter,
// Fields and Void. What has no Total has no rows.
type Total struct {
	Client string
	Meter  string
	// Fields are the values in the columns of Columns.Fields, in that order. Text
	// is a TextValue, a number a NumberValue (UnfitValue if NaN or infinite), null
	// a NullValue; of Columns.Booleans, a BooleanValue.
	Fields []usage.Value
	Void   bool
	Events int64
	// Quantity is the exact sum; a null quantity is 1.
	Quantity usage.Decimal
	// Min and Max are the least and the largest quantity; zero where rows are
	// rolled up.
	Min, Max usage.Decimal
	// Latest is the quantity of the greatest event time and, of several, of the
	// greatest offset (or, where Bounded, of one that was appended last). Zero
	// unless Config.Latest; where it is there, a client's totals are in the order
	// of those moments, so that of several with an equal Last the last one has
	// the latest quantity of them all.
	Latest usage.Decimal
	// First and Last are the least and the greatest event time.
	First, Last usage.Time
}

// Seeder asks Druid for totals. New makes it.
type Seeder struct {
	cfg     Config
	http    client
	log     *zap.Logger
	metrics metrics
	now     func() time.Time
	schema  schema
	proofs  proofs

	readings readings
	seed     maphash.Seed // of the digests in readings

	mu      sync.Mutex // guards queue and all that hangs on it: groups, batches, entries, submitters
	queue   queue
	changed chan struct{} // closed and replaced whenever waiting workers should look again; under mu
}

// New returns a seeder on hc, which brings TLS and connection limits; its
// redirect policy is replaced by refusal. now is the clock.
func New(cfg Config, hc *http.Client, log *zap.Logger, reg prometheus.Registerer, now func() time.Time) (*Seeder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.CoordinatorURL = strings.TrimRight(cfg.coordinator(), "/")
	cfg.URL = strings.TrimRight(cfg.URL, "/")
	own := *hc
	// A redirect could carry credentials and questions elsewhere.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Seeder{
		cfg:     cfg,
		http:    client{http: &own, cfg: cfg},
		log:     log,
		metrics: newMetrics(reg),
		now:     now,
		seed:    maphash.MakeSeed(),
		queue:   newQueue(),
		changed: make(chan struct{}),
	}, nil
}

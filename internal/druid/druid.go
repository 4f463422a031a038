// Package druid answers "how much did these clients use below this boundary?"
// from history in Apache Druid, and only with proof that the answer is whole.
//
// Druid answers 200 with rows missing while a segment is unavailable or a task
// has died, so every question is one native groupBy that carries the sums and
// a control count of all rows of the partition below the boundary: both come
// from the same segments. What cannot prove itself is ErrIncomplete, never a
// smaller number and never zero.
//
// Ask makes one attempt. Run and Submitter are the front for many clients:
// they gather requests into batches, ask a few at a time, and retry for ever.
// All of it may be used by any number of goroutines.
package druid

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/usage"
)

// Config says where history is and how gently to ask for it.
type Config struct {
	// URL is a router's or a broker's, such as http://127.0.0.1:8888.
	URL string
	// CoordinatorURL is where the supervisor's status and the state of
	// segments are asked for. Empty: URL, which must then be a router with its
	// management proxy on. Only used where the control count alone proves
	// nothing (see Supervisor).
	CoordinatorURL string
	// Datasource holds one row per usage record: never rolled up.
	Datasource string
	Columns    Columns
	// Supervisor is the id of the Kafka supervisor that fills Datasource.
	// Without it, topics with gaps in their offsets (transactional producers,
	// compaction) and history that does not reach back to offset 0 can never
	// be proven complete.
	Supervisor string
	// Timeout bounds one query, its answer included.
	Timeout time.Duration
	// MaxConcurrent bounds the queries under way at once; Lane should have as
	// many places.
	MaxConcurrent int
	// BatchClients bounds the clients of one question.
	BatchClients int
	// MaxPending bounds the requests that one Submitter may have outstanding.
	MaxPending int
	// MaxResponseBytes bounds one answer, uncompressed. A longer one is
	// discarded and asked for again with half the clients.
	MaxResponseBytes int64
	// Username and Password are sent as basic authentication, Token as a
	// bearer token. At most one of the two ways.
	Username, Password, Token string
	// Lane is the query lane; empty: none.
	Lane string
}

// Columns names the columns of the datasource.
type Columns struct {
	Client    string // string
	Meter     string // string; empty: the datasource has none, and totals have the empty meter
	Quantity  string // long; empty: every event is 1, as is every null
	Partition string // long, or string (indexed: quicker)
	Offset    string // long
}

// Default returns the configuration that lacks only URL and, for topics with
// gaps, Supervisor.
func Default() Config {
	return Config{
		Datasource: "usage",
		Columns: Columns{
			Client: "client_id", Meter: "meter", Quantity: "quantity",
			Partition: "k_partition", Offset: "k_offset",
		},
		Timeout:          30 * time.Second,
		MaxConcurrent:    2,
		BatchClients:     1000,
		MaxPending:       100_000,
		MaxResponseBytes: 64 << 20,
	}
}

// Validate returns what is wrong with c, every key named.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("history.druid."+key+": "+format, args...))
	}
	for key, text := range map[string]string{"url": c.URL, "coordinator_url": c.coordinator()} {
		if err := checkURL(text); err != nil {
			bad(key, "%w", err)
		}
	}
	for key, text := range map[string]string{
		"datasource": c.Datasource, "columns.client": c.Columns.Client,
		"columns.partition": c.Columns.Partition, "columns.offset": c.Columns.Offset,
	} {
		if text == "" {
			bad(key, "must not be empty")
		}
	}
	if c.Timeout < time.Second || c.Timeout > time.Hour {
		bad("timeout", "%s is not within 1s to 1h", c.Timeout)
	}
	for key, n := range map[string][3]int{
		"max_queries":   {c.MaxConcurrent, 1, 64},
		"batch_clients": {c.BatchClients, 1, 10_000},
		"max_pending":   {c.MaxPending, 1, 10_000_000},
	} {
		if n[0] < n[1] || n[0] > n[2] {
			bad(key, "%d is not within %d to %d", n[0], n[1], n[2])
		}
	}
	if c.MaxResponseBytes < 1<<10 {
		bad("max_response_bytes", "%d is less than 1024", c.MaxResponseBytes)
	}
	if c.Token != "" && (c.Username != "" || c.Password != "") {
		bad("token", "excludes username and password")
	}
	return errors.Join(errs...)
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("not a URL") // the parser's error repeats the text, which may hold a password
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return errors.New("must be http://HOST or https://HOST")
	case u.User != nil:
		return errors.New("must not hold a password: use username and password_file")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("must have no query and no fragment")
	}
	return nil
}

func (c *Config) coordinator() string {
	if c.CoordinatorURL == "" {
		return c.URL
	}
	return c.CoordinatorURL
}

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
	Clients    []string
}

// Total is what one client used of one meter. A client or meter without a
// Total has no rows.
type Total struct {
	Client string
	Meter  string
	Events int64
	// Quantity is the exact sum; a null quantity is 1.
	Quantity usage.Decimal
	// Min and Max are the least and the largest quantity.
	Min, Max usage.Decimal
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
		queue:   newQueue(),
		changed: make(chan struct{}),
	}, nil
}

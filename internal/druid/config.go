package druid

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
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
	// Datasource holds one row per usage record: never rolled up, unless
	// Columns.Count says how many a row stands for.
	Datasource string
	Columns    Columns
	// Supervisor is the id of the Kafka supervisor that fills Datasource.
	// Without it, topics with gaps in their offsets (transactional producers,
	// compaction) and history that does not reach back to offset 0 can never
	// be proven complete. Needed where rows have no offsets.
	Supervisor string
	// Granularity is the datasource's queryGranularity, from 1 ms (none) to 24 h
	// (day): needed where nothing but event time tells which rows are below a
	// boundary.
	Granularity time.Duration
	// Latest tells that a meter wants Total.Latest, which costs a query more.
	Latest bool
	// Extremes tells that a meter wants Total.Min, Max or Latest.
	Extremes bool
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
	Client   string // string
	Meter    string // string; empty: the datasource has none, and totals have the empty meter
	Quantity string // long; empty: every event is 1, as is every null
	// Partition (long, or string, which is indexed: quicker) and Offset (long)
	// are the record's. Both empty: see Bounded.
	Partition, Offset string
	// RecordTime is when the record was appended, in milliseconds: a long. Used
	// only without Offset.
	RecordTime string
	// Count is how many events a rolled-up row stands for: a long. Empty: each
	// is one. Only without Offset and RecordTime.
	Count string
	// Void tells whether the record takes another back: true or false in a
	// string, 1 or 0 in a long; null is false. Empty: none does.
	Void string
	// Fields are what is kept apart in totals: string, long, double or float.
	Fields []string
	// Booleans marks those of Fields that are booleans, written as Void is. Nil:
	// none of them.
	Booleans []bool
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

// Bounded tells whether rows have no offsets, so that a point in time
// (Question.Cut) must stand for the boundary: when the record was appended
// where there is Columns.RecordTime, else when it was used. Records of all
// partitions are summed then: those of a client are on one.
func (c *Config) Bounded() bool { return c.Columns.Offset == "" }

// byEventTime tells whether rows have neither offset nor record time.
func (c *Config) byEventTime() bool { return c.Bounded() && c.Columns.RecordTime == "" }

// detailed tells whether rows are kept apart by more than client and meter, or
// looked at twice.
func (c *Config) detailed() bool {
	return len(c.Columns.Fields) > 0 || c.Columns.Void != "" || c.latest()
}

// latest tells whether the latest quantities have to be asked for.
func (c *Config) latest() bool { return c.Latest && c.Columns.Quantity != "" }

// position is the column whose least and greatest value and sum tell which
// rows there are. In exact questions no two rows of a partition share one.
func (c *Config) position() string {
	switch {
	case !c.Bounded():
		return c.Columns.Offset
	case !c.byEventTime():
		return c.Columns.RecordTime
	}
	return timeColumn
}

// problems is what is wrong with a configuration.
type problems []error

func (p *problems) add(key, format string, args ...any) {
	*p = append(*p, fmt.Errorf("history.druid."+key+": "+format, args...))
}

// Validate returns what is wrong with c, every key named.
func (c *Config) Validate() error {
	var p problems
	for key, text := range map[string]string{"url": c.URL, "coordinator_url": c.coordinator()} {
		if err := checkURL(text); err != nil {
			p.add(key, "%w", err)
		}
	}
	for key, text := range map[string]string{"datasource": c.Datasource, "columns.client": c.Columns.Client} {
		if text == "" {
			p.add(key, "must not be empty")
		}
	}
	c.validateLevel(&p)
	if slices.Contains(c.Columns.Fields, "") {
		p.add("columns.fields", "must have no empty column")
	}
	if n := len(c.Columns.Booleans); n != 0 && n != len(c.Columns.Fields) {
		p.add("columns.fields", "%d of %d are known to be booleans or not", n, len(c.Columns.Fields))
	}
	if c.Timeout < time.Second || c.Timeout > time.Hour {
		p.add("timeout", "%s is not within 1s to 1h", c.Timeout)
	}
	for key, n := range map[string][3]int{
		"max_queries":   {c.MaxConcurrent, 1, 64},
		"batch_clients": {c.BatchClients, 1, 10_000},
		"max_pending":   {c.MaxPending, 1, 10_000_000},
	} {
		if n[0] < n[1] || n[0] > n[2] {
			p.add(key, "%d is not within %d to %d", n[0], n[1], n[2])
		}
	}
	if c.MaxResponseBytes < 1<<10 {
		p.add("max_response_bytes", "%d is less than 1024", c.MaxResponseBytes)
	}
	if c.Token != "" && (c.Username != "" || c.Password != "") {
		p.add("token", "excludes username and password")
	}
	return errors.Join(p...)
}

// validateLevel checks what the way to tell rows below a boundary needs.
func (c *Config) validateLevel(p *problems) {
	columns := &c.Columns
	switch {
	case columns.Offset == "" && columns.Partition != "":
		p.add("columns.offset", "must not be empty while columns.partition is set")
		return
	case columns.Offset != "" && columns.Partition == "":
		p.add("columns.partition", "must not be empty while columns.offset is set")
		return
	}
	if c.Bounded() && c.Supervisor == "" {
		p.add("supervisor", "must not be empty without columns.partition and columns.offset: nothing else could tell what is published")
	}
	if !c.byEventTime() {
		if columns.Count != "" {
			p.add("columns.count", "is for rolled-up rows, which have neither columns.offset nor columns.record_time")
		}
		return
	}
	const day = 24 * time.Hour
	if g := c.Granularity; g < time.Millisecond || g > day || day%g != 0 || g%time.Millisecond != 0 {
		p.add("granularity", "%s is no part of a day: it must be the datasource's queryGranularity where neither columns.offset nor columns.record_time is set", g)
	}
	if c.Extremes || c.Latest {
		p.add("columns.record_time", "must not be empty, or columns.offset, with meters that are max, min or latest: rolled-up rows do not tell")
	}
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

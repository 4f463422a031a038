// Package verify checks meterd from outside: it recomputes from the usage
// topic what every counter, limit event and position must be, and compares
// that with what meterd has written.
//
// It shares with the counting code no more than the records of the changelog
// and the pure rules of usage, contracts and alerts. Each partition is read
// once, one after the other, up to the position that its changelog stands for;
// so it may run beside a meterd that goes on counting.
//
// What depends on the clock of the instance that counted is judged within the
// bounds that the topics leave: partition time lies between record timestamps
// and what the changelog says of the commit, and a duplicate between the dedupe
// window and the window and an eighth may have been counted or not. What limits
// left untold is looked for wherever it is certain which revision of a contract
// was in force; and in the end just those thresholds must stand that the total
// has reached. A total of distinct values must be exact up to 1024, and within
// 3 % beyond. Where a client had nearly as many combinations of dimension values
// as are kept apart, it may be uncertain which of them were; then they have to
// add up to the total.
package verify

import (
	"context"
	"fmt"
	"time"

	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// Config is how meterd was told to count.
type Config struct {
	ApplicationID     string
	Topics            Topics
	Catalog           *usage.Catalog
	MeterMapped       bool
	VoidMapped        bool // history may have events that it also takes back
	DedupeWindow      time.Duration
	MaxFuture         time.Duration
	AllowedLateness   time.Duration
	DeadLetterUnknown bool // events that no meter takes are dead letters
	KeepPeriods       int
	History           bool // counters are seeded
	MarkSeeded        bool // what history had crossed went to limit-state alone

	// Wait is for how long the group may take to reach the end of the usage
	// topic before anything is compared.
	Wait time.Duration
}

// Topics are the topics' names.
type Topics struct {
	Usage, Contracts, Changelog, LimitEvents, LimitState, DeadLetters string
}

// Cluster is where the topics are. kafka.Cluster is one.
type Cluster interface {
	Partitions(ctx context.Context, topic string) (int32, error)
	LogStart(ctx context.Context, topic string, partition int32) (int64, error)
	LastStable(ctx context.Context, topic string, partition int32) (int64, error)
	HighWatermark(ctx context.Context, topic string, partition int32) (int64, error)
	CommittedOffset(ctx context.Context, group, topic string, partition int32) (offset int64, found bool, err error)
	Read(ctx context.Context, topic string, partition int32, from, to int64, fn func(kafka.Batch) error) (next int64, err error)
}

// Ledger is what the events of the usage topic add up to in each period, voids
// taken off, as somebody else says. Quantities are in the meters' units.
// Dimensions are nil for whatever the values are. A ledger has all combinations
// of a meter or none.
type Ledger interface {
	Each(fn func(client, meter, period string, dimensions map[string]string, events, quantity int64))
	EachPartition(fn func(partition int32, records, duplicates, undecodable, voids int64))
}

// Parts is what the check works with.
type Parts struct {
	Cluster Cluster
	Decoder *schema.Decoder
	Events  *schema.EventCodec
	Ledgers []Ledger // of all that was ever written to the usage topic; or none
	HTTP    *HTTP    // nil: HTTP is not compared
	Found   func(Difference)
}

// Report is what a check came to.
type Report struct {
	Partitions   int   `json:"partitions"`
	Records      int64 `json:"records"`
	Counted      int64 `json:"counted"`
	Duplicates   int64 `json:"duplicates"`
	Voided       int64 `json:"voided"`
	Ignored      int64 `json:"ignored"`
	DeadLettered int64 `json:"dead_lettered"`
	Doubtful     int64 `json:"doubtful"` // may be duplicates or not
	Counters     int64 `json:"counters"`
	LimitEvents  int64 `json:"limit_events"`
	Answers      int64 `json:"http_answers"`
	Differences  int64 `json:"differences"`

	// Unchecked tells what could not be compared, and why.
	Unchecked []string `json:"unchecked"`
}

// Run compares everything and tells each difference to parts.Found. The error
// is for what could not be read; a difference is none.
func Run(ctx context.Context, cfg Config, parts Parts) (Report, error) {
	c := &check{cfg: cfg, parts: parts, ids: map[string]bool{}, report: Report{Unchecked: []string{}}}
	for i := range cfg.Catalog.Meters {
		c.meters = append(c.meters, i)
	}
	n, err := parts.Cluster.Partitions(ctx, cfg.Topics.Usage)
	if err != nil {
		return c.report, fmt.Errorf("usage topic: %w", err)
	}
	if err := c.wait(ctx, n); err != nil {
		return c.report, err
	}
	if c.deals, err = readDeals(ctx, cfg, parts.Cluster); err != nil {
		return c.report, fmt.Errorf("read contracts: %w", err)
	}
	c.partitions = n
	c.openLedger()
	for p := range n {
		if err := c.partition(ctx, p); err != nil {
			return c.report, fmt.Errorf("partition %d: %w", p, err)
		}
		c.report.Partitions++
	}
	if err := c.closeGaps(ctx); err != nil {
		return c.report, fmt.Errorf("limit events of all partitions: %w", err)
	}
	c.closeLedger()
	return c.report, nil
}

// check is a Run on its way.
type check struct {
	cfg        Config
	parts      Parts
	deals      *deals
	meters     []int           // all of them, by their index
	ids        map[string]bool // of limit events
	gaps       []gap
	partitions int32
	ledger     *ledger // nil: none
	report     Report
}

func (c *check) found(list ...Difference) {
	for _, d := range list {
		c.report.Differences++
		if c.parts.Found != nil {
			c.parts.Found(d)
		}
	}
}

// unchecked notes what cannot be compared.
func (c *check) unchecked(format string, args ...any) {
	c.report.Unchecked = append(c.report.Unchecked, fmt.Sprintf(format, args...))
}

// pollEvery is how often a position that is waited for is asked for.
const pollEvery = 50 * time.Millisecond

// wait returns when the group has reached the end that every partition had at
// the beginning, or when the time for that is over.
func (c *check) wait(ctx context.Context, n int32) error {
	if c.cfg.Wait <= 0 {
		return nil
	}
	patience := time.NewTimer(c.cfg.Wait)
	defer patience.Stop()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for p := range n {
		end, err := c.parts.Cluster.LastStable(ctx, c.cfg.Topics.Usage, p)
		if err != nil {
			return fmt.Errorf("end of partition %d: %w", p, err)
		}
		for done := false; !done; {
			at, _, err := c.parts.Cluster.CommittedOffset(ctx, c.cfg.ApplicationID, c.cfg.Topics.Usage, p)
			if err != nil {
				return fmt.Errorf("position of partition %d: %w", p, err)
			}
			if at >= end {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-patience.C:
				c.found(Difference{Position, p, "", fmt.Sprintf("%d is committed after %s, the topic ends at %d", at, c.cfg.Wait, end)})
				return nil
			case <-poll.C:
			}
		}
	}
	return nil
}

// readTimes bounds how often a partition whose position moves is looked at.
const readTimes = 5

// partition compares one partition.
func (c *check) partition(ctx context.Context, p int32) error {
	kept, differences, err := c.snapshot(ctx, p)
	if err != nil {
		return err
	}
	c.found(differences...)
	if kept.position == nil {
		return c.nothingOf(ctx, kept, p)
	}
	start, err := c.parts.Cluster.LogStart(ctx, c.cfg.Topics.Usage, p)
	if err != nil {
		return err
	}
	a := &audit{check: c, number: p, kept: kept}
	if err := a.readLetters(ctx); err != nil {
		return fmt.Errorf("read dead letters: %w", err)
	}
	if err := a.readEvents(ctx); err != nil {
		return fmt.Errorf("read limit events: %w", err)
	}
	if start > kept.position.Boundary {
		c.unchecked("partition %d: counted from offset %d, but the usage topic begins at %d", p, kept.position.Boundary, start)
		c.found(a.fixed...)
		c.gaps = append(c.gaps, a.fixedGaps...)
		return nil
	}
	if err := a.recount(ctx); err != nil {
		return err
	}
	if err := a.compareStates(ctx); err != nil {
		return fmt.Errorf("read limit states: %w", err)
	}
	c.found(a.fixed...)
	c.found(a.differences...)
	c.gaps = append(append(c.gaps, a.fixedGaps...), a.openGaps...)
	a.sumUp()
	if c.parts.HTTP != nil {
		if err := a.compareHTTP(ctx); err != nil {
			return fmt.Errorf("ask over HTTP: %w", err)
		}
	}
	return nil
}

// nothingOf demands that a partition that was never counted has written
// nothing.
func (c *check) nothingOf(ctx context.Context, kept *kept, p int32) error {
	if len(kept.counters)+len(kept.limits) > 0 {
		c.found(Difference{Position, p, "", "the changelog has counters and no position"})
	}
	for _, topic := range []string{c.cfg.Topics.LimitEvents, c.cfg.Topics.DeadLetters} {
		records := 0
		if err := c.readAll(ctx, topic, p, func(*kafka.Record) error { records++; return nil }); err != nil {
			return err
		}
		if records > 0 {
			c.found(Difference{Position, p, "", fmt.Sprintf("%s has %d records, but nothing was counted", topic, records)})
		}
	}
	return nil
}

// readAll reads what a partition has by now, waiting for the end of
// transactions that are open.
func (c *check) readAll(ctx context.Context, topic string, p int32, fn func(*kafka.Record) error) error {
	end, err := c.parts.Cluster.HighWatermark(ctx, topic, p)
	if err != nil {
		return err
	}
	_, err = c.parts.Cluster.Read(ctx, topic, p, kafka.Earliest, end, func(b kafka.Batch) error {
		for i := range b.Records {
			if err := fn(&b.Records[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

package verify

import (
	"context"
	"fmt"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// kept is what the changelog of a partition says.
type kept struct {
	counters map[string]*aggregate.CounterRecord
	limits   map[string]*aggregate.LimitRecord
	marks    map[string]*aggregate.DedupeRecord
	position *aggregate.PositionRecord // nil: none
	points   []checkpoint

	// inherited are the counters that have something of history, by client.
	inherited map[string][]*aggregate.CounterRecord
}

// clock returns when the commit was made that the changelog ends with.
func (k *kept) clock() usage.Time { return k.points[len(k.points)-1].clock }

// snapshot reads a partition's changelog, and compares its position with the
// group's. All of a commit is in the changelog when its position is in the
// group, and the other way round, once no transaction is open; so a position
// between two looks at a group that moves is as it must be.
func (c *check) snapshot(ctx context.Context, p int32) (*kept, []Difference, error) {
	for try := 1; ; try++ {
		before, _, err := c.parts.Cluster.CommittedOffset(ctx, c.cfg.ApplicationID, c.cfg.Topics.Usage, p)
		if err != nil {
			return nil, nil, err
		}
		kept, differences, err := c.readChangelog(ctx, p)
		if err != nil {
			return nil, nil, fmt.Errorf("read changelog: %w", err)
		}
		after, found, err := c.parts.Cluster.CommittedOffset(ctx, c.cfg.ApplicationID, c.cfg.Topics.Usage, p)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case kept.position == nil && !found:
			return kept, differences, nil
		case kept.position != nil && found && before <= kept.position.Position && kept.position.Position <= after:
			return kept, differences, nil
		case before != after && try < readTimes:
			continue
		case kept.position == nil:
			differences = append(differences, Difference{Position, p, "", fmt.Sprintf("the group is at %d, the changelog has no position", after)})
		case !found:
			differences = append(differences, Difference{Position, p, "", fmt.Sprintf("the changelog is at %d, the group has no position", kept.position.Position)})
		default:
			differences = append(differences, Difference{Position, p, "", fmt.Sprintf("the changelog is at %d, the group at %d", kept.position.Position, after)})
		}
		return kept, differences, nil
	}
}

func (c *check) readChangelog(ctx context.Context, p int32) (*kept, []Difference, error) {
	k := &kept{counters: map[string]*aggregate.CounterRecord{}, limits: map[string]*aggregate.LimitRecord{}, marks: map[string]*aggregate.DedupeRecord{}}
	var (
		decoder     schema.ChangelogDecoder
		differences []Difference
	)
	err := c.readAll(ctx, c.cfg.Topics.Changelog, p, func(r *kafka.Record) error {
		if problem := k.take(&decoder, r, p); problem != "" {
			differences = append(differences, Difference{Counter, p, string(r.Key), fmt.Sprintf("changelog offset %d: %s", r.Offset, problem)})
		}
		return nil
	})
	k.inherited = map[string][]*aggregate.CounterRecord{}
	for _, r := range k.counters {
		if r.Seed.Events != 0 || r.Seed.Usage != 0 || c.cfg.VoidMapped && r.Seed.Boundary > 0 {
			k.inherited[r.Client] = append(k.inherited[r.Client], r)
		}
	}
	return k, differences, err
}

// take takes in a record of the changelog and returns what is wrong with it.
func (k *kept) take(decoder *schema.ChangelogDecoder, r *kafka.Record, p int32) (problem string) {
	kind := schema.KindOfKey(r.Key)
	switch {
	case kind == "":
		return "a key of no known kind"
	case r.Value == nil:
		delete(k.counters, string(r.Key))
		delete(k.limits, string(r.Key))
		delete(k.marks, string(r.Key))
		return ""
	}
	record, err := decoder.Decode(r.Key, r.Value)
	if err != nil {
		return err.Error()
	}
	var key string
	switch record := record.(type) {
	case *aggregate.CounterRecord:
		key = string(record.AppendCounterKey(nil))
		k.counters[string(r.Key)] = record
	case *aggregate.LimitRecord:
		key = record.Key()
		k.limits[string(r.Key)] = record
	case *aggregate.DedupeRecord:
		key = record.Key()
		k.marks[string(r.Key)] = record
	case *aggregate.PositionRecord:
		key = aggregate.PositionKey(p)
		problem = k.moved(record, usage.Time(r.Timestamp))
	}
	if key != string(r.Key) {
		return "its content belongs under " + key
	}
	return problem
}

// moved takes in the next position.
func (k *kept) moved(to *aggregate.PositionRecord, clock usage.Time) (problem string) {
	if from := k.position; from != nil {
		switch {
		case to.Position < from.Position:
			problem = fmt.Sprintf("position goes back from %d to %d", from.Position, to.Position)
		case to.Time < from.Time:
			problem = fmt.Sprintf("partition time goes back from %s to %s", from.Time, to.Time)
		case to.Boundary != from.Boundary:
			problem = fmt.Sprintf("boundary moves from %d to %d", from.Boundary, to.Boundary)
		}
	}
	if to.Boundary > to.Position {
		problem = fmt.Sprintf("boundary %d is above the position %d", to.Boundary, to.Position)
	}
	k.position = to
	k.points = append(k.points, checkpoint{position: to.Position, time: to.Time, clock: clock})
	return problem
}

// checkpoint is what was true when a commit was made.
type checkpoint struct {
	position int64
	time     usage.Time // partition time
	clock    usage.Time // of the instance
}

// course tells between which bounds partition time was when a record was
// counted. Offsets are asked for in ascending order.
type course struct {
	points []checkpoint
	next   int // the first point above the offset
	high   usage.Time
}

// moment is when a record was counted: partition time in [lo, hi], the clock
// in [since, until]. The commit before was made at partition time before.
type moment struct{ lo, hi, since, until, before usage.Time }

// skew is by how much clocks of producers and instances may differ.
const skew = usage.Time(60_000)

func (c *course) at(offset int64, timestamp usage.Time) moment {
	for c.next < len(c.points) && c.points[c.next].position <= offset {
		c.next++
	}
	m := moment{lo: usage.MinTime, hi: usage.MaxTime, since: usage.MinTime, until: usage.MaxTime, before: usage.MinTime}
	if c.next > 0 {
		m.lo, m.since = c.points[c.next-1].time, c.points[c.next-1].clock
		m.before = m.lo
	}
	if c.next < len(c.points) {
		m.hi, m.until = c.points[c.next].time, c.points[c.next].clock
	}
	// The clock was at since or later, and bounds what a timestamp may do.
	c.high = max(c.high, min(timestamp, max(m.since, min(timestamp-skew, m.hi))))
	m.lo = min(max(m.lo, c.high), m.hi)
	return m
}

// sure tells whether a contract that was written at a certain time was in
// force by then: it was on the topic when the partition began, or a commit was
// made long after.
func (k *kept) sure(written usage.Time, m moment) bool {
	const grace = 10_000 // milliseconds for reading it
	return written+grace < k.position.BoundaryTime || written+skew < m.since
}

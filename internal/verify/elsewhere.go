package verify

import (
	"context"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/kafka"
)

// gap is numbers of a tuple that a partition lacks. The numbers of a contract
// that moves go on in another partition, so that is a difference only where no
// other one has them.
type gap struct {
	difference Difference
	tuple      tuple
	dimensions map[string]string
	from, to   int64 // to is not lacking
}

// lacks notes that the numbers from one to another, which is not one of
// them, may stand in other partitions. If so, d is told where they do not.
func (a *audit) lacks(gaps *[]gap, d Difference, t tuple, dimensions map[string]string, from, to int64) bool {
	if a.partitions < 2 || a.cfg.MarkSeeded || from >= to {
		return false
	}
	d.Partition = a.number
	*gaps = append(*gaps, gap{difference: d, tuple: t, dimensions: dimensions, from: from, to: to})
	return true
}

// closeGaps tells of numbers that no partition has. What was told after a
// partition was looked at is not missing.
func (c *check) closeGaps(ctx context.Context) error {
	var open []gap
	for _, g := range c.gaps {
		if !c.complete(g) {
			open = append(open, g)
		}
	}
	if len(open) == 0 {
		return nil
	}
	for p := range c.partitions {
		start, err := c.parts.Cluster.LogStart(ctx, c.cfg.Topics.LimitEvents, p)
		if err != nil {
			return err
		}
		if start > 0 {
			c.unchecked("%d limits have numbers that are in no partition, but partition %d of the limit events no longer has the first ones", len(open), p)
			return nil
		}
		if err := c.readAll(ctx, c.cfg.Topics.LimitEvents, p, func(r *kafka.Record) error {
			if e, err := c.parts.Events.Decode(r.Value); err == nil { // else it was told
				c.ids[e.ID] = true
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for _, g := range open {
		if !c.complete(g) {
			c.found(g.difference)
		}
	}
	return nil
}

// complete tells whether some partition has each of the numbers.
func (c *check) complete(g gap) bool {
	id := alerts.Identity{
		ApplicationID: c.cfg.ApplicationID, Contract: g.tuple.contract, Limit: g.tuple.limit, Dimensions: g.dimensions, Period: g.tuple.period,
	}
	for id.Sequence = g.from; id.Sequence < g.to; id.Sequence++ {
		if !c.ids[id.ID()] {
			return false
		}
	}
	return true
}

package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// GroupConfig is how this process is a member of a group. Begin with
// DefaultGroup.
type GroupConfig struct {
	Group   string
	Topic   string
	Address string // this member's HTTP address, told to all the others
	// InstanceID makes the membership static: a restart within SessionTimeout
	// gets the same partitions back. It must be unique in the group.
	InstanceID string
	// SessionTimeout is how long the member may be silent, Heartbeat how often
	// it speaks, and Rebalance how long it may take to hand partitions over.
	SessionTimeout time.Duration
	Heartbeat      time.Duration
	Rebalance      time.Duration
}

// DefaultGroup lacks only names.
func DefaultGroup() GroupConfig {
	return GroupConfig{SessionTimeout: 30 * time.Second, Heartbeat: 3 * time.Second, Rebalance: 60 * time.Second}
}

// Validate names the first value that is wrong.
func (c GroupConfig) Validate() error {
	switch {
	case c.Group == "" || c.Topic == "":
		return errors.New("group: a group and a topic are required")
	case c.Heartbeat < 10*time.Millisecond || c.SessionTimeout < 2*c.Heartbeat:
		return fmt.Errorf("group: session timeout %s is not at least twice the heartbeat %s", c.SessionTimeout, c.Heartbeat)
	case c.Rebalance < c.Heartbeat:
		return fmt.Errorf("group: rebalance timeout %s is below the heartbeat %s", c.Rebalance, c.Heartbeat)
	}
	return nil
}

// Handler is told which partitions this member holds. Calls do not overlap,
// but Lost, which may come while Revoked is running.
type Handler interface {
	// Assigned begins work on partitions and does not block. ctx ends when the
	// membership does, by Lost or by the end of Run.
	Assigned(ctx context.Context, partitions []int32)
	// Revoked returns when the partitions are handed over: nothing of them is
	// written any more. Until then the member is in good standing and may
	// commit. ctx ends when the rebalance timeout is over or all is lost.
	Revoked(ctx context.Context, partitions []int32)
	// Lost stops work on partitions at once: another member may have them.
	Lost(partitions []int32)
}

// Group is the membership in a consumer group, and nothing else: it reads no
// records and no positions. Partitions that a member keeps in a rebalance are
// not touched by it (cooperative, sticky).
type Group struct {
	c       *Cluster
	cfg     GroupConfig
	handler Handler
	log     *zap.Logger

	mu        sync.Mutex
	member    Member    // ID is empty while it is none
	until     time.Time // when the coordinator may have given the member up
	instances []Instance
	changed   chan struct{} // closed, and replaced, at each change of member
}

// NewGroup makes a Group; Run joins it.
func (c *Cluster) NewGroup(cfg GroupConfig, h Handler) (*Group, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Group{
		c: c, cfg: cfg, handler: h, changed: make(chan struct{}),
		log: c.log.With(zap.String("group", cfg.Group)),
	}, nil
}

// Member is this member in its current generation. It is false while the
// process is no member, or has not been heard by the coordinator for so long
// that it may be none.
func (g *Group) Member() (Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.member, g.member.ID != "" && time.Now().Before(g.until)
}

// Renew waits for a later generation of the same membership, in which the
// partitions of the stale one are still held or being handed over. It is false
// when that membership has ended, or ctx.
func (g *Group) Renew(ctx context.Context, stale Member) (Member, bool) {
	for {
		g.mu.Lock()
		now, changed := g.member, g.changed
		g.mu.Unlock()
		if now.ID != stale.ID || now.ID == "" {
			return Member{}, false
		}
		if now.Generation > stale.Generation {
			return now, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Member{}, false
		}
	}
}

// Instances are all members with their partitions, this one included, as the
// group's leader told in the last assignment. Partitions that are moving belong
// to nobody.
func (g *Group) Instances() []Instance {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := slices.Clone(g.instances)
	for i := range out {
		out[i].Partitions = slices.Clone(out[i].Partitions)
	}
	return out
}

// setMember publishes what this member is; the zero Member is none.
func (g *Group) setMember(m Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m == g.member {
		return
	}
	g.member = m
	if m.ID == "" {
		g.instances = nil
	}
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *Group) setInstances(list []Instance) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.instances = list
}

// heard notes that the coordinator counts on us for d from a moment on.
func (g *Group) heard(at time.Time, d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until = at.Add(d)
}

// await sets until, for an answer that may take longer than a session, and
// returns what it was. It is of no effect on Member while there is none.
func (g *Group) await(until time.Time) (before time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before, g.until = g.until, until
	return before
}

// silent is whether the coordinator may have given us up.
func (g *Group) silent() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !time.Now().Before(g.until)
}

// Run joins the group and stays in it until ctx ends; then it hands all
// partitions over, leaves, and returns nil. Through broker trouble it keeps the
// membership for as long as the coordinator does; after that all is Lost and it
// joins again. It returns an error when joining again is of no use:
// ErrFencedInstance, or the brokers do not admit it.
func (g *Group) Run(ctx context.Context) error {
	s := &membership{g: g}
	defer s.close()
	pause := backoff{first: 100 * time.Millisecond, most: 3 * time.Second}
	for {
		err := s.join(ctx)
		if err == nil {
			pause.reset()
			err = s.beat(ctx)
		}
		switch {
		case ctx.Err() != nil:
			s.leave(ctx)
			return nil
		case err == nil: // a rebalance has begun
			continue
		case s.fatal(err):
			s.lose(err)
			return fmt.Errorf("group %s: %w", g.cfg.Group, err)
		}
		g.log.Warn("group trouble", zap.Error(err))
		if s.ended(err) || g.silent() {
			s.lose(err)
		}
		if !pause.wait(ctx) {
			s.leave(ctx)
			return nil
		}
	}
}

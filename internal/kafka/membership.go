package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/IBM/sarama"
	"go.uber.org/zap"
)

// membership is the group protocol of one Run, in one goroutine. It is written
// on the Broker calls and not on sarama's ConsumerGroup, which gives a
// membership up as soon as its coordinator's connection breaks, fetches records
// and positions nobody needs, and cannot say which generation it is in while it
// changes.
type membership struct {
	g    *Group
	link *link // to the coordinator

	id         string // by the coordinator, empty before the first join
	generation int32
	leads      bool
	unknown    bool    // the table of members has us as we were in another life
	known      int32   // partitions of the topic at the last plan, if it leads
	held       []int32 // sorted; those being revoked are out of it already
	leaving    []int32 // being revoked

	// life is given to Assigned, now and in later rebalances: it begins and ends
	// with the membership, which is why it is kept here.
	life     context.Context
	end      context.CancelFunc
	revoked  chan struct{}      // closed when the handler has handed leaving over; nil if there is none
	hurry    context.CancelFunc // ends the context of that Revoked
	checkDue time.Time          // when a leader looks for new partitions
}

// checkEvery is how often the leader looks whether the topic has got partitions.
const checkEvery = time.Minute

// connect finds the coordinator. The connection outlasts a JoinGroup, which is
// answered when all members have joined.
func (s *membership) connect(ctx context.Context) error {
	if s.link != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.g.cfg.SessionTimeout/2)
	defer cancel()
	addr, err := s.g.c.coordinator(ctx, sarama.CoordinatorGroup, s.g.cfg.Group)
	if err != nil {
		return err
	}
	s.link, err = s.g.c.dial(ctx, addr, s.g.cfg.Rebalance+s.g.cfg.SessionTimeout)
	if err != nil {
		s.g.c.moved(sarama.CoordinatorGroup, s.g.cfg.Group, addr)
	}
	return err
}

// drop forgets the coordinator.
func (s *membership) drop() {
	if s.link != nil {
		s.g.c.moved(sarama.CoordinatorGroup, s.g.cfg.Group, s.link.addr)
		s.link.close()
		s.link = nil
	}
}

func (s *membership) close() {
	if s.link != nil {
		s.link.close()
		s.link = nil
	}
	if s.end != nil {
		s.end()
	}
	s.g.setMember(Member{})
}

// tell makes one request to the coordinator, for at most limit.
func tell[T any](ctx context.Context, s *membership, limit time.Duration, request func(*sarama.Broker) (T, error)) (T, error) {
	var none T
	if err := s.connect(ctx); err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := roundTrip(ctx, s.link, request)
	if err != nil {
		s.drop()
	}
	return answer, err
}

// judge is what all answers of the coordinator have in common.
func (s *membership) judge(request string, code sarama.KError) error {
	if movedCoordinator(code) {
		s.drop()
	}
	return refused(request, code)
}

// ended is whether the coordinator said that this membership is over.
func (s *membership) ended(err error) bool {
	code, _ := codeOf(err)
	return code == sarama.ErrUnknownMemberId || code == sarama.ErrIllegalGeneration
}

// fatal is whether to join again would be of no use.
func (s *membership) fatal(err error) bool {
	code, answered := codeOf(err)
	if errors.Is(err, ErrFencedInstance) || errors.Is(err, ErrClosed) || errors.Is(err, ErrNoTopic) {
		return true
	}
	return answered && !s.ended(err) && !notYet(code) && !movedCoordinator(code) && !movedLeader(code) && code != sarama.ErrRebalanceInProgress
}

// join takes part in one rebalance, from JoinGroup to the assignment.
func (s *membership) join(ctx context.Context) error {
	joined, err := s.joinGroup(ctx)
	if err != nil {
		return err
	}
	s.generation = joined.GenerationId
	s.leads = joined.LeaderId == joined.MemberId
	// The old generation is over at this moment: who commits gets the new one,
	// before it is known what it brings. What it takes away stays ours until
	// handed over.
	s.g.heard(time.Now(), s.g.cfg.SessionTimeout)
	s.g.setMember(Member{Group: s.g.cfg.Group, ID: s.id, InstanceID: s.g.cfg.InstanceID, Generation: s.generation})
	list, err := s.plan(ctx, joined)
	if err != nil {
		return err
	}
	began := time.Now()
	answer, err := tell(ctx, s, s.g.cfg.Rebalance, func(b *sarama.Broker) (*sarama.SyncGroupResponse, error) {
		return b.SyncGroup(&sarama.SyncGroupRequest{
			Version: 4, GroupId: s.g.cfg.Group, GenerationId: s.generation, MemberId: s.id,
			GroupInstanceId: s.instance(), GroupAssignments: list,
		})
	})
	if err != nil {
		return fmt.Errorf("SyncGroup: %w", err)
	}
	if err := s.judge("SyncGroup", answer.Err); err != nil {
		return err
	}
	s.g.heard(began, s.g.cfg.SessionTimeout)
	s.g.c.metrics.rebalances.Inc()
	return s.accept(ctx, answer)
}

func (s *membership) instance() *string {
	if s.g.cfg.InstanceID == "" {
		return nil
	}
	return &s.g.cfg.InstanceID
}

func (s *membership) joinGroup(ctx context.Context) (*sarama.JoinGroupResponse, error) {
	for {
		req := &sarama.JoinGroupRequest{
			Version: 7, GroupId: s.g.cfg.Group, MemberId: s.id, GroupInstanceId: s.instance(), ProtocolType: "consumer",
			SessionTimeout: int32(s.g.cfg.SessionTimeout.Milliseconds()), RebalanceTimeout: int32(s.g.cfg.Rebalance.Milliseconds()),
		}
		meta, err := s.subscription()
		if err != nil {
			return nil, err
		}
		if err := req.AddGroupProtocolMetadata(protocolName, meta); err != nil {
			return nil, fmt.Errorf("encode subscription: %w", err)
		}
		// While a join is pending the coordinator keeps the member without
		// heartbeats, for as long as the slowest other member takes.
		limit := s.g.cfg.Rebalance + s.g.cfg.SessionTimeout/2
		before := s.g.await(time.Now().Add(limit))
		answer, err := tell(ctx, s, limit, func(b *sarama.Broker) (*sarama.JoinGroupResponse, error) { return b.JoinGroup(req) })
		if err != nil {
			s.g.await(before) // it may not have arrived
			return nil, fmt.Errorf("JoinGroup: %w", err)
		}
		switch answer.Err {
		case sarama.ErrMemberIdRequired:
			s.id = answer.MemberId
			continue
		case sarama.ErrFencedInstancedId:
			return nil, fmt.Errorf("%w: %s", ErrFencedInstance, s.g.cfg.InstanceID)
		}
		if err := s.judge("JoinGroup", answer.Err); err != nil {
			return nil, err
		}
		s.id = answer.MemberId
		return answer, nil
	}
}

// accept acts on an assignment.
func (s *membership) accept(ctx context.Context, answer *sarama.SyncGroupResponse) error {
	partitions, instances, err := readAssignment(answer, s.g.cfg.Topic)
	if err != nil {
		return err
	}
	s.g.setInstances(instances)
	if s.life == nil {
		// The coordinator gives a static member that comes back its old assignment,
		// and the others hear nothing: they would go on to look for who it was.
		s.unknown = !slices.ContainsFunc(instances, func(i Instance) bool { return i.ID == s.id && i.Address == s.g.cfg.Address })
		s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	}
	taken := without(s.held, partitions)
	added := without(partitions, s.held)
	s.held = partitions
	s.g.log.Info("group assignment", zap.Int32("generation", s.generation),
		zap.Int32s("held", s.held), zap.Int32s("added", added), zap.Int32s("revoked", taken))
	if len(taken) > 0 {
		s.handOver(taken)
	}
	if len(added) > 0 {
		s.g.handler.Assigned(s.life, added)
	}
	return nil
}

// handOver lets the handler give partitions up, beside the heartbeats.
func (s *membership) handOver(partitions []int32) {
	ctx, cancel := context.WithTimeout(s.life, s.g.cfg.Rebalance)
	done := make(chan struct{})
	s.leaving, s.revoked, s.hurry = partitions, done, cancel
	go func() {
		defer close(done)
		defer cancel()
		s.g.handler.Revoked(ctx, partitions)
	}()
}

// handedOver ends a hand-over.
func (s *membership) handedOver() { s.leaving, s.revoked, s.hurry = nil, nil, nil }

// beat sends heartbeats until a rebalance has begun or something was handed
// over, which both mean to join again (nil), or until there is trouble.
func (s *membership) beat(ctx context.Context) error {
	if s.unknown {
		s.unknown = false // once: a leader that does not know us the second time never will
		return nil
	}
	tick := time.NewTicker(s.g.cfg.Heartbeat)
	defer tick.Stop()
	rebalance := false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.revoked:
			s.handedOver()
			return nil
		case <-tick.C:
		}
		begun, err := s.heartbeat(ctx)
		if err != nil && !s.patient(err) {
			return err
		}
		// what is being handed over is handed over first: to join without it
		// would tell the group that it is free
		if rebalance = rebalance || begun; rebalance && s.revoked == nil {
			return nil
		}
		if s.grown(ctx) {
			return nil
		}
	}
}

// heartbeat is true when a rebalance has begun.
func (s *membership) heartbeat(ctx context.Context) (bool, error) {
	began := time.Now()
	answer, err := tell(ctx, s, max(s.g.cfg.SessionTimeout/3, s.g.cfg.Heartbeat), func(b *sarama.Broker) (*sarama.HeartbeatResponse, error) {
		return b.Heartbeat(&sarama.HeartbeatRequest{
			Version: 4, GroupId: s.g.cfg.Group, GenerationId: s.generation, MemberId: s.id, GroupInstanceId: s.instance(),
		})
	})
	if err != nil {
		return false, fmt.Errorf("heartbeat: %w", err)
	}
	switch answer.Err {
	case sarama.ErrNoError, sarama.ErrRebalanceInProgress:
		s.g.heard(began, s.g.cfg.SessionTimeout)
		return answer.Err == sarama.ErrRebalanceInProgress, nil
	case sarama.ErrFencedInstancedId:
		return false, fmt.Errorf("%w: %s", ErrFencedInstance, s.g.cfg.InstanceID)
	}
	return false, s.judge("heartbeat", answer.Err)
}

// patient is whether the next heartbeat may go better: the coordinator keeps
// the member until the session timeout, on whichever broker it then is.
func (s *membership) patient(err error) bool {
	if s.ended(err) || s.fatal(err) || s.g.silent() {
		return false
	}
	s.g.log.Warn("heartbeat failed", zap.Error(err))
	return true
}

// grown is whether the topic has got partitions, which only the leader asks.
func (s *membership) grown(ctx context.Context) bool {
	if !s.leads || s.revoked != nil || time.Now().Before(s.checkDue) {
		return false
	}
	s.checkDue = time.Now().Add(checkEvery)
	ctx, cancel := context.WithTimeout(ctx, s.g.cfg.Heartbeat)
	defer cancel()
	n, err := s.g.c.Partitions(ctx, s.g.cfg.Topic)
	return err == nil && n != s.known
}

// lose ends the membership without a hand-over.
func (s *membership) lose(cause error) {
	s.g.setMember(Member{})
	if s.hurry != nil {
		s.hurry()
	}
	gone := slices.Sorted(slices.Values(append(slices.Clone(s.held), s.leaving...)))
	if len(gone) > 0 {
		s.g.c.metrics.lost.Inc()
		s.g.log.Warn("membership lost", zap.Int32s("partitions", gone), zap.Error(cause))
		s.g.handler.Lost(gone)
	}
	if s.end != nil {
		s.end()
	}
	if s.revoked != nil {
		<-s.revoked
		s.handedOver()
	}
	s.life, s.end, s.held = nil, nil, nil
	s.id, s.generation, s.leads = "", -1, false
}

// leave hands everything over, with heartbeats meanwhile, and says good-bye. A
// static member says nothing: it may come back.
func (s *membership) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.g.cfg.Rebalance)
	defer cancel()
	for len(s.held) > 0 || s.revoked != nil {
		if s.revoked == nil {
			s.handOver(s.held)
			s.held = nil
		}
		if err := s.beatAway(ctx); err != nil {
			s.lose(err)
			return
		}
		s.handedOver()
	}
	if s.id == "" || s.g.cfg.InstanceID != "" {
		return
	}
	pause := backoff{first: 20 * time.Millisecond, most: 500 * time.Millisecond}
	for until := time.Now().Add(min(s.g.cfg.SessionTimeout, 3*time.Second)); ; { // the coordinator finds out by itself, in the end
		err := s.leaveGroup(ctx)
		if err == nil || s.ended(err) {
			return
		}
		if time.Now().After(until) || !pause.wait(ctx) {
			s.g.log.Warn("leave group", zap.Error(err))
			return
		}
	}
}

func (s *membership) leaveGroup(ctx context.Context) error {
	answer, err := tell(ctx, s, s.g.cfg.SessionTimeout/3, func(b *sarama.Broker) (*sarama.LeaveGroupResponse, error) {
		return b.LeaveGroup(&sarama.LeaveGroupRequest{Version: 4, GroupId: s.g.cfg.Group, Members: []sarama.MemberIdentity{{MemberId: s.id}}})
	})
	if err != nil {
		return err
	}
	return s.judge("LeaveGroup", answer.Err)
}

// beatAway sends heartbeats until the hand-over is done.
func (s *membership) beatAway(ctx context.Context) error {
	tick := time.NewTicker(s.g.cfg.Heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-s.revoked:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if _, err := s.heartbeat(ctx); err != nil && !s.patient(err) {
			return err
		}
	}
}

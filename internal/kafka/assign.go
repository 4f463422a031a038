package kafka

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/IBM/sarama"
)

// protocolName is that of our assignment among a group's protocols. It is not
// Kafka's "cooperative-sticky", though it assigns like that, because members of
// another kind would not understand what is carried with it.
const protocolName = "meterd-cooperative-sticky"

// envelope is what a member tells the leader with its subscription.
type envelope struct {
	Address string `json:"address"`
	// Member makes the subscription of a static member that came back another
	// one, once it knows what it is called now: with that the coordinator has
	// the group make a new table.
	Member string `json:"member,omitempty"`
}

// entry is a member in the table that the leader sends with each assignment.
type entry struct {
	ID         string  `json:"id"`
	Address    string  `json:"address"`
	Partitions []int32 `json:"partitions"`
}

// subscription is what this member holds and wants. What it is still handing
// over counts as held, or it would be given away.
func (s *membership) subscription() (*sarama.ConsumerGroupMemberMetadata, error) {
	data, err := json.Marshal(envelope{Address: s.g.cfg.Address, Member: s.id})
	if err != nil {
		return nil, fmt.Errorf("encode address: %w", err)
	}
	meta := &sarama.ConsumerGroupMemberMetadata{Version: 2, Topics: []string{s.g.cfg.Topic}, UserData: data, GenerationID: -1}
	if own := slices.Sorted(slices.Values(append(slices.Clone(s.held), s.leaving...))); len(own) > 0 {
		meta.OwnedPartitions = []*sarama.OwnedPartition{{Topic: s.g.cfg.Topic, Partitions: own}}
		meta.GenerationID = s.generation
	}
	return meta, nil
}

// plan distributes the partitions if this member is the leader; others return
// nothing. Partitions that move are withheld until their old owner has joined
// again without them.
func (s *membership) plan(ctx context.Context, joined *sarama.JoinGroupResponse) ([]sarama.SyncGroupRequestAssignment, error) {
	if !s.leads {
		return nil, nil
	}
	members, err := joined.GetMembers()
	if err != nil {
		return nil, fmt.Errorf("read subscriptions: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.g.cfg.SessionTimeout/2)
	defer cancel()
	n, err := s.g.c.Partitions(ctx, s.g.cfg.Topic)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	s.known, s.checkDue = n, time.Now().Add(checkEvery)
	addresses := make(map[string]string, len(members))
	for id, m := range members {
		var e envelope
		if json.Unmarshal(m.UserData, &e) == nil { // an unreadable one is a member without an address
			addresses[id] = e.Address
		}
		m.UserData = nil
		members[id] = m
	}
	all := make([]int32, n)
	for p := range all {
		all[p] = int32(p)
	}
	plan, err := sarama.NewBalanceStrategyCooperativeSticky().Plan(members, map[string][]int32{s.g.cfg.Topic: all})
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return assignments(s.g.cfg.Topic, plan, addresses, members)
}

func assignments(topic string, plan sarama.BalanceStrategyPlan, addresses map[string]string, members map[string]sarama.ConsumerGroupMemberMetadata) ([]sarama.SyncGroupRequestAssignment, error) {
	table := make([]entry, 0, len(members))
	for id := range members {
		table = append(table, entry{ID: id, Address: addresses[id], Partitions: slices.Sorted(slices.Values(plan[id][topic]))})
	}
	slices.SortFunc(table, func(a, b entry) int { return cmp.Compare(a.ID, b.ID) })
	data, err := json.Marshal(table)
	if err != nil {
		return nil, fmt.Errorf("encode members: %w", err)
	}
	var req sarama.SyncGroupRequest
	for _, e := range table {
		a := &sarama.ConsumerGroupMemberAssignment{UserData: data}
		if len(e.Partitions) > 0 {
			a.Topics = map[string][]int32{topic: e.Partitions}
		}
		if err := req.AddGroupAssignmentMember(e.ID, a); err != nil {
			return nil, fmt.Errorf("encode assignment: %w", err)
		}
	}
	return req.GroupAssignments, nil
}

// readAssignment returns this member's partitions, sorted, and the table of all.
func readAssignment(answer *sarama.SyncGroupResponse, topic string) ([]int32, []Instance, error) {
	if len(answer.MemberAssignment) == 0 {
		return nil, nil, nil
	}
	a, err := answer.GetMemberAssignment()
	if err != nil {
		return nil, nil, fmt.Errorf("read assignment: %w", err)
	}
	var table []entry
	if err := json.Unmarshal(a.UserData, &table); err != nil {
		return nil, nil, errors.Join(errors.New("read the table of members"), err)
	}
	instances := make([]Instance, len(table))
	for i, e := range table {
		instances[i] = Instance(e)
	}
	return slices.Sorted(slices.Values(a.Topics[topic])), instances, nil
}

// without returns what of a is not in b.
func without(a, b []int32) []int32 {
	var out []int32
	for _, x := range a {
		if !slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}

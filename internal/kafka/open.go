package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/IBM/sarama"
)

// OpenTransaction is a transaction that is open on a partition: who reads
// read_committed waits at Start for its end.
type OpenTransaction struct {
	Topic      string
	Partition  int32
	Start      int64     // the offset of its first record here
	Written    time.Time // when its producer last wrote here
	ProducerID int64
	Epoch      int32

	// What the coordinator of transactions says of the producer; empty where it
	// does not know it.
	ID    string // transactional id
	State string
	Began time.Time
	// Hanging tells that the coordinator will never end it here: it does not
	// know of it, or no longer. kafka-transactions.sh abort does.
	Hanging bool
}

// transactionalIDNotFound is Kafka's TRANSACTIONAL_ID_NOT_FOUND, which sarama
// has no name for.
const transactionalIDNotFound sarama.KError = 105

// errMissing is returned when a broker's answer lacks what was asked for.
var errMissing = errors.New("it is missing in the answer")

// OpenTransactions returns the transactions that are open on partitions of
// topics, by topic, partition and offset. It changes nothing, takes Kafka 3.0 or
// later, and asks again through broker trouble until ctx ends.
func (c *Cluster) OpenTransactions(ctx context.Context, topics ...string) ([]OpenTransaction, error) {
	var open []OpenTransaction
	for _, topic := range topics {
		n, err := c.Partitions(ctx, topic)
		if err != nil {
			return nil, err
		}
		for p := range n {
			found, err := c.openOn(ctx, topic, p)
			if err != nil {
				return nil, err
			}
			open = append(open, found...)
		}
	}
	if len(open) == 0 {
		return nil, nil
	}
	if err := c.attribute(ctx, open); err != nil {
		return nil, err
	}
	return c.stillOpen(ctx, open)
}

// stillOpen leaves out what seems to hang and has ended since: the broker of
// the partition and the coordinator were not asked at one moment.
func (c *Cluster) stillOpen(ctx context.Context, open []OpenTransaction) ([]OpenTransaction, error) {
	var kept []OpenTransaction
	for _, t := range open {
		if t.Hanging {
			again, err := c.openOn(ctx, t.Topic, t.Partition)
			if err != nil {
				return nil, err
			}
			same := func(o OpenTransaction) bool { return o.ProducerID == t.ProducerID && o.Start == t.Start }
			if !slices.ContainsFunc(again, same) {
				continue
			}
		}
		kept = append(kept, t)
	}
	slices.SortFunc(kept, func(a, b OpenTransaction) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Start, b.Start))
	})
	return kept, nil
}

// openOn asks a partition's leader.
func (c *Cluster) openOn(ctx context.Context, topic string, partition int32) (open []OpenTransaction, err error) {
	err = c.patiently(ctx, fmt.Sprintf("producers of %s/%d", topic, partition), func() error {
		open, err = c.producers(ctx, topic, partition)
		return err
	})
	return open, err
}

func (c *Cluster) producers(ctx context.Context, topic string, partition int32) ([]OpenTransaction, error) {
	addr, meta, err := c.leader(ctx, topic, partition)
	if err != nil {
		return nil, err
	}
	answer, err := ask(ctx, c.control, addr, func(b *sarama.Broker) (*sarama.DescribeProducersResponse, error) {
		return b.DescribeProducers(&sarama.DescribeProducersRequest{
			Topics: []sarama.DescribeProducersRequestTopic{{Name: topic, PartitionIndexes: []int32{partition}}},
		})
	})
	if err != nil {
		c.forget(topic, meta)
		return nil, err
	}
	if len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
		return nil, fmt.Errorf("DescribeProducers: %w", errMissing)
	}
	found := &answer.Topics[0].Partitions[0]
	if movedLeader(found.ErrorCode) {
		c.forget(topic, meta)
	}
	if err := refused("DescribeProducers", found.ErrorCode); err != nil {
		return nil, err
	}
	var open []OpenTransaction
	for _, p := range found.ActiveProducers {
		if p.CurrentTxnStartOffset >= 0 {
			open = append(open, OpenTransaction{
				Topic: topic, Partition: partition, Start: p.CurrentTxnStartOffset, Written: time.UnixMilli(p.LastTimestamp),
				ProducerID: p.ProducerID, Epoch: p.ProducerEpoch,
			})
		}
	}
	return open, nil
}

// attribute asks the coordinators whose the transactions are.
func (c *Cluster) attribute(ctx context.Context, open []OpenTransaction) error {
	producers := map[int64]string{}
	for _, t := range open {
		producers[t.ProducerID] = ""
	}
	if err := c.patiently(ctx, "list transactions", func() error { return c.transactionalIDs(ctx, producers) }); err != nil {
		return err
	}
	states := map[int64]*sarama.TransactionState{}
	for producer, id := range producers {
		if id == "" {
			continue
		}
		err := c.patiently(ctx, "transaction of "+id, func() (err error) {
			states[producer], err = c.transactionState(ctx, id)
			return err
		})
		if err != nil {
			return err
		}
	}
	for i := range open {
		open[i].judge(states[open[i].ProducerID])
	}
	return nil
}

// judge takes in what the coordinator says of t's producer, nil for nothing.
func (t *OpenTransaction) judge(state *sarama.TransactionState) {
	t.Hanging = true
	if state == nil {
		return
	}
	t.ID, t.State = state.TransactionalID, state.TransactionState
	if state.TransactionStartTime > 0 {
		t.Began = time.UnixMilli(state.TransactionStartTime)
	}
	if state.ProducerID != t.ProducerID {
		return // the id has another producer by now
	}
	for _, topic := range state.Topics {
		if topic.Topic == t.Topic && slices.Contains(topic.Partitions, t.Partition) {
			t.Hanging = false // it is part of a transaction that the coordinator will end
		}
	}
}

// transactionalIDs fills in the transactional ids of producers. A coordinator
// knows only its own, so all brokers are asked.
func (c *Cluster) transactionalIDs(ctx context.Context, producers map[int64]string) error {
	c.mu.Lock()
	addrs := slices.Sorted(maps.Values(c.brokers))
	c.mu.Unlock()
	for _, addr := range addrs {
		answer, err := ask(ctx, c.control, addr, func(b *sarama.Broker) (*sarama.ListTransactionsResponse, error) {
			req := sarama.NewListTransactionsRequest(c.sarama.Version)
			req.ProducerIDFilters = slices.Collect(maps.Keys(producers))
			return b.ListTransactions(req)
		})
		if err != nil {
			return err
		}
		if err := refused("ListTransactions", answer.ErrorCode); err != nil {
			return err
		}
		for _, t := range answer.TransactionStates {
			if _, asked := producers[t.ProducerID]; asked {
				producers[t.ProducerID] = t.TransactionalID
			}
		}
	}
	return nil
}

// transactionState asks an id's coordinator, and returns nil where it does not
// know it.
func (c *Cluster) transactionState(ctx context.Context, id string) (*sarama.TransactionState, error) {
	addr, err := c.coordinator(ctx, sarama.CoordinatorTransaction, id)
	if err != nil {
		return nil, err
	}
	answer, err := ask(ctx, c.control, addr, func(b *sarama.Broker) (*sarama.DescribeTransactionsResponse, error) {
		return b.DescribeTransactions(&sarama.DescribeTransactionsRequest{TransactionalIDs: []string{id}})
	})
	if err != nil {
		c.moved(sarama.CoordinatorTransaction, id, addr)
		return nil, err
	}
	if len(answer.TransactionStates) != 1 {
		return nil, fmt.Errorf("DescribeTransactions: %w", errMissing)
	}
	state := &answer.TransactionStates[0]
	if movedCoordinator(state.ErrorCode) {
		c.moved(sarama.CoordinatorTransaction, id, addr)
	}
	if state.ErrorCode == transactionalIDNotFound {
		return nil, nil //nolint:nilnil // it is not known
	}
	return state, refused("DescribeTransactions", state.ErrorCode)
}

// patiently repeats fn through broker trouble until ctx ends.
func (c *Cluster) patiently(ctx context.Context, doing string, fn func() error) error {
	pause := backoff{first: 10 * time.Millisecond, most: time.Second}
	for {
		err := fn()
		if err == nil {
			return nil
		}
		err = fmt.Errorf("%s: %w", doing, err)
		code, answered := codeOf(err)
		if answered && !movedLeader(code) && !movedCoordinator(code) && !notYet(code) ||
			errors.Is(err, ErrNoTopic) || errors.Is(err, ErrClosed) || errors.Is(err, sarama.ErrUnsupportedVersion) || !answered && !broken(err) {
			return err
		}
		if !pause.wait(ctx) {
			return ended(ctx, err)
		}
	}
}

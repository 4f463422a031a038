package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/IBM/sarama"
	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/internal/failpoint"
)

// Renewal finds the same member in a later generation, and is false when it is
// no longer a member.
type Renewal func(ctx context.Context, stale Member) (Member, bool)

// fill begins a transaction and puts all of tx into it. The order matters to
// real brokers: a Produce is verified with the coordinator, which refuses while
// it is writing the transaction's state, so AddOffsetsToTxn may not run beside
// it; TxnOffsetCommit goes to the group's coordinator and may.
func (w *Writer) fill(ctx context.Context, tx Transaction) error {
	if err := w.addPartitions(ctx, tx.Records); err != nil {
		return err
	}
	failpoint.Hit(failpoint.Begun)
	if tx.Topic != "" {
		if err := w.addOffsets(ctx, tx.Member.Group); err != nil {
			return err
		}
	}
	failpoint.Hit(failpoint.OffsetsAdded)
	// No cancelling of one for the other's error: a request that is cut leaves
	// more doubt than one that is answered.
	var both errgroup.Group
	if tx.Topic != "" {
		both.Go(func() error { return w.commitOffset(ctx, tx) })
	}
	wrote := w.write(ctx, tx.Records, tx.At)
	failpoint.Hit(failpoint.Written)
	placed := both.Wait()
	failpoint.Hit(failpoint.Placed)
	if _, answered := codeOf(placed); placed != nil && !answered {
		return errors.Join(placed, unanswered(wrote)) // doubt weighs more than a refusal
	}
	if wrote != nil {
		return wrote
	}
	return placed
}

// unanswered keeps the text of an error and hides that it was a broker's answer.
func unanswered(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(err.Error())
}

func (w *Writer) addPartitions(ctx context.Context, records []Output) error {
	if len(records) == 0 {
		return nil
	}
	parts := map[string][]int32{}
	for i := range records {
		if ps := parts[records[i].Topic]; !slices.Contains(ps, records[i].Partition) {
			parts[records[i].Topic] = append(ps, records[i].Partition)
		}
	}
	err := w.coordinate(ctx, "AddPartitionsToTxn", false, func(b *sarama.Broker) (sarama.KError, error) {
		r, err := b.AddPartitionsToTxn(&sarama.AddPartitionsToTxnRequest{
			Version: 3, TransactionalID: w.id, ProducerID: w.who.id, ProducerEpoch: w.who.epoch, TopicPartitions: parts,
		})
		if err != nil {
			return 0, err
		}
		worst := sarama.ErrNoError
		for _, ps := range r.Errors {
			for _, p := range ps {
				// "not attempted" because of another partition's error
				if p.Err != sarama.ErrNoError && (worst == sarama.ErrNoError || worst == sarama.ErrOperationNotAttempted) {
					worst = p.Err
				}
			}
		}
		return worst, nil
	})
	return w.opened(err)
}

func (w *Writer) addOffsets(ctx context.Context, group string) error {
	err := w.coordinate(ctx, "AddOffsetsToTxn", false, func(b *sarama.Broker) (sarama.KError, error) {
		r, err := b.AddOffsetsToTxn(&sarama.AddOffsetsToTxnRequest{
			Version: 3, TransactionalID: w.id, ProducerID: w.who.id, ProducerEpoch: w.who.epoch, GroupID: group,
		})
		if err != nil {
			return 0, err
		}
		return r.Err, nil
	})
	return w.opened(err)
}

// opened notes that a transaction is open once the coordinator said yes.
func (w *Writer) opened(err error) error {
	if err == nil {
		w.open, w.asked = true, false
	}
	return err
}

func (w *Writer) write(ctx context.Context, records []Output, at time.Time) error {
	if len(records) == 0 {
		return nil
	}
	if at.IsZero() {
		at = time.Now()
	}
	todo := parcels(records, func(int) time.Time { return at }, &w.who, true, w.cfg.MaxBatchBytes)
	s := shipment{c: w.c, id: &w.id, timeout: min(w.cfg.Timeout, w.c.cfg.ReadTimeout*2/3)}
	sent := map[topicPartition]*parcel{} // the last of each; send empties todo
	for tp, parcels := range todo {
		sent[tp] = parcels[len(parcels)-1]
	}
	if err := s.send(ctx, todo); err != nil {
		return err
	}
	for tp, p := range sent {
		if p.offset >= 0 { // else the older end stays, which is as true
			w.ends[tp] = p.offset + int64(len(p.index))
		}
	}
	return nil
}

// commitOffset puts the position into the transaction. When the group has moved
// on to a later generation meanwhile, Renew says whether the partition is still
// held, and the position goes in under the later one: nothing of it was taken
// under the old.
func (w *Writer) commitOffset(ctx context.Context, tx Transaction) error {
	member := tx.Member
	for {
		err := w.commitOffsetAs(ctx, member, tx)
		code, _ := codeOf(err)
		switch code {
		case sarama.ErrUnknownMemberId, sarama.ErrFencedInstancedId:
			return fmt.Errorf("%w: %w", errMembership, err)
		case sarama.ErrIllegalGeneration:
		default:
			return err
		}
		if tx.Renew == nil {
			return fmt.Errorf("%w: %w", errMembership, err)
		}
		renewed, ok := tx.Renew(ctx, member)
		if !ok || renewed == member {
			return fmt.Errorf("%w: %w", errMembership, err)
		}
		member = renewed
	}
}

func (w *Writer) commitOffsetAs(ctx context.Context, member Member, tx Transaction) error {
	pause := backoff{first: 5 * time.Millisecond, most: 100 * time.Millisecond}
	for {
		err := w.c.coordinate(ctx, w.c.writes, sarama.CoordinatorGroup, member.Group, "TxnOffsetCommit", false, func(b *sarama.Broker) (sarama.KError, error) {
			r, err := b.TxnOffsetCommit(w.offsetRequest(member, tx))
			if err != nil {
				return 0, err
			}
			for _, p := range r.Topics[tx.Topic] {
				if p.Partition == tx.Partition {
					return p.Err, nil
				}
			}
			return 0, errors.New("TxnOffsetCommit: the partition is missing in the answer")
		})
		// the join of a new generation is over, its assignment is not out yet
		if code, _ := codeOf(err); code != sarama.ErrRebalanceInProgress || !pause.wait(ctx) {
			return err
		}
	}
}

func (w *Writer) offsetRequest(member Member, tx Transaction) *sarama.TxnOffsetCommitRequest {
	req := &sarama.TxnOffsetCommitRequest{
		Version: 3, TransactionalID: w.id, GroupID: member.Group, ProducerID: w.who.id, ProducerEpoch: w.who.epoch,
		GenerationID: member.Generation, MemberID: member.ID,
		Topics: map[string][]*sarama.PartitionOffsetMetadata{
			tx.Topic: {{Partition: tx.Partition, Offset: tx.Next, LeaderEpoch: -1, Metadata: &tx.Note}},
		},
	}
	if member.ID == "" {
		req.GenerationID = -1
	}
	if member.InstanceID != "" {
		req.GroupInstanceID = &member.InstanceID
	}
	return req
}

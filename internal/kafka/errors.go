package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/IBM/sarama"
)

// transactionAbortable is Kafka's TRANSACTION_ABORTABLE, which sarama has no
// name for.
const transactionAbortable sarama.KError = 120

// refusal is an error code in a broker's answer: unlike a broken connection it
// says for certain that the request was not carried out.
type refusal struct {
	request string
	code    sarama.KError
}

// Error names the request and the broker's reason.
func (r *refusal) Error() string {
	switch r.code {
	case sarama.ErrProducerFenced:
		return r.request + ": the producer was fenced by a newer one or by its transaction's timeout"
	case transactionAbortable:
		return r.request + ": the transaction must be aborted"
	}
	return fmt.Sprintf("%s: %s (code %d)", r.request, r.code.Error(), int16(r.code))
}

// Unwrap gives sarama's error.
func (r *refusal) Unwrap() error { return r.code }

// refused makes an error of a code, nil of no error.
func refused(request string, code sarama.KError) error {
	if code == sarama.ErrNoError {
		return nil
	}
	return &refusal{request: request, code: code}
}

// codeOf returns the broker's code in err, and false when err is not a broker's
// answer.
func codeOf(err error) (sarama.KError, bool) {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.code, true
	}
	return sarama.ErrNoError, false
}

// movedLeader: the partition is led by another broker, or by none for a moment.
func movedLeader(code sarama.KError) bool {
	switch code {
	case sarama.ErrUnknownTopicOrPartition, sarama.ErrLeaderNotAvailable, sarama.ErrNotLeaderForPartition,
		sarama.ErrReplicaNotAvailable, sarama.ErrBrokerNotAvailable, sarama.ErrKafkaStorageError,
		sarama.ErrFencedLeaderEpoch, sarama.ErrUnknownLeaderEpoch, sarama.ErrOffsetNotAvailable, sarama.ErrListenerNotFound:
		return true
	}
	return false
}

// movedCoordinator: another broker coordinates, or this one is not there yet.
func movedCoordinator(code sarama.KError) bool {
	return code == sarama.ErrNotCoordinatorForConsumer || code == sarama.ErrConsumerCoordinatorNotAvailable
}

// Permanent tells whether a broker has refused something that it will refuse
// however often it is asked: a record that is too large, a right that is not
// there.
func Permanent(err error) bool {
	for _, code := range []sarama.KError{
		sarama.ErrMessageSizeTooLarge, sarama.ErrMessageSetSizeTooLarge, sarama.ErrInvalidRecord,
		sarama.ErrTopicAuthorizationFailed, sarama.ErrGroupAuthorizationFailed, sarama.ErrTransactionalIDAuthorizationFailed,
	} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

// notYet: the same request to the same broker will be answered differently soon.
func notYet(code sarama.KError) bool {
	switch code {
	case sarama.ErrConcurrentTransactions, sarama.ErrOffsetsLoadInProgress, sarama.ErrNotEnoughReplicas,
		sarama.ErrNotEnoughReplicasAfterAppend, sarama.ErrRequestTimedOut, sarama.ErrThrottlingQuotaExceeded,
		sarama.ErrNetworkException, sarama.ErrUnstableOffsetCommit:
		return true
	}
	return false
}

// fencedEpoch: the transactional id has a newer epoch than the request.
func fencedEpoch(code sarama.KError) bool {
	return code == sarama.ErrProducerFenced || code == sarama.ErrInvalidProducerEpoch
}

// pause waits and is false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// backoff is a pause that grows from one attempt to the next. The zero value is
// not ready: set first and most.
type backoff struct {
	first, most, next time.Duration
}

// wait pauses and is false when ctx ended first.
func (b *backoff) wait(ctx context.Context) bool {
	if b.next == 0 {
		b.next = b.first
	}
	d := b.next/2 + rand.N(b.next/2+1)
	b.next = min(b.next*2, b.most)
	return pause(ctx, d)
}

// reset begins again with the shortest pause.
func (b *backoff) reset() { b.next = 0 }

// patience is the pauses between the attempts of a transaction's requests. Its
// coordinator is busy with the last transaction's markers for some milliseconds,
// so "not yet" is asked again soon, for a while; whatever else is wrong takes
// longer.
type patience struct {
	soon, late backoff
	asked      int
}

func newPatience() patience {
	return patience{
		soon: backoff{first: time.Millisecond, most: 2 * time.Millisecond},
		late: backoff{first: 5 * time.Millisecond, most: 250 * time.Millisecond},
	}
}

// wait pauses after err and is false when ctx ended first.
func (p *patience) wait(ctx context.Context, err error) bool {
	if code, ok := codeOf(err); ok && notYet(code) && p.asked < 50 {
		p.asked++
		return p.soon.wait(ctx)
	}
	return p.late.wait(ctx)
}

// ended returns err, or why ctx ended if that is the reason for it.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (last: %w)", cause, err)
	}
	return err
}

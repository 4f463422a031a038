// Package kafka speaks Kafka's protocol for meterd: positions, topics, raw
// fetches, whole transactions and group membership.
//
// It stands on the Broker calls of sarama and uses none of its producers and
// consumers, because those repeat requests without telling. Here nothing is
// repeated on a new connection once it may have changed something: whoever
// commits gets an Outcome, and Unknown means that only the broker can say what
// happened.
//
// A Cluster and what it makes may be used by any number of goroutines, but a
// Writer, which belongs to one at a time. What is read is read_committed, and
// every slice in a Record belongs to the caller.
package kafka

import (
	"errors"
	"time"
)

// Sentinels in place of an offset, as the protocol has them. They never get
// into a Batch.
const (
	Latest   int64 = -1 // behind the last record
	Earliest int64 = -2 // the oldest record there is
)

// Errors that callers tell apart.
var (
	// ErrUnreachable is returned when no broker of the configuration answers.
	ErrUnreachable = errors.New("no broker is reachable")
	// ErrUnsupported is returned when the brokers are too old for exactly-once.
	ErrUnsupported = errors.New("the brokers are too old")
	// ErrNoTopic is returned when a topic does not exist.
	ErrNoTopic = errors.New("no such topic")
	// ErrOffsetOutOfRange is returned when a position is not in the log: it was
	// deleted by retention, or the topic is another one. Nothing is reset.
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrFenced is returned when the epoch of a Writer is over, because a newer
	// owner has taken the transactional id or a transaction got too old.
	ErrFenced = errors.New("fenced by a newer owner")
	// ErrNotInitialised is returned by Commit when Init must come first.
	ErrNotInitialised = errors.New("writer is not initialised")
	// ErrFencedInstance is returned when another process has joined the group
	// with the same instance id.
	ErrFencedInstance = errors.New("another process has the same group instance id")
	// ErrClosed is returned when a Cluster or Fetcher is used after its end.
	ErrClosed = errors.New("closed")
)

// Header is one header of a record.
type Header struct {
	Key, Value []byte
}

// Record is a record as it was read. A nil Key or Value is Kafka's null.
type Record struct {
	Offset    int64
	Timestamp int64 // milliseconds since 1970
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Batch is what one fetch brought for one partition. It may have no records:
// then the position has moved over control records, aborted or compacted ones,
// or the end was reached for the first time.
type Batch struct {
	Topic     string
	Partition int32
	Records   []Record
	// Next is the position behind the batch, control records and holes included.
	Next int64
	// LastStable is where read_committed ended at the time of the fetch: the
	// reader has caught up when Next >= LastStable.
	LastStable    int64
	HighWatermark int64
	Bytes         int // keys, values and headers, uncompressed
	// Asked is when the fetch was sent that brought the batch: LastStable is no
	// older than that.
	Asked time.Time
}

// Output is a record to be written. Its timestamp is the time of the commit.
type Output struct {
	Topic     string
	Partition int32
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Member is a group's member in one generation. The zero Member means no
// group membership: the offset is then committed without a check of it.
type Member struct {
	Group      string
	ID         string
	InstanceID string // of static membership, else empty
	Generation int32
}

// Transaction is all that is committed at once: records, and the position of
// one input partition.
type Transaction struct {
	Records []Output

	// Topic and Partition are the input; Next is committed as the position of
	// Member.Group. An empty Topic commits no position.
	Topic     string
	Partition int32
	Next      int64
	// Note is committed with the position, and CommittedPosition returns it.
	Note string
	// At is the timestamp of the records; zero is the time of the commit.
	At time.Time

	// Member is to be read when the transaction begins.
	Member Member
	// Renew, if set, is asked when the group has moved on to a later generation
	// than Member's since: it returns the same member in that generation, or
	// false when the partition is no longer held. Group.Renew does that. Without
	// it such a transaction is Fenced.
	Renew Renewal
}

// Outcome says what became of a transaction.
type Outcome int

const (
	// Unknown means that it may stand or not. Call Init, then read the committed
	// position.
	Unknown Outcome = iota
	// Committed means that all of it stands.
	Committed
	// Aborted means that nothing of it stands, and the writer may go on.
	Aborted
	// Fenced means that this writer is at its end. A newer owner has the
	// transactional id, or the broker aborted the transaction for its age, or the
	// group membership has ended. Give the partition up and do not call Init:
	// whoever owns it next, which may be this process with a new Writer if it is
	// still assigned to it, finds out what stands.
	Fenced
)

// String returns the outcome as in the label of meterd_transactions_total.
func (o Outcome) String() string {
	switch o {
	case Committed:
		return "committed"
	case Aborted:
		return "aborted"
	case Fenced:
		return "fenced"
	default:
		return "unknown"
	}
}

// Instance is a member of the group as its leader last told.
type Instance struct {
	ID         string
	Address    string // HTTP address the member published; empty if it did not
	Partitions []int32
}

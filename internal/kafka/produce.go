package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// topicPartition names one partition.
type topicPartition struct {
	topic     string
	partition int32
}

// identity is what the brokers know a producer by. Sequence numbers count the
// records of each partition since the epoch began.
type identity struct {
	id    int64
	epoch int16
	next  map[topicPartition]int32
}

// take reserves n sequence numbers of a partition and returns the first. They
// wrap from the largest int32 to 0.
func (i *identity) take(tp topicPartition, n int) int32 {
	first := i.next[tp]
	i.next[tp] = int32((int64(first) + int64(n)) & math.MaxInt32)
	return first
}

// parcel is one batch on its way. It keeps its sequence number however often it
// is sent.
type parcel struct {
	batch  *sarama.RecordBatch
	index  []int // of its records among what was given to the builder
	offset int64 // of the first record, once written; -1 if the broker does not tell
}

// From compressAbove bytes on a batch is worth compressing. recordOverhead is
// what a record takes besides its key, value and headers, at most.
const (
	compressAbove  = 1 << 10
	recordOverhead = 32
)

// parcels cuts outputs into batches of at most limit bytes, uncompressed, in
// the order given for each partition. A record that is larger goes alone. at
// gives each record's time.
func parcels(outputs []Output, at func(i int) time.Time, who *identity, transactional bool, limit int) map[topicPartition][]*parcel {
	byPartition := map[topicPartition][]int{}
	for i := range outputs {
		tp := topicPartition{outputs[i].Topic, outputs[i].Partition}
		byPartition[tp] = append(byPartition[tp], i)
	}
	out := make(map[topicPartition][]*parcel, len(byPartition))
	for tp, index := range byPartition {
		for len(index) > 0 {
			n, bytes := cutAt(outputs, index, limit)
			p := &parcel{index: index[:n], offset: -1, batch: recordBatch(outputs, index[:n], at)}
			if bytes >= compressAbove {
				p.batch.Codec, p.batch.CompressionLevel = sarama.CompressionLZ4, sarama.CompressionLevelDefault
			}
			p.batch.ProducerID, p.batch.ProducerEpoch, p.batch.IsTransactional = who.id, who.epoch, transactional
			p.batch.FirstSequence = who.take(tp, n)
			out[tp] = append(out[tp], p)
			index = index[n:]
		}
	}
	return out
}

// cutAt is how many of the outputs fit into one batch, and their bytes.
func cutAt(outputs []Output, index []int, limit int) (n, bytes int) {
	for n, i := range index {
		size := len(outputs[i].Key) + len(outputs[i].Value) + recordOverhead
		for _, h := range outputs[i].Headers {
			size += len(h.Key) + len(h.Value) + 10
		}
		if n > 0 && bytes+size > limit {
			return n, bytes
		}
		bytes += size
	}
	return len(index), bytes
}

func recordBatch(outputs []Output, index []int, at func(int) time.Time) *sarama.RecordBatch {
	first := at(index[0])
	b := &sarama.RecordBatch{
		Version: 2, FirstTimestamp: first, MaxTimestamp: first,
		LastOffsetDelta: int32(len(index) - 1), Records: make([]*sarama.Record, len(index)),
	}
	records := make([]sarama.Record, len(index))
	for n, i := range index {
		o, t := &outputs[i], at(i)
		records[n] = sarama.Record{Key: o.Key, Value: o.Value, OffsetDelta: int64(n), TimestampDelta: t.Sub(first)}
		for _, h := range o.Headers {
			records[n].Headers = append(records[n].Headers, &sarama.RecordHeader{Key: h.Key, Value: h.Value})
		}
		b.Records[n] = &records[n]
		if t.After(b.MaxTimestamp) {
			b.MaxTimestamp = t
		}
	}
	return b
}

// shipment is the sending of parcels: one batch of each partition at a time,
// all partitions at once, with acks=all.
type shipment struct {
	c       *Cluster
	id      *string // transactional, nil without transactions
	timeout time.Duration
	// redial is whether a request without an answer is sent again. The same
	// sequence numbers make that safe for the log, but not for a transaction,
	// which might have ended meanwhile.
	redial bool
}

// send returns when all parcels are written, or an error when one cannot be or
// ctx ended. Then some may be written.
func (s *shipment) send(ctx context.Context, todo map[topicPartition][]*parcel) error {
	pause := newPatience()
	for len(todo) > 0 {
		byLeader, err := s.route(ctx, todo)
		progress := false
		if err == nil {
			progress, err = s.round(ctx, byLeader, todo)
		}
		switch {
		case err != nil && !s.again(err):
			return err
		case progress:
			pause = newPatience()
		case !pause.wait(ctx, err):
			return ended(ctx, fmt.Errorf("write: %w", err))
		}
	}
	return nil
}

// again is whether a round that failed with err is tried once more.
func (s *shipment) again(err error) bool {
	if code, ok := codeOf(err); ok {
		return movedLeader(code) || notYet(code)
	}
	return s.redial && broken(err)
}

// cargo is one request: the first parcels of partitions with the same leader.
type cargo struct {
	parts map[topicPartition]*parcel
	metas map[string]*topicMeta
}

func (s *shipment) route(ctx context.Context, todo map[topicPartition][]*parcel) (map[string]*cargo, error) {
	out := map[string]*cargo{}
	for tp, ps := range todo {
		addr, meta, err := s.c.leader(ctx, tp.topic, tp.partition)
		if err != nil {
			return nil, err
		}
		if out[addr] == nil {
			out[addr] = &cargo{parts: map[topicPartition]*parcel{}, metas: map[string]*topicMeta{}}
		}
		out[addr].parts[tp] = ps[0]
		out[addr].metas[tp.topic] = meta
	}
	return out, nil
}

// round sends one request to each leader, and takes what was written off todo.
// The error is the worst of all answers.
func (s *shipment) round(ctx context.Context, byLeader map[string]*cargo, todo map[topicPartition][]*parcel) (progress bool, err error) {
	type result struct {
		written []topicPartition
		err     error
	}
	results := make(chan result, len(byLeader))
	ship := func(addr string, c *cargo) {
		written, err := s.ship(ctx, addr, c)
		results <- result{written, err}
	}
	var others sync.WaitGroup
	left := len(byLeader)
	for addr, c := range byLeader {
		if left--; left == 0 {
			ship(addr, c) // the last, mostly the only one, needs no goroutine
		} else {
			others.Go(func() { ship(addr, c) })
		}
	}
	others.Wait()
	close(results)
	for r := range results {
		for _, tp := range r.written {
			progress = true
			if todo[tp] = todo[tp][1:]; len(todo[tp]) == 0 {
				delete(todo, tp)
			}
		}
		if r.err != nil && (err == nil || s.again(err)) {
			err = r.err
		}
	}
	return progress, err
}

func (s *shipment) ship(ctx context.Context, addr string, c *cargo) (written []topicPartition, err error) {
	req := &sarama.ProduceRequest{Version: 8, RequiredAcks: sarama.WaitForAll, Timeout: int32(s.timeout.Milliseconds()), TransactionalID: s.id}
	for tp, p := range c.parts {
		req.AddBatch(tp.topic, tp.partition, p.batch)
	}
	answer, err := ask(ctx, s.c.writes, addr, func(b *sarama.Broker) (*sarama.ProduceResponse, error) { return b.Produce(req) })
	if err != nil {
		for topic, meta := range c.metas {
			s.c.forget(topic, meta)
		}
		return nil, fmt.Errorf("produce: %w", err)
	}
	for tp, p := range c.parts {
		failed := s.outcome(tp, p, answer.GetBlock(tp.topic, tp.partition))
		if failed == nil {
			written = append(written, tp)
			continue
		}
		if code, _ := codeOf(failed); movedLeader(code) {
			s.c.forget(tp.topic, c.metas[tp.topic])
		}
		if err == nil || s.again(err) {
			err = failed
		}
	}
	return written, err
}

// outcome is nil when the parcel stands in the log.
func (s *shipment) outcome(tp topicPartition, p *parcel, block *sarama.ProduceResponseBlock) error {
	if block == nil {
		return fmt.Errorf("produce to %s/%d: %w", tp.topic, tp.partition, errors.New("the partition is missing in the answer"))
	}
	switch block.Err {
	case sarama.ErrNoError:
		p.offset = block.Offset
		return nil
	case sarama.ErrDuplicateSequenceNumber: // an earlier attempt was written after all
		return nil
	}
	err := refused(fmt.Sprintf("produce to %s/%d", tp.topic, tp.partition), block.Err)
	if block.ErrorMessage != nil && *block.ErrorMessage != "" {
		return fmt.Errorf("%w: %s", err, *block.ErrorMessage)
	}
	return err
}

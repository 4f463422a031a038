package kafka

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/IBM/sarama"
)

// errTooSmall is returned when a fetch brought only the begin of a batch: it has
// to be asked for with more bytes.
var errTooSmall = errors.New("the batch is larger than the fetch")

// decode makes a Batch of what a read_committed fetch from an offset brought.
// Records of aborted transactions, control records and records below from are
// left out, and Next is behind all of them. It keeps nothing of the block but
// the bytes of the records.
func decode(block *sarama.FetchResponseBlock, topic string, partition int32, from int64) (Batch, error) {
	out := Batch{Topic: topic, Partition: partition, Next: from, LastStable: block.LastStableOffset, HighWatermark: block.HighWaterMarkOffset}
	if out.LastStable < 0 { // brokers before 0.11 have none
		out.LastStable = out.HighWatermark
	}
	aborted := abortedIn(block)
	records := 0
	for _, set := range block.RecordsSet {
		if set.RecordBatch != nil && !set.RecordBatch.Control {
			records += len(set.RecordBatch.Records)
		}
	}
	if records > 0 {
		out.Records = make([]Record, 0, records)
	}
	for _, set := range block.RecordsSet {
		batch := set.RecordBatch
		if batch == nil {
			return out, fmt.Errorf("%s/%d at %d: message format before v2 is not supported: let the broker rewrite the topic", topic, partition, from)
		}
		if batch.PartialTrailingRecord {
			break
		}
		skip := aborted.skips(batch)
		out.Next = max(out.Next, batch.LastOffset()+1)
		if !skip {
			out.add(batch, from)
		}
	}
	switch {
	case out.Next > from:
	case len(block.RecordsSet) > 0 || block.Partial:
		return out, errTooSmall
	default:
		out.Next = max(from, emptyEnd(block))
	}
	return out, nil
}

// add appends the records of a batch.
func (b *Batch) add(batch *sarama.RecordBatch, from int64) {
	base := batch.FirstTimestamp.UnixMilli()
	for _, r := range batch.Records {
		offset := batch.FirstOffset + r.OffsetDelta
		if offset < from {
			continue
		}
		at := base + r.TimestampDelta.Milliseconds()
		if batch.LogAppendTime {
			at = batch.MaxTimestamp.UnixMilli()
		}
		b.Bytes += len(r.Key) + len(r.Value)
		b.Records = append(b.Records, Record{Offset: offset, Timestamp: at, Key: r.Key, Value: r.Value, Headers: b.headers(r.Headers)})
	}
}

func (b *Batch) headers(in []*sarama.RecordHeader) []Header {
	if len(in) == 0 {
		return nil
	}
	out := make([]Header, len(in))
	for i, h := range in {
		out[i] = Header{Key: h.Key, Value: h.Value}
		b.Bytes += len(h.Key) + len(h.Value)
	}
	return out
}

// trim drops the records from offset to on.
func (b *Batch) trim(to int64) {
	if b.Next <= to {
		return
	}
	n, _ := slices.BinarySearchFunc(b.Records, to, func(r Record, to int64) int { return cmp.Compare(r.Offset, to) })
	for _, r := range b.Records[n:] {
		b.Bytes -= len(r.Key) + len(r.Value)
		for _, h := range r.Headers {
			b.Bytes -= len(h.Key) + len(h.Value)
		}
	}
	b.Records, b.Next = b.Records[:n], to
}

// abortions follows the aborted transactions of one fetch.
type abortions struct {
	begins []*sarama.AbortedTransaction // by first offset
	open   map[int64]struct{}           // producers whose records are aborted here
}

func abortedIn(block *sarama.FetchResponseBlock) abortions {
	a := abortions{begins: slices.Clone(block.AbortedTransactions)}
	if len(a.begins) > 0 {
		a.open = map[int64]struct{}{}
		slices.SortFunc(a.begins, func(x, y *sarama.AbortedTransaction) int { return cmp.Compare(x.FirstOffset, y.FirstOffset) })
	}
	return a
}

// skips is whether no record of the batch is to be seen. Batches must come in
// the order of the log.
func (a *abortions) skips(batch *sarama.RecordBatch) bool {
	for len(a.begins) > 0 && a.begins[0].FirstOffset <= batch.LastOffset() {
		a.open[a.begins[0].ProducerID] = struct{}{}
		a.begins = a.begins[1:]
	}
	_, isAborted := a.open[batch.ProducerID]
	if !batch.Control {
		return batch.IsTransactional && isAborted
	}
	if isAborted && len(batch.Records) > 0 && abortMarker(batch.Records[0]) {
		delete(a.open, batch.ProducerID)
	}
	return true
}

// abortMarker: the key of a control record is a version and a type, 16 bits
// each; type 0 is an abort.
func abortMarker(r *sarama.Record) bool {
	return len(r.Key) >= 4 && binary.BigEndian.Uint16(r.Key[2:]) == 0
}

// emptyEnd is the offset behind the batches of a block of which all are empty,
// as compaction leaves them to remember a producer's sequence. sarama drops
// such batches and keeps where they end in a field that it does not export; to
// step over them one offset at a time would take minutes in a large changelog.
// It is -1 when there was no batch at all.
func emptyEnd(block *sarama.FetchResponseBlock) int64 {
	end := reflect.ValueOf(block).Elem().FieldByName("recordsNextOffset")
	if end.Kind() != reflect.Pointer || end.IsNil() || end.Elem().Kind() != reflect.Int64 {
		return -1
	}
	return end.Elem().Int()
}

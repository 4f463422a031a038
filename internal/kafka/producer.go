package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// Message is a record for Producer.Append. A zero Timestamp is now.
type Message struct {
	Topic     string
	Partition int32
	Key       []byte
	Value     []byte
	Headers   []Header
	Timestamp time.Time
}

// Producer appends records without transactions, each exactly once: what is
// sent again has the same sequence number. That holds within the life of the
// Producer; who appends again after an error may append twice.
type Producer struct {
	c *Cluster

	mu    sync.Mutex // held during an Append
	who   identity
	ready bool // false after an error: what the brokers have is not known
}

// NewProducer makes a Producer and takes a producer id.
func (c *Cluster) NewProducer(ctx context.Context) (*Producer, error) {
	p := &Producer{c: c}
	if err := p.init(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Producer) init(ctx context.Context) error {
	pause := backoff{first: 20 * time.Millisecond, most: time.Second}
	for {
		answer, err := anyBroker(ctx, p.c, func(b *sarama.Broker) (*sarama.InitProducerIDResponse, error) {
			return b.InitProducerID(&sarama.InitProducerIDRequest{Version: 4, TransactionTimeout: time.Minute, ProducerID: -1, ProducerEpoch: -1})
		})
		if err == nil {
			err = refused("InitProducerId", answer.Err)
		}
		if err == nil {
			p.who, p.ready = identity{id: answer.ProducerID, epoch: answer.ProducerEpoch, next: map[topicPartition]int32{}}, true
			return nil
		}
		err = fmt.Errorf("init producer: %w", err)
		if code, ok := codeOf(err); ok && !notYet(code) && !movedCoordinator(code) {
			return err
		}
		if !pause.wait(ctx) {
			return ended(ctx, err)
		}
	}
}

// Append writes messages to any number of partitions, in order for each, and
// returns when all replicas in sync have them. It returns the offset of each
// message, -1 where the broker did not tell (a repeat that was found out). It
// goes on through broker trouble until ctx ends; after an error any of the
// messages may be written.
func (p *Producer) Append(ctx context.Context, messages []Message) ([]int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(messages) == 0 {
		return nil, nil
	}
	if !p.ready {
		if err := p.init(ctx); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	outputs := make([]Output, len(messages))
	for i, m := range messages {
		outputs[i] = Output{Topic: m.Topic, Partition: m.Partition, Key: m.Key, Value: m.Value, Headers: m.Headers}
	}
	at := func(i int) time.Time {
		if messages[i].Timestamp.IsZero() {
			return now
		}
		return messages[i].Timestamp
	}
	todo := parcels(outputs, at, &p.who, false, DefaultWriter().MaxBatchBytes)
	var all []*parcel
	for _, ps := range todo {
		all = append(all, ps...)
	}
	s := shipment{c: p.c, timeout: p.c.cfg.ReadTimeout * 2 / 3, redial: true}
	p.ready = false
	if err := s.send(ctx, todo); err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	p.ready = true
	return offsets(all, len(messages)), nil
}

func offsets(parcels []*parcel, n int) []int64 {
	out := make([]int64, n)
	for _, p := range parcels {
		for k, i := range p.index {
			out[i] = -1
			if p.offset >= 0 {
				out[i] = p.offset + int64(k)
			}
		}
	}
	return out
}

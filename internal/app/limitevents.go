package app

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/feed"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/schema"
)

// limitEvents is the topic of limit events, for those who follow it over HTTP.
// It has a fetcher of its own, so that counting never waits for it.
type limitEvents struct {
	cluster *kafka.Cluster
	fetcher *kafka.Fetcher
	topic   string
	codec   *schema.EventCodec // of the topic
	json    *schema.EventCodec
	log     *zap.Logger
}

func (d *daemon) newFeed(codec *schema.EventCodec) error {
	json, err := schema.NewEventCodec(schema.JSON, 0)
	if err != nil {
		return fmt.Errorf("limit events: %w", err)
	}
	cfg := feed.Default()
	cfg.Partitions = d.partitions
	d.told = d.cluster.NewFetcher(kafka.DefaultFetch())
	d.feed = feed.New(cfg, &limitEvents{
		cluster: d.cluster, fetcher: d.told, topic: d.cfg.LimitEvents.Topic, codec: codec, json: json, log: d.log.Named("feed"),
	}, d.log.Named("feed"))
	return nil
}

func (l *limitEvents) Start(ctx context.Context, partition int32) (int64, error) {
	return l.cluster.LogStart(ctx, l.topic, partition)
}

func (l *limitEvents) End(ctx context.Context, partition int32) (int64, error) {
	return l.cluster.LastStable(ctx, l.topic, partition)
}

func (l *limitEvents) Read(ctx context.Context, partition int32, from, to int64, fn func(feed.Batch) error) error {
	_, err := l.cluster.Read(ctx, l.topic, partition, from, to, func(b kafka.Batch) error { return fn(l.batch(&b)) })
	if errors.Is(err, kafka.ErrOffsetOutOfRange) {
		return fmt.Errorf("%w: partition %d at %d", feed.ErrGone, partition, from)
	}
	return err
}

func (l *limitEvents) Follow(ctx context.Context, partition int32, from int64, fn func(feed.Batch)) error {
	subscription, err := l.fetcher.Subscribe(l.topic, partition, from)
	if err != nil {
		return fmt.Errorf("follow limit events: %w", err)
	}
	defer subscription.Close()
	for {
		select {
		case batch, ok := <-subscription.Batches():
			if !ok {
				return errors.Join(subscription.Err(), ctx.Err())
			}
			fn(l.batch(&batch))
		case <-ctx.Done():
			return nil
		}
	}
}

// batch decodes what was read. What meterd did not write is left out: nobody
// could make anything of it.
func (l *limitEvents) batch(b *kafka.Batch) feed.Batch {
	read := feed.Batch{Next: b.Next, Events: make([]feed.Event, 0, len(b.Records))}
	for i := range b.Records {
		r := &b.Records[i]
		event, data, err := l.decode(r.Value)
		if err != nil {
			l.log.Warn("foreign record in the topic of limit events",
				zap.Int32("partition", b.Partition), zap.Int64("offset", r.Offset), zap.Error(err))
			continue
		}
		read.Events = append(read.Events, feed.Event{Offset: r.Offset, Event: event, Data: data})
	}
	return read
}

// decode returns the event, and its JSON.
func (l *limitEvents) decode(value []byte) (*alerts.Event, []byte, error) {
	event, err := l.codec.Decode(value)
	if err != nil {
		return nil, nil, err
	}
	data, err := l.json.Append(nil, event)
	return event, data, err
}

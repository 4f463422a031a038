package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// cluster is the Kafka that is measured on. It is asked by another client than
// meterd's.
type cluster struct {
	brokers string
	client  *kgo.Client
	admin   *kadm.Client
}

func dial(brokers string) (*cluster, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	if err != nil {
		return nil, err
	}
	return &cluster{brokers: brokers, client: client, admin: kadm.NewClient(client)}, nil
}

func (c *cluster) close() { c.client.Close() }

// version returns which Kafka it is, as near as its answers tell.
func (c *cluster) version(ctx context.Context) string {
	versions, err := c.admin.ApiVersions(ctx)
	if err != nil {
		return "unknown"
	}
	for _, v := range versions {
		return v.VersionGuess()
	}
	return "unknown"
}

// create makes a topic that keeps everything.
func (c *cluster) create(ctx context.Context, name string, partitions int32, compacted bool) error {
	forever, policy := "-1", "delete"
	if compacted {
		policy = "compact"
	}
	_, err := c.admin.CreateTopic(ctx, partitions, 1, map[string]*string{"retention.ms": &forever, "cleanup.policy": &policy}, name)
	if err != nil {
		return fmt.Errorf("make topic %s: %w", name, err)
	}
	return c.available(ctx, name)
}

// available waits until all partitions of a topic have a leader that knows it:
// metadata says so a moment before it is true.
func (c *cluster) available(ctx context.Context, name string) error {
	for {
		offsets, err := c.admin.ListEndOffsets(ctx, name)
		if err = errors.Join(err, offsets.Error()); err == nil {
			return nil
		}
		if !pause(ctx, 20*time.Millisecond) {
			return fmt.Errorf("topic %s: %w", name, errors.Join(context.Cause(ctx), err))
		}
	}
}

// remove removes topics; those that are not there are no error.
func (c *cluster) remove(ctx context.Context, names ...string) error {
	responses, err := c.admin.DeleteTopics(ctx, names...)
	for name, r := range responses {
		if r.Err != nil && !errors.Is(r.Err, kerr.UnknownTopicOrPartition) {
			err = errors.Join(err, fmt.Errorf("remove topic %s: %w", name, r.Err))
		}
	}
	return err
}

// forget removes a group. One whose members did not say goodbye stays until
// they have timed out, and does no harm.
func (c *cluster) forget(ctx context.Context, group string) error {
	_, err := c.admin.DeleteGroup(ctx, group)
	if errors.Is(err, kerr.GroupIDNotFound) || errors.Is(err, kerr.NonEmptyGroup) {
		return nil
	}
	return err
}

// ends returns the end of every partition of a topic.
func (c *cluster) ends(ctx context.Context, topic string) (map[int32]int64, error) {
	offsets, err := c.admin.ListEndOffsets(ctx, topic)
	if err = errors.Join(err, offsets.Error()); err != nil {
		return nil, fmt.Errorf("end of %s: %w", topic, err)
	}
	ends := map[int32]int64{}
	offsets.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends, nil
}

// committed returns how many records of a topic a group has committed, and
// whether it has reached all ends.
func (c *cluster) committed(ctx context.Context, group, topic string, ends map[int32]int64) (n int64, all bool, err error) {
	offsets, err := c.admin.FetchOffsetsForTopics(ctx, group, topic)
	if errors.Is(err, kerr.GroupIDNotFound) || kerr.IsRetriable(err) { // it is not known yet, or for a moment not
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	all = true
	for partition, end := range ends {
		o, _ := offsets.Lookup(topic, partition)
		at := max(0, o.At)
		n += at
		all = all && at >= end
	}
	return n, all, nil
}

// stable reports whether a group has members and is at rest.
func (c *cluster) stable(ctx context.Context, group string) bool {
	groups, err := c.admin.DescribeGroups(ctx, group)
	if err != nil {
		return false
	}
	g, ok := groups[group]
	return ok && g.Err == nil && g.State == "Stable" && len(g.Members) > 0
}

// deserted waits until a group has no members: some do not say goodbye, and are
// members until their session is over.
func (c *cluster) deserted(ctx context.Context, group string) error {
	for {
		groups, err := c.admin.DescribeGroups(ctx, group)
		if err == nil && len(groups[group].Members) == 0 {
			return nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// read passes every committed record of a topic to fn, up to the end that it
// has now, and returns how many there are.
func (c *cluster) read(ctx context.Context, topic string, fn func(*kgo.Record) error) (n int64, err error) {
	ends, err := c.ends(ctx, topic)
	if err != nil {
		return 0, err
	}
	from := map[int32]kgo.Offset{}
	for partition, end := range ends {
		if end > 0 {
			from[partition] = kgo.NewOffset().AtStart()
		} else {
			delete(ends, partition)
		}
	}
	if len(ends) == 0 {
		return 0, nil
	}
	// Control records too: the last record of a partition is often one.
	client, err := kgo.NewClient(kgo.SeedBrokers(c.brokers), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	for len(ends) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return n, fmt.Errorf("read %s: %w", topic, err)
		}
		for _, r := range fetches.Records() {
			if end, ok := ends[r.Partition]; ok && r.Offset >= end-1 {
				delete(ends, r.Partition)
			}
			if r.Attrs.IsControl() {
				continue
			}
			n++
			if err := fn(r); err != nil {
				return n, fmt.Errorf("%s/%d offset %d: %w", topic, r.Partition, r.Offset, err)
			}
		}
	}
	return n, nil
}

// pause waits, and returns false if ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

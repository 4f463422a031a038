package harness

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kgo"
)

// dump writes what is committed on meterd's topics into files, for whoever has
// to find out what went wrong.
func (w *World) dump(ctx context.Context) error {
	for _, topic := range []string{"contracts", "limit-events", "changelog", "dead-letter"} {
		if err := w.dumpTopic(ctx, application+"."+topic, filepath.Join(w.dir, topic+".txt")); err != nil {
			return fmt.Errorf("dump %s: %w", topic, err)
		}
	}
	return nil
}

func (w *World) dumpTopic(ctx context.Context, topic, path string) error {
	ends, err := w.admin.ListCommittedOffsets(ctx, topic)
	if err != nil {
		return err
	}
	left := int64(0)
	from := map[int32]kgo.Offset{}
	for p, o := range ends[topic] {
		if o.Offset > 0 {
			from[p] = kgo.NewOffset().AtStart()
			left++
		}
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.Brokers()...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer c.Close()
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // Flush says it
	out := bufio.NewWriter(file)
	for left > 0 {
		fetched := c.PollFetches(ctx)
		if err := fetched.Err0(); err != nil {
			return err
		}
		fetched.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				fmt.Fprintf(out, "%d/%d %s %s %q\n", r.Partition, r.Offset, r.Timestamp.Format("15:04:05.000"), r.Key, r.Value)
			}
			if end := ends[topic][r.Partition].Offset; r.Offset == end-1 {
				left--
			}
		})
	}
	return out.Flush()
}

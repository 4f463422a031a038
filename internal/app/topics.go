package app

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/kafka"
)

// Topics returns the topics that meterd needs beside the usage topic, which
// has the given number of partitions.
func Topics(cfg *config.Config, partitions int32) []kafka.TopicSpec {
	return []kafka.TopicSpec{
		{Name: cfg.Contracts.Topic, Partitions: 1, Compact: true, Configs: kafka.CompactConfigs()},
		{Name: cfg.LimitEvents.Topic, Partitions: partitions},
		{Name: cfg.LimitEvents.StateTopic, Partitions: partitions, Compact: true, Configs: kafka.CompactConfigs()},
		{Name: cfg.ChangelogTopic, Partitions: partitions, Compact: true, Configs: kafka.ChangelogConfigs()},
		{Name: cfg.DeadLetterTopic, Partitions: partitions, Configs: map[string]string{"max.message.bytes": maxDeadLetter}},
	}
}

// maxDeadLetter lets the dead-letter topic take any record that the usage topic
// may have held, with the headers that say why it is there: 64 MiB.
const maxDeadLetter = "67108864"

// UsagePartitions returns how many partitions the usage topic has, which must
// exist: who produces into it decides that number.
func UsagePartitions(ctx context.Context, cluster *kafka.Cluster, cfg *config.Config) (int32, error) {
	n, err := cluster.Partitions(ctx, cfg.Usage.Topic)
	if errors.Is(err, kafka.ErrNoTopic) {
		return 0, fmt.Errorf("usage.topic: %w: create it, with as many partitions as it is ever to have", err)
	}
	if err != nil {
		return 0, fmt.Errorf("usage.topic: %w", err)
	}
	return n, nil
}

// checkTopics returns the number of partitions of the usage topic, having made
// sure that all topics are as they must be.
func checkTopics(ctx context.Context, cluster *kafka.Cluster, cfg *config.Config, create bool) (int32, error) { //revive:disable-line:flag-parameter // the flag of the command line
	partitions, err := UsagePartitions(ctx, cluster, cfg)
	if err != nil {
		return 0, err
	}
	specs := Topics(cfg, partitions)
	if create {
		if err := cluster.CreateTopics(ctx, specs); err != nil {
			return 0, fmt.Errorf("create topics: %w", err)
		}
	}
	problems, err := cluster.CheckTopics(ctx, specs)
	if err != nil {
		return 0, fmt.Errorf("check topics: %w", err)
	}
	if len(problems) == 0 {
		return partitions, nil
	}
	lines := make([]string, 0, len(problems))
	for _, p := range problems {
		lines = append(lines, p.String())
	}
	return 0, fmt.Errorf("%w: %s", ErrTopics, strings.Join(lines, "; "))
}

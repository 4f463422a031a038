package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// TopicSpec is a topic as meterd needs it.
type TopicSpec struct {
	Name string
	// Partitions is the exact number; 0 checks that the topic exists, no more.
	Partitions int32
	// Compact is whether cleanup.policy must contain compact, or must not.
	Compact     bool
	Replication int16             // 0: the broker's default
	Configs     map[string]string // for creation only, besides cleanup.policy
}

// TopicProblem is one way in which a topic is not as meterd needs it.
type TopicProblem struct {
	Topic   string
	Problem string // what is wrong
	Remedy  string // what to do about it
}

// String is the problem and the remedy in one line.
func (p TopicProblem) String() string {
	return fmt.Sprintf("topic %s: %s: %s", p.Topic, p.Problem, p.Remedy)
}

// CompactConfigs are settings for a compacted topic with few writes, contracts
// and limit states, with which the broker really compacts: segments are closed
// by age, and a little waste is enough.
func CompactConfigs() map[string]string {
	return map[string]string{
		"segment.bytes":             "16777216",
		"segment.ms":                "3600000",
		"min.cleanable.dirty.ratio": "0.1",
		"min.compaction.lag.ms":     "0",
		"max.compaction.lag.ms":     "86400000",
		"delete.retention.ms":       "86400000",
	}
}

// ChangelogConfigs are settings for the changelog, which is overwritten all the
// time: what a restore has to read stays within a few times the live counters.
// Brokers from 4.0 on refuse segments below 1 MiB.
func ChangelogConfigs() map[string]string {
	return map[string]string{
		"segment.bytes":             "67108864",
		"segment.ms":                "600000",
		"min.cleanable.dirty.ratio": "0.3",
		"min.compaction.lag.ms":     "0",
		"max.compaction.lag.ms":     "3600000",
		"delete.retention.ms":       "86400000",
	}
}

// Partitions is the number of a topic's partitions now, or ErrNoTopic.
func (c *Cluster) Partitions(ctx context.Context, topic string) (int32, error) {
	pause := backoff{first: 20 * time.Millisecond, most: time.Second}
	for {
		err := c.refresh(ctx, []string{topic})
		if err == nil {
			meta, err := c.topic(ctx, topic)
			if err != nil {
				return 0, err
			}
			return int32(len(meta.leaders)), nil
		}
		if code, ok := codeOf(err); errors.Is(err, ErrNoTopic) || errors.Is(err, ErrClosed) || ok && !movedLeader(code) {
			return 0, err
		}
		if !pause.wait(ctx) {
			return 0, ended(ctx, err)
		}
	}
}

// CheckTopics returns what is wrong with the topics, in their order; nothing is
// changed. The error is for the broker's not answering.
func (c *Cluster) CheckTopics(ctx context.Context, specs []TopicSpec) ([]TopicProblem, error) {
	var problems []TopicProblem
	for _, spec := range specs {
		n, err := c.Partitions(ctx, spec.Name)
		if errors.Is(err, ErrNoTopic) {
			problems = append(problems, spec.missing())
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("check topic %s: %w", spec.Name, err)
		}
		if spec.Partitions == 0 {
			continue
		}
		if n != spec.Partitions {
			problems = append(problems, spec.miscounted(n))
		}
		policy, err := c.cleanupPolicy(ctx, spec.Name)
		if err != nil {
			return nil, fmt.Errorf("check topic %s: %w", spec.Name, err)
		}
		if compacts := strings.Contains(policy, "compact"); compacts != spec.Compact || compacts && strings.Contains(policy, "delete") {
			problems = append(problems, spec.miskept(policy))
		}
	}
	return problems, nil
}

func (s TopicSpec) missing() TopicProblem {
	p := TopicProblem{Topic: s.Name, Problem: "it does not exist", Remedy: "run 'meterd topics create', or 'meterd run --create-topics'"}
	if s.Partitions == 0 {
		p.Remedy = "create it, or name another one in the configuration"
	}
	return p
}

func (s TopicSpec) miscounted(have int32) TopicProblem {
	p := TopicProblem{Topic: s.Name, Problem: fmt.Sprintf("it has %d partitions and needs %d", have, s.Partitions)}
	if have < s.Partitions {
		p.Remedy = fmt.Sprintf("stop every meterd of this application and add partitions: kafka-topics.sh --alter --topic %s --partitions %d", s.Name, s.Partitions)
	} else {
		p.Remedy = "partitions cannot be taken away: name another topic in the configuration, or delete this one if its content may go"
	}
	return p
}

func (s TopicSpec) miskept(have string) TopicProblem {
	want := s.policy()
	return TopicProblem{
		Topic:   s.Name,
		Problem: fmt.Sprintf("its cleanup.policy is %s and must be %s", have, want),
		Remedy:  fmt.Sprintf("kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config cleanup.policy=%s", s.Name, want),
	}
}

func (s TopicSpec) policy() string {
	if s.Compact {
		return "compact"
	}
	return "delete"
}

func (c *Cluster) cleanupPolicy(ctx context.Context, topic string) (string, error) {
	pause := backoff{first: 20 * time.Millisecond, most: time.Second}
	for {
		answer, err := anyBroker(ctx, c, func(b *sarama.Broker) (*sarama.DescribeConfigsResponse, error) {
			return b.DescribeConfigs(&sarama.DescribeConfigsRequest{Version: 2, Resources: []*sarama.ConfigResource{
				{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"cleanup.policy"}},
			}})
		})
		if err == nil {
			for _, r := range answer.Resources {
				if err = refused("DescribeConfigs", sarama.KError(r.ErrorCode)); err != nil {
					break
				}
				for _, e := range r.Configs {
					if e.Name == "cleanup.policy" {
						return e.Value, nil
					}
				}
			}
		}
		if code, ok := codeOf(err); err == nil || errors.Is(err, ErrClosed) || ok && !movedLeader(code) && !notYet(code) {
			return "", fmt.Errorf("read cleanup.policy: %w", cmp.Or(err, errors.New("the broker does not tell")))
		}
		if !pause.wait(ctx) {
			return "", ended(ctx, err)
		}
	}
}

// CreateTopics makes the topics that do not exist and leaves the others as they
// are. It returns when every partition of all of them can be used: a new one
// refuses requests for a moment.
func (c *Cluster) CreateTopics(ctx context.Context, specs []TopicSpec) error {
	for _, spec := range specs {
		if spec.Partitions < 1 {
			return fmt.Errorf("create topic %s: %d partitions", spec.Name, spec.Partitions)
		}
		if err := c.createTopic(ctx, spec); err != nil {
			return fmt.Errorf("create topic %s: %w", spec.Name, err)
		}
	}
	for _, spec := range specs {
		if err := c.awaitTopic(ctx, spec.Name); err != nil {
			return fmt.Errorf("wait for topic %s: %w", spec.Name, err)
		}
	}
	return nil
}

func (c *Cluster) createTopic(ctx context.Context, spec TopicSpec) error {
	configs := maps.Clone(spec.Configs)
	if configs == nil {
		configs = map[string]string{}
	}
	configs["cleanup.policy"] = spec.policy()
	detail := &sarama.TopicDetail{NumPartitions: spec.Partitions, ReplicationFactor: spec.Replication, ConfigEntries: map[string]*string{}}
	if detail.ReplicationFactor == 0 {
		detail.ReplicationFactor = -1
	}
	for _, k := range slices.Sorted(maps.Keys(configs)) {
		detail.ConfigEntries[k] = new(configs[k])
	}
	pause := backoff{first: 50 * time.Millisecond, most: time.Second}
	for {
		err := c.askController(ctx, spec.Name, detail)
		switch code, answered := codeOf(err); {
		case err == nil, code == sarama.ErrTopicAlreadyExists:
			return nil
		case errors.Is(err, ErrClosed), answered && code != sarama.ErrNotController && !movedLeader(code) && !notYet(code):
			return err
		}
		if !pause.wait(ctx) {
			return ended(ctx, err)
		}
	}
}

func (c *Cluster) askController(ctx context.Context, topic string, detail *sarama.TopicDetail) error {
	c.mu.Lock()
	addr := c.brokers[c.controller]
	c.mu.Unlock()
	var answer *sarama.CreateTopicsResponse
	create := func(b *sarama.Broker) (*sarama.CreateTopicsResponse, error) {
		return b.CreateTopics(sarama.NewCreateTopicsRequest(c.sarama.Version, map[string]*sarama.TopicDetail{topic: detail}, 10*time.Second, false))
	}
	var err error
	if addr == "" {
		answer, err = anyBroker(ctx, c, create)
	} else {
		answer, err = ask(ctx, c.control, addr, create)
	}
	if err != nil {
		return errors.Join(err, c.refresh(ctx, []string{topic}))
	}
	failed := answer.TopicErrors[topic]
	if failed == nil || failed.Err == sarama.ErrNoError {
		return nil
	}
	if failed.Err == sarama.ErrNotController {
		_ = c.refresh(ctx, []string{topic}) // the topic does not exist; the controller is what counts
	}
	if failed.ErrMsg != nil && *failed.ErrMsg != "" {
		return fmt.Errorf("%w: %s", refused("CreateTopics", failed.Err), *failed.ErrMsg)
	}
	return refused("CreateTopics", failed.Err)
}

// awaitTopic waits until every partition answers.
func (c *Cluster) awaitTopic(ctx context.Context, topic string) error {
	pause := backoff{first: 10 * time.Millisecond, most: 250 * time.Millisecond}
	for {
		n, err := c.Partitions(ctx, topic)
		for p := int32(0); err == nil && p < n; p++ {
			_, err = c.LogStart(ctx, topic, p)
		}
		if err == nil && n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, ErrNoTopic) { // brokers learn of a topic one after the other
			return err
		}
		if !pause.wait(ctx) {
			return ended(ctx, cmp.Or(err, ErrNoTopic))
		}
	}
}

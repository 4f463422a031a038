package contender

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/meterd/meterd/bench/load"
)

// KafkaStreams is the application under bench/kstreams.
type KafkaStreams struct {
	Java   string // program
	Dir    string // with kstreams.jar and lib
	HeapGB int
	Dedupe bool // with a window store of event ids; as Kafka Streams has none by itself
}

// Name is as in the interface.
func (k *KafkaStreams) Name() string {
	if k.Dedupe {
		return "Kafka Streams, dedupe"
	}
	return "Kafka Streams"
}

// Once is as in the interface.
func (k *KafkaStreams) Once() bool { return k.Dedupe }

// Prepare makes the topics that Kafka Streams does not make by itself. They
// keep everything: it stamps what it writes with the time of the usage event.
func (k *KafkaStreams) Prepare(ctx context.Context, w Work) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(w.Brokers))
	if err != nil {
		return err
	}
	admin := kadm.NewClient(client)
	defer admin.Close()
	forever := "-1"
	topics := k.Topics(w)
	made, err := admin.CreateTopics(ctx, w.Partitions, 1, map[string]*string{"retention.ms": &forever}, topics.LimitEvents, topics.DeadLetters)
	if err = errors.Join(err, made.Error()); err != nil {
		return fmt.Errorf("make the topics of %s: %w", k.Name(), err)
	}
	return nil
}

// Command is as in the interface.
func (k *KafkaStreams) Command(w Work) (args, env []string) {
	heap := strconv.Itoa(k.HeapGB) + "g"
	topics := k.Topics(w)
	args = []string{
		k.Java, "-Xms" + heap, "-Xmx" + heap, "-XX:+UseParallelGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-Ddedup=" + strconv.FormatBool(k.Dedupe), "-cp", filepath.Join(k.Dir, "kstreams.jar") + ":" + filepath.Join(k.Dir, "lib", "*"), "bench.Peer",
	}
	env = []string{
		"BENCH_BOOTSTRAP=" + w.Brokers, "BENCH_GROUP=" + w.Group, "BENCH_USAGE=" + w.Usage, "BENCH_CONTRACTS=" + w.Contracts,
		"BENCH_LIMIT_EVENTS=" + topics.LimitEvents, "BENCH_DEAD_LETTERS=" + topics.DeadLetters, "BENCH_STATE_DIR=" + w.Dir,
		"BENCH_SCHEMA_ID=" + strconv.FormatUint(uint64(w.SchemaID), 10),
	}
	return args, env
}

// ReadyURL is as in the interface: Kafka Streams joins its group when it has
// read the contracts.
func (k *KafkaStreams) ReadyURL(Work) string { return "" }

// Topics is as in the interface.
func (k *KafkaStreams) Topics(w Work) Topics {
	t := Topics{Totals: w.Group + "-totals-changelog", LimitEvents: w.Group + ".limit-events", DeadLetters: w.Group + ".dead-letter"}
	t.Changelogs = []string{t.Totals}
	if k.Dedupe {
		t.Changelogs = append(t.Changelogs, w.Group+"-seen-changelog")
	}
	return t
}

// Total is as in the interface: the key is client|meter, the value sum and
// count, big-endian, and a byte.
func (k *KafkaStreams) Total(seen *load.Seen, key, value []byte) error {
	client, meter, ok := strings.Cut(string(key), "|")
	if !ok || len(value) < 16 {
		return fmt.Errorf("changelog: %q is not a total", key)
	}
	seen.Total(client, meter, int64(binary.BigEndian.Uint64(value)), int64(binary.BigEndian.Uint64(value[8:])))
	return nil
}

// Crossed is as in the interface.
func (k *KafkaStreams) Crossed(value []byte, fn func(client, meter, threshold string)) error {
	var e struct {
		Client    string `json:"client_id"`
		Meter     string
		Threshold int64
	}
	if err := json.Unmarshal(value, &e); err != nil {
		return fmt.Errorf("limit event: %w", err)
	}
	fn(e.Client, e.Meter, strconv.FormatInt(e.Threshold, 10))
	return nil
}

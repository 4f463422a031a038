// Package harness runs meterd as real processes among failures, and finds out
// whether what it promises holds.
//
// A World is a Kafka, a schema registry, traffic with a ledger, and a few
// meterds, each behind a network of its own. A Plan is a list of faults drawn
// from a seed; Run lets them happen, some at the same time, while events come
// and a client polls. In the end everything is healed, and then must be right:
// "meterd verify" with the ledgers finds no difference, nothing is stuck, reads
// never went back, and a clean stop and start changes nothing.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr/srfake"
	"golang.org/x/sync/errgroup"

	"github.com/meterd/meterd/internal/demo"
)

// Options are what a World is made of.
type Options struct {
	Binary  string // a meterd that was built with failpoints
	Dir     string // for everything; it stays
	Cluster Cluster
	Seed    uint64
	Events  int64
	Log     func(format string, args ...any)

	Impatient bool // end the run with the first thing that is wrong
}

const (
	usageTopic  = "usage"
	application = "meterd"
	partitions  = 4
	instances   = 2
	clients     = 1500
	contracts   = 300
)

// sessionTimeout is how long a meterd may be silent: the least that is allowed,
// so that who is silent for longer is soon a zombie.
const sessionTimeout = 6 * time.Second

// World is what a plan is run in.
type World struct {
	opts      Options
	dir       string
	cluster   Cluster
	registry  *Service
	druid     *demo.History
	history   *Service // of druid
	admin     *kadm.Client
	direct    string // configuration that leads around the proxies
	instances []*Instance
	broker    sync.Mutex     // held during a fault of the brokers
	guest     sync.Mutex     // held while a guest is there
	parts     errgroup.Group // everything that runs beside
	end       context.CancelFunc
	stop      context.CancelFunc // ends what goes on

	mu         sync.Mutex
	violations []string
	ledgers    []string
	past       string // the ledger of what is history
	events     int64
}

func (w *World) log(format string, args ...any) { w.opts.Log(format, args...) }

// violate notes that a promise was broken.
func (w *World) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.mu.Lock()
	w.violations = append(w.violations, text)
	w.mu.Unlock()
	if w.opts.Impatient {
		w.stop()
	}
	w.log("VIOLATION: %s", text)
}

func (w *World) violated() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.violations) > 0
}

// excuses are the reasons for which a process may end by itself: without a
// broker or a registry, or with one that breaks just then, or without room on
// its disk, it cannot start.
func excuses() []string {
	return []string{"kafka.brokers: ", "schema_registry.url: ", "usage.topic: ", "check topics: ", "state.dir: "}
}

// NewWorld makes a world in which nothing runs yet. stop ends the context of the
// run.
func NewWorld(ctx context.Context, opts Options, stop context.CancelFunc) (*World, error) {
	w := &World{opts: opts, stop: stop, dir: opts.Dir, cluster: opts.Cluster}
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	w.end = end
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, err
	}
	kafka, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.Brokers()...))
	if err != nil {
		return nil, err
	}
	w.parts.Go(func() error {
		<-background.Done()
		kafka.Close()
		return nil
	})
	w.admin = kadm.NewClient(kafka)
	if err := w.topics(ctx); err != nil {
		return nil, err
	}
	w.druid = &demo.History{}
	if w.registry, err = startService(ctx, srfake.NewRegistry().Handler()); err != nil {
		return nil, err
	}
	if w.history, err = startService(ctx, w.druid); err != nil {
		return nil, err
	}
	w.parts.Go(func() error { return w.registry.run(background) })
	w.parts.Go(func() error { return w.history.run(background) })
	if w.withHistory() {
		w.parts.Go(func() error { return w.feed(background) })
	}
	if w.direct, err = w.writeConfig("direct", w.cluster.Brokers()); err != nil {
		return nil, err
	}
	for n := range instances {
		if _, err := w.addInstance(ctx, fmt.Sprintf("meterd-%d", n)); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *World) addInstance(ctx context.Context, name string) (*Instance, error) {
	i, err := w.newInstance(ctx, name)
	if err == nil {
		w.instances = append(w.instances, i)
	}
	return i, err
}

// Close ends everything that still runs.
func (w *World) Close() (err error) {
	for _, i := range w.instances {
		i.mu.Lock()
		running := i.cmd != nil
		i.mu.Unlock()
		if running {
			i.Down()
		}
		i.stopped()
		err = errors.Join(err, i.unmount())
	}
	w.end()
	return errors.Join(err, w.parts.Wait())
}

// topics makes all topics. Compaction is off: the in-memory Kafka's is not like
// the real one.
func (w *World) topics(ctx context.Context) error {
	lag, compact, remove, large := "315360000000", "compact", "delete", "67108864"
	replication := int16(len(w.cluster.Brokers()))
	all := []struct {
		name       string
		partitions int32
		configs    map[string]*string
	}{
		{usageTopic, partitions, map[string]*string{"cleanup.policy": &remove, "max.message.bytes": &large}},
		{application + ".contracts", 1, map[string]*string{"cleanup.policy": &compact, "min.compaction.lag.ms": &lag}},
		{application + ".limit-events", partitions, map[string]*string{"cleanup.policy": &remove}},
		{application + ".limit-state", partitions, map[string]*string{"cleanup.policy": &compact, "min.compaction.lag.ms": &lag}},
		{application + ".changelog", partitions, map[string]*string{"cleanup.policy": &compact, "min.compaction.lag.ms": &lag}},
		{application + ".dead-letter", partitions, map[string]*string{"cleanup.policy": &remove, "max.message.bytes": &large}},
	}
	for _, t := range all {
		if _, err := w.admin.CreateTopic(ctx, t.partitions, replication, t.configs, t.name); err != nil {
			return fmt.Errorf("create topic %s: %w", t.name, err)
		}
	}
	return nil
}

// member is the id of an instance in the group: every other world has static
// members, whose partitions wait for them.
func (w *World) member(name string) string {
	if w.opts.Seed%2 == 0 && strings.HasPrefix(name, "meterd-") {
		return name
	}
	return ""
}

func (w *World) writeConfig(name string, brokers []string) (string, error) {
	path := filepath.Join(w.dir, name+".yaml")
	list, timeouts := "", ""
	if name != "direct" {
		timeouts = "read_timeout: 2s, write_timeout: 2s, dial_timeout: 1s,"
	}
	for _, b := range brokers {
		list += fmt.Sprintf("%q, ", b)
	}
	return path, os.WriteFile(path, fmt.Appendf([]byte(w.meters()), `
application_id: %s
kafka: {brokers: [%s], session_timeout: %s, transaction_timeout: 3s, %s instance_id: %q}
schema_registry: {url: %q}
commit: {interval: 100ms, max_records: 5000}
limit_events: {format: json}
state: {min_free_disk: 16MiB, flush_interval: 300ms}
`, application, list, sessionTimeout, timeouts, w.member(name), w.registry.URL()), 0o600)
}

// meters are what is counted, from which topic, and what was before.
func (w *World) meters() string {
	if w.withHistory() {
		return fmt.Sprintf(`
usage: {topic: %s, allowed_lateness: 72h, format: json}
meters: [{name: api_calls, aggregation: count}, {name: bytes_out, aggregation: sum}, {name: jobs, aggregation: sum}]
history:
  druid:
    {url: %q, datasource: usage, timeout: 1s, columns: {client: client_id, meter: meter, quantity: quantity, partition: k_partition, offset: k_offset}}
`, usageTopic, w.history.URL())
	}
	return fmt.Sprintf(`
usage: {topic: %s, allowed_lateness: 72h, fields: {void: is_void}}
meters:
  - {name: api_calls, aggregation: count, group_by: [source]}
  - {name: bytes_out, aggregation: sum}
  - {name: jobs, aggregation: sum}
  - {name: imports, aggregation: count, when: 'meter == "jobs" && source == "batch-importer"'}
  - {name: origins, aggregation: unique, value: source, when: 'meter == "bytes_out"'}
`, usageTopic)
}

// command runs a command of meterd to its end, around the proxies.
func (w *World) command(ctx context.Context, name string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, w.opts.Binary, append([]string{name, "--config", w.direct}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("meterd %s: %w: %s", name, err, out.Bytes()[:min(out.Len(), 8<<10)])
	}
	return out.String(), err
}

// load writes a part of the traffic, with its ledger.
func (w *World) load(ctx context.Context, part string, first, events int64, args ...string) error {
	ledger := filepath.Join(w.dir, "ledger-"+part)
	out, err := w.command(ctx, "loadgen", append([]string{
		"--seed", fmt.Sprint(w.opts.Seed), "--first-event", fmt.Sprint(first), "--events", fmt.Sprint(events),
		"--clients", fmt.Sprint(clients), "--duplicates", w.share("0.01"), "--undecodable", "0.0005", "--late", "0.002",
		"--voids", w.share("0.002"), "--negative", "0.005", "--second-schema", "0.3", "--ledger", ledger,
	}, args...)...)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if part == history {
		w.past = ledger // verify knows only what is counted from Kafka
	} else {
		w.ledgers = append(w.ledgers, ledger)
	}
	w.events += events
	w.log("load %s: %s", part, out)
	return nil
}

// share is that of events which the embedded history cannot tell apart.
func (w *World) share(usual string) string {
	if w.withHistory() {
		return "0"
	}
	return usual
}

// each calls f for all instances at once.
func (w *World) each(f func(*Instance) error) error {
	errs := make([]error, len(w.instances))
	var all sync.WaitGroup
	for n, i := range w.instances {
		all.Go(func() { errs[n] = f(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// sorted are the ledgers, for verify.
func (w *World) sorted() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(slices.Values(w.ledgers))
}

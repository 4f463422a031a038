// Command bench measures a meterd binary on a real Kafka: how fast and at what
// cost it drains a filled topic, and how long after its append a usage event's
// limit event can be read, at a fixed rate. bench/run.sh starts what it needs.
//
// A run whose result "meterd verify" finds fault with has no figures.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/kafka"
)

type bench struct {
	brokers, registry, binary, dir string
	broker                         int
	pin                            bool
	events, clients, rate, seconds int
	partitions                     int

	cluster *kafka.Cluster
	out     io.Writer
}

func main() {
	b := &bench{out: os.Stdout}
	flag.StringVar(&b.brokers, "kafka", "", "bootstrap address")
	flag.StringVar(&b.registry, "registry", "", "URL of the schema registry")
	flag.StringVar(&b.binary, "meterd", "bin/meterd", "binary to measure")
	flag.StringVar(&b.dir, "dir", os.TempDir(), "directory for state and configuration")
	flag.IntVar(&b.broker, "broker", 0, "process id of the broker, for its CPU")
	flag.BoolVar(&b.pin, "pin", false, "broker on core 0, meterd on core 1")
	flag.IntVar(&b.events, "events", 3_000_000, "events to catch up with")
	flag.IntVar(&b.clients, "clients", 100_000, "clients")
	flag.IntVar(&b.rate, "rate", 20_000, "events a second for the latency")
	flag.IntVar(&b.seconds, "seconds", 20, "how long to measure the latency")
	flag.IntVar(&b.partitions, "partitions", 8, "partitions of the usage topic")
	flag.Parse()
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) error {
	cfg := kafka.Default()
	cfg.Brokers = []string{b.brokers}
	var err error
	if b.cluster, err = kafka.Dial(ctx, cfg, zap.NewNop(), prometheus.NewRegistry()); err != nil {
		return err
	}
	if b.pin && b.broker > 0 {
		if err := command(ctx, "taskset", "-a", "-c", "-p", "0", strconv.Itoa(b.broker)); err != nil {
			return err
		}
	}
	return errors.Join(b.catchUp(ctx), b.latency(ctx), b.cluster.Close())
}

func command(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// trial is one meterd with a topic of its own.
type trial struct {
	b       *bench
	name    string
	config  string
	process *exec.Cmd
}

func (b *bench) trial(ctx context.Context, name string) (*trial, error) {
	t := &trial{b: b, name: fmt.Sprintf("bench-%s-%d", name, time.Now().UnixNano())}
	if err := b.cluster.CreateTopics(ctx, []kafka.TopicSpec{{Name: t.name, Partitions: int32(b.partitions)}}); err != nil {
		return nil, err
	}
	t.config = filepath.Join(b.dir, t.name+".yaml")
	content := fmt.Sprintf(`application_id: %[1]s-meterd
kafka: {brokers: [%[2]q]}
schema_registry: {url: %[3]q}
usage: {topic: %[1]s}
schedule: {period: lifetime}
meters:
  - {name: api_calls, aggregation: count}
  - {name: bytes_out, aggregation: sum}
  - {name: bytes_in, aggregation: sum}
  - {name: jobs, aggregation: sum}
state: {dir: %[4]q, min_free_disk: 100MiB}
http: {listen: "127.0.0.1:0"}
limit_events: {format: json}
log: {level: warn}
`, t.name, b.brokers, b.registry, filepath.Join(b.dir, t.name))
	if err := os.WriteFile(t.config, []byte(content), 0o600); err != nil {
		return nil, err
	}
	return t, command(ctx, b.binary, "topics", "create", "--config", t.config)
}

func (t *trial) load(ctx context.Context, args ...string) error {
	return command(ctx, t.b.binary, append([]string{"loadgen", "--config", t.config, "--clients", strconv.Itoa(t.b.clients)}, args...)...)
}

func (t *trial) start(ctx context.Context) error {
	args := []string{t.b.binary, "run", "--config", t.config}
	if t.b.pin {
		args = append([]string{"taskset", "-c", "1"}, args...)
	}
	t.process = exec.CommandContext(ctx, args[0], args[1:]...)
	t.process.Stderr = os.Stderr
	return t.process.Start()
}

func (t *trial) stop() error {
	return errors.Join(t.process.Process.Signal(syscall.SIGTERM), t.process.Wait())
}

// verify is what makes a figure worth printing.
func (t *trial) verify(ctx context.Context) error {
	return command(ctx, t.b.binary, "verify", "--config", t.config, "--wait", "60s")
}

// position returns how much of the topic is committed, and how much there is.
func (t *trial) position(ctx context.Context) (committed, end int64, err error) {
	for p := range int32(t.b.partitions) {
		offset, _, err := t.b.cluster.CommittedOffset(ctx, t.name+"-meterd", t.name, p)
		if err != nil {
			return 0, 0, err
		}
		last, err := t.b.cluster.LastStable(ctx, t.name, p)
		if err != nil {
			return 0, 0, err
		}
		committed, end = committed+offset, end+last
	}
	return committed, end, nil
}

// drained waits until all of the topic is committed, or more than least of it.
func (t *trial) drained(ctx context.Context, least int64) (committed int64, err error) {
	for {
		committed, end, err := t.position(ctx)
		if err != nil || committed == end || least > 0 && committed >= least {
			return committed, err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// changelog returns how many records the changelog has got.
func (t *trial) changelog(ctx context.Context) (records int64, err error) {
	for p := range int32(t.b.partitions) {
		_, err := t.b.cluster.Read(ctx, t.name+"-meterd.changelog", p, kafka.Earliest, kafka.Latest, func(batch kafka.Batch) error {
			records += int64(len(batch.Records))
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return records, nil
}

func (b *bench) catchUp(ctx context.Context) error {
	t, err := b.trial(ctx, "catch-up")
	if err != nil {
		return err
	}
	if err := t.load(ctx, "--events", strconv.Itoa(b.events), "--contracts", "2500"); err != nil {
		return err
	}
	if err := t.start(ctx); err != nil {
		return err
	}
	first, err := t.drained(ctx, 1)
	if err != nil {
		return err
	}
	began, program, broker := time.Now(), cpu(t.process.Process.Pid), cpu(b.broker)
	last, err := t.drained(ctx, 0)
	if err != nil {
		return err
	}
	took := time.Since(began)
	program, broker = cpu(t.process.Process.Pid)-program, cpu(b.broker)-broker
	rss := peakMemory(t.process.Process.Pid)
	if err := t.stop(); err != nil {
		return err
	}
	records, err := t.changelog(ctx)
	if err != nil {
		return err
	}
	if err := t.verify(ctx); err != nil {
		return fmt.Errorf("a wrong run has no figures: %w", err)
	}
	n := float64(last - first)
	fmt.Fprintf(b.out, "catching up    %10.0f events/s   meterd %5.2f µs/event   broker %5.2f µs/event   changelog %.3f records/event   peak memory %d MiB   (%d events in %s, verified)\n",
		n/took.Seconds(), perEvent(program, n), perEvent(broker, n), float64(records)/float64(last), rss>>20, last-first, took.Round(time.Millisecond))
	return nil
}

func perEvent(d time.Duration, events float64) float64 {
	return float64(d.Nanoseconds()) / 1e3 / events
}

func (b *bench) latency(ctx context.Context) error {
	t, err := b.trial(ctx, "latency")
	if err != nil {
		return err
	}
	if err := t.start(ctx); err != nil {
		return err
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	latencies := make(chan *hdrhistogram.Histogram, 1)
	failed := make(chan error, 1)
	go func() {
		h, err := t.subscribe(reading)
		latencies <- h
		failed <- err
	}()
	program, broker := cpu(t.process.Process.Pid), cpu(b.broker)
	events := b.rate * b.seconds
	if err := t.load(ctx, "--events", strconv.Itoa(events), "--rate", strconv.Itoa(b.rate), "--contracts", "4000", "--late", "0"); err != nil {
		return err
	}
	if _, err := t.drained(ctx, 0); err != nil {
		return err
	}
	program, broker = cpu(t.process.Process.Pid)-program, cpu(b.broker)-broker
	time.Sleep(500 * time.Millisecond) // the last limit events are on their way
	stop()
	h := <-latencies
	if err := errors.Join(<-failed, t.stop(), t.verify(ctx)); err != nil {
		return fmt.Errorf("a wrong run has no figures: %w", err)
	}
	ms := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e3 }
	fmt.Fprintf(b.out, "%d events/s   append to readable limit event: p50 %.1f ms   p99 %.1f ms   p99.9 %.1f ms   max %.1f ms (%d crossings)   meterd %.1f µs/event   broker %.1f µs/event\n",
		b.rate, ms(50), ms(99), ms(99.9), float64(h.Max())/1e3, h.TotalCount(), perEvent(program, float64(events)), perEvent(broker, float64(events)))
	return nil
}

// subscribe reads limit events as they come, until ctx ends, and returns how
// long after their usage event each could be read, in microseconds.
func (t *trial) subscribe(ctx context.Context) (*hdrhistogram.Histogram, error) {
	h := hdrhistogram.New(1, 60_000_000, 3)
	fetcher := t.b.cluster.NewFetcher(kafka.DefaultFetch())
	ended := make(chan error, 1)
	go func() { ended <- fetcher.Run(ctx) }()
	arrivals := make(chan kafka.Batch)
	for p := range int32(t.b.partitions) {
		s, err := fetcher.Subscribe(t.name+"-meterd.limit-events", p, kafka.Earliest)
		if err != nil {
			return h, err
		}
		go func() {
			for batch := range s.Batches() {
				arrivals <- batch
			}
		}()
	}
	for {
		select {
		case err := <-ended:
			return h, err
		case batch := <-arrivals:
			now := time.Now()
			for i := range batch.Records {
				if at, ok := caused(&batch.Records[i]); ok {
					_ = h.RecordValue(max(1, now.Sub(at).Microseconds())) // beyond a minute it is at the end
				}
			}
		}
	}
}

// caused returns when the usage event happened that caused a limit event.
func caused(r *kafka.Record) (time.Time, bool) {
	var e struct {
		Cause struct {
			EventTime *time.Time `json:"event_time"`
		} `json:"cause"`
	}
	if json.Unmarshal(r.Value, &e) != nil || e.Cause.EventTime == nil {
		return time.Time{}, false
	}
	return *e.Cause.EventTime, true
}

// ticks is the unit of CPU time in /proc: a hundredth of a second on Linux.
const ticks = 10 * time.Millisecond

// cpu returns the CPU time that a process has used.
func cpu(pid int) time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(content), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * ticks
}

// peakMemory returns the most memory that a process has had, in bytes.
func peakMemory(pid int) int64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

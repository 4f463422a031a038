package scenario

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/usage"
)

// Stage is a Kafka on which scenarios are played.
type Stage struct {
	Brokers  []string
	ID       string // the names of topics and of the application begin with it
	Dir      string // for files
	Patience time.Duration
	Log      *zap.Logger
}

// Result is what came of a scenario that was played.
type Result struct {
	Scenario *Scenario
	Wrong    []string // each difference from what Memory told
}

// Play plays scenarios that have the same settings, all at once: each has a
// partition of its own, and one daemon counts them. All usage is on the topic
// before it starts, as a backlog. Contracts come just when the partition of
// their scenario has been counted up to them. At its end each partition is
// read up, and the clock takes over.
func (s *Stage) Play(ctx context.Context, document *Document, scenarios []*Scenario) ([]Result, error) {
	cfg, err := document.Load(scenarios[0], s.Dir, map[string]string{
		"application_id": s.ID, "kafka.brokers": strings.Join(s.Brokers, ","), "kafka.session_timeout": "10s", "kafka.transaction_timeout": "5s",
		"usage.topic": s.ID + ".usage", "commit.max_records": "1", "commit.interval": "20ms",
		"state.dir": filepath.Join(s.Dir, "state"), "state.min_free_disk": "0", "http.listen": "127.0.0.1:0",
	})
	if err != nil {
		return nil, err
	}
	script, err := document.Load(scenarios[0], s.Dir, nil)
	if err != nil {
		return nil, err
	}
	p := &play{stage: s, cfg: cfg, script: script, end: usage.TimeOf(time.Now())}
	if p.client, err = kgo.NewClient(kgo.SeedBrokers(s.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner())); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	defer p.client.Close()
	p.admin = kadm.NewClient(p.client)
	if err := p.cast(scenarios); err != nil {
		return nil, err
	}
	if err := p.prepare(ctx); err != nil {
		return nil, err
	}
	if err := p.perform(ctx); err != nil {
		return nil, err
	}
	return p.review(ctx)
}

// play is one performance.
type play struct {
	stage  *Stage
	cfg    *config.Config
	script *config.Config // that of the document, for Memory
	end    usage.Time
	client *kgo.Client
	admin  *kadm.Client
	parts  []*part
	cues   cues

	counted time.Time // when the last record had been
}

// part is what one scenario has in a play.
type part struct {
	scenario  *Scenario
	partition int32
	names     Names
	clients   map[string]string // the scenario's names, by those in the play
	contracts map[string]string
	want      *Trace
	order     map[int64]int64 // offsets of the usage topic: which record of the scenario it is
	steps     map[int64]int   // and of which step
	revisions map[int64]int64 // offsets of the contracts topic: which revision of the scenario it is
	next      int64           // behind its last record
	wrong     []string        // of what was asked
}

// cast gives each scenario a partition and names.
func (p *play) cast(scenarios []*Scenario) error {
	owner, err := kafka.NewPartitioner(p.cfg.Usage.Partitioner)
	if err != nil {
		return fmt.Errorf("partitioner: %w", err)
	}
	count := int32(max(len(scenarios), 2)) // with one, no client is on a wrong one
	for i, s := range scenarios {
		t := &part{
			scenario: s, partition: int32(i), clients: map[string]string{}, contracts: map[string]string{},
			order: map[int64]int64{}, steps: map[int64]int{}, revisions: map[int64]int64{},
		}
		stray := map[string]bool{}
		for j := range s.Steps {
			stray[s.Steps[j].client] = stray[s.Steps[j].client] || s.Steps[j].misplaced
		}
		known := map[string]string{}
		t.names.Client = func(client string) string {
			if name, ok := known[client]; ok {
				return name
			}
			for n := 0; ; n++ {
				name := fmt.Sprintf("%s.%d.%d", client, i, n) // no other scenario has it
				if (owner([]byte(name), count) == t.partition) == stray[client] {
					continue
				}
				if _, taken := t.clients[name]; !taken {
					known[client], t.clients[name] = name, client
					return name
				}
			}
		}
		t.names.Contract = func(id string) string {
			name := fmt.Sprintf("s%d.%s", i, id)
			t.contracts[name] = id
			return name
		}
		if t.want, err = Memory(s, p.script, Way{Backlog: true}, p.end); err != nil {
			return fmt.Errorf("in memory: %w", err)
		}
		p.parts = append(p.parts, t)
	}
	return nil
}

// prepare makes the topics, and puts there all usage, and the contracts that
// come before any.
func (p *play) prepare(ctx context.Context) error {
	forever := "-1"
	count := int32(max(len(p.parts), 2))
	if _, err := p.admin.CreateTopic(ctx, count, -1, map[string]*string{"retention.ms": &forever}, p.cfg.Usage.Topic); err != nil {
		return fmt.Errorf("usage topic: %w", err)
	}
	if err := p.createTopics(ctx, count); err != nil {
		return err
	}
	for _, t := range p.parts {
		if err := p.write(ctx, t); err != nil {
			return fmt.Errorf("line %d: %w", t.scenario.Line, err)
		}
	}
	return p.learn(ctx)
}

// createTopics makes meterd's own topics so that all that was ever in them can
// be read.
func (p *play) createTopics(ctx context.Context, count int32) (err error) {
	cluster, err := app.Dial(ctx, p.cfg, p.stage.Log, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	specs := app.Topics(p.cfg, count)
	for i := range specs {
		specs[i].Configs = map[string]string{"min.cleanable.dirty.ratio": "1", "min.compaction.lag.ms": "86400000"}
	}
	if err := cluster.CreateTopics(ctx, specs); err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	return nil
}

// write puts the usage of t on its partition, a record for each step, and
// notes when contracts and restarts are due.
func (p *play) write(ctx context.Context, t *part) error {
	began := false // nothing was used so far: contracts may come at once
	var batch []*kgo.Record
	for i := range t.scenario.Steps {
		step := &t.scenario.Steps[i]
		if !step.inTopic() {
			continue
		}
		r := p.record(t, step)
		if step.aborted {
			if err := errors.Join(p.client.ProduceSync(ctx, batch...).FirstErr(), p.abort(ctx, r)); err != nil {
				return err
			}
			batch = nil
			continue
		}
		batch = append(batch, r)
		if step.kind != contractStep && step.kind != restartStep {
			began = true
			continue
		}
		if err := p.client.ProduceSync(ctx, batch...).FirstErr(); err != nil {
			return err
		}
		batch = nil
		c := &cue{part: t, step: step, after: r.Offset + 1}
		if began || step.kind == restartStep {
			p.cues.pending = append(p.cues.pending, c)
			continue
		}
		if err := p.sign(ctx, c); err != nil {
			return err
		}
	}
	return p.client.ProduceSync(ctx, batch...).FirstErr()
}

func (p *play) record(t *part, step *Step) *kgo.Record {
	r := &kgo.Record{
		Topic: p.cfg.Usage.Topic, Partition: t.partition, Timestamp: step.Time.Std(),
		Key: []byte("-"), Value: step.usageRecord(t.names),
	}
	if step.kind == useStep {
		r.Key = []byte(t.names.client(step.client))
	}
	return r
}

// abort puts r on its topic in a transaction that is aborted.
func (p *play) abort(ctx context.Context, r *kgo.Record) error {
	c, err := kgo.NewClient(kgo.SeedBrokers(p.stage.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID(p.stage.ID+".producer"))
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer c.Close()
	return errors.Join(c.BeginTransaction(), c.ProduceSync(ctx, r).FirstErr(), c.EndTransaction(ctx, kgo.TryAbort))
}

// learn reads the usage topic, to know which offset is of which step.
func (p *play) learn(ctx context.Context) error {
	records, ends, err := p.read(ctx, p.cfg.Usage.Topic, kgo.ReadUncommitted())
	if err != nil {
		return err
	}
	for _, t := range p.parts {
		t.next = ends[t.partition]
		for i := range t.scenario.Steps {
			if !t.scenario.Steps[i].inTopic() {
				continue
			}
			n := len(t.order)
			if n >= len(records[t.partition]) {
				return fmt.Errorf("%w: %d records", errLost, n)
			}
			offset := records[t.partition][n].Offset
			t.order[offset], t.steps[offset] = int64(n), i
		}
	}
	return nil
}

var errLost = errors.New("the topic has fewer records than were produced")

// read returns the records of a topic, by partition, and the offsets behind
// the last.
func (p *play) read(ctx context.Context, topic string, level kgo.IsolationLevel) (map[int32][]*kgo.Record, map[int32]int64, error) {
	list := p.admin.ListEndOffsets
	if level == kgo.ReadCommitted() {
		list = p.admin.ListCommittedOffsets
	}
	listed, err := list(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("ends of %s: %w", topic, err)
	}
	ends, left := map[int32]int64{}, map[int32]bool{}
	listed.Each(func(o kadm.ListedOffset) {
		if ends[o.Partition] = o.Offset; o.Offset > 0 {
			left[o.Partition] = true
		}
	})
	c, err := kgo.NewClient(kgo.SeedBrokers(p.stage.Brokers...), kgo.FetchIsolationLevel(level), kgo.KeepControlRecords(),
		kgo.FetchMaxWait(50*time.Millisecond), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return nil, nil, fmt.Errorf("client: %w", err)
	}
	defer c.Close()
	records := map[int32][]*kgo.Record{}
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				records[r.Partition] = append(records[r.Partition], r)
			}
			if r.Offset+1 >= ends[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return records, ends, nil
}

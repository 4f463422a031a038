package ingest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/failpoint"
	"github.com/meterd/meterd/internal/kafka"
	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// History answers what clients used before counting began.
type History interface {
	// Open returns an empty set of questions about one partition.
	Open(partition int32) Questions
}

// Questions are those of one partition. Nothing in it blocks.
type Questions interface {
	// Submit takes questions while there is room, and returns how many.
	Submit(asks []aggregate.Ask) int
	Take() []Answer
	Close()
}

// Answer is what became of a question: totals with proof, or that it failed so
// far and is asked again.
type Answer struct {
	Ask    aggregate.Ask
	Failed error
	Totals []aggregate.SeedTotal
}

// Handover asks the other partitions of the usage topic what they have told of
// contracts that have come to one of ours.
type Handover interface {
	// Open returns an empty list of contracts for one partition. wake is called
	// when there is an answer.
	Open(partition int32, wake func()) Handovers
}

// Handovers are those of one partition. Nothing in it blocks.
type Handovers interface {
	// Want has all other partitions asked for held, and no longer for what was
	// wanted before and is not in it.
	Want(held []aggregate.Held)
	// Take returns what all other partitions have answered for.
	Take() []aggregate.Handover
	Close()
}

// CounterConfig is what counting needs beside its parts.
type CounterConfig struct {
	State         aggregate.Config // of any partition; Partition is set by NewCounter
	Changelog     string           // topics
	LimitEvents   string
	LimitState    string
	DeadLetters   string
	ApplicationID string
}

// CounterParts is what the Counter of a partition works with.
type CounterParts struct {
	Decoder  *schema.Decoder
	Events   *schema.EventCodec
	Table    *contracts.Table
	History  History  // nil: none
	Handover Handover // nil: there is no other partition
	Metrics  *CounterMetrics
	Log      *zap.Logger
}

// Counter is the Processor that counts usage.
type Counter struct {
	cfg       CounterConfig
	parts     CounterParts
	partition int32
	state     *aggregate.State
	handle    *schema.Handle
	changelog schema.ChangelogDecoder
	questions Questions
	handovers Handovers
	wanted    uint64    // of the contracts that are held, what Holds said when they were asked for
	beginning bool      // nothing was counted yet: contracts that were there at the start come first
	patience  time.Time // for how long, once they are known
	wake      chan struct{}
	waiting   []aggregate.Ask // to be asked, once there is room
	lookups   chan string
	loaded    bool

	// Of the open transaction.
	letters []kafka.Output
	drawn   [16]drawn      // records at hand
	events  []*usage.Event // the good ones of them
	tally   tally
	taken   []Answer             // for taking them again after a rollback
	handed  []aggregate.Handover // likewise
	buffer  []byte
}

// tally is what the open transaction did with records, for the metrics.
type tally struct {
	fates     [5]int64
	reasons   map[usage.Reason]int64
	late      int64
	leftOut   int64
	crossings []usage.Time // timestamps of records that made limit events
	events    []*alerts.Event
	misplaced int
}

// chunk is how many records are folded under one hold of the lock, so that
// readers do not wait for long.
const chunk = 512

// maxLookups bounds the clients that readers have asked for and that were not
// looked up yet.
const maxLookups = 1024

// NewCounter returns the processor of one partition.
func NewCounter(cfg CounterConfig, parts CounterParts, partition int32) *Counter {
	cfg.State.Partition = partition
	c := &Counter{
		cfg: cfg, parts: parts, partition: partition, handle: parts.Decoder.Handle(),
		state: aggregate.New(cfg.State, parts.Table), wake: make(chan struct{}, 1), lookups: make(chan string, maxLookups),
	}
	if parts.History != nil {
		c.questions = parts.History.Open(partition)
	}
	if parts.Handover != nil {
		c.handovers = parts.Handover.Open(partition, c.Nudge)
	}
	return c
}

// State returns the state for reading.
func (c *Counter) State() *aggregate.State { return c.state }

// Load takes in a record of the changelog.
func (c *Counter) Load(key, value []byte) error {
	if value == nil {
		return c.state.Unload(key)
	}
	record, err := c.changelog.Decode(key, value)
	if err != nil {
		return err
	}
	if _, ok := record.(*aggregate.PositionRecord); ok {
		c.loaded = true
	}
	return c.state.Load(record)
}

// Loaded ends the restore.
func (c *Counter) Loaded() (position int64, ok bool) {
	if !c.loaded {
		return 0, false
	}
	c.state.Loaded(usage.TimeOf(failpoint.Now()))
	c.beginning = true
	c.waiting = append(c.waiting, c.state.Pending()...)
	return c.state.Position(), true
}

// Fresh begins without state.
func (c *Counter) Fresh(position int64, cut time.Time) {
	c.state.Start(position, usage.TimeOf(cut))
	c.beginning = true
}

// Close withdraws what was asked.
func (c *Counter) Close() {
	if c.questions != nil {
		c.questions.Close()
	}
	if c.handovers != nil {
		c.handovers.Close()
	}
}

// Wake has a value when Between has something to do.
func (c *Counter) Wake() <-chan struct{} { return c.wake }

// Nudge makes Wake have a value.
func (c *Counter) Nudge() {
	select {
	case c.wake <- struct{}{}:
	default: // it has one
	}
}

// LookUp asks history for a client that was never seen here. It is for
// readers; what history says is there to read a moment later.
func (c *Counter) LookUp(client string) {
	select {
	case c.lookups <- client:
		c.Nudge()
	default: // they will ask again
	}
}

// handoverWait is how long a partition that begins waits for what other
// partitions have told of its contracts, so that these are in force before what
// is read. Past it, they come into force later.
const handoverWait = time.Minute

// awaitsHandover tells whether contracts that were there when the partition
// began are still held. The time for that begins when they are known, not when
// state was restored: to read a hundred thousand contracts takes longer.
func (c *Counter) awaitsHandover() bool {
	some, _ := c.state.Holds()
	if some && c.patience.IsZero() {
		c.patience = time.Now().Add(handoverWait)
	}
	return some && time.Now().Before(c.patience)
}

// behind tells whether the contracts that an earlier owner of the partition had
// taken in are yet to be read.
func (c *Counter) behind() bool { return c.parts.Table.Position() < c.state.Awaits() }

// Prepare makes sure that contracts come first, and that the schemas of all
// records are known.
func (c *Counter) Prepare(ctx context.Context, records []kafka.Record) error {
	if c.behind() {
		return fmt.Errorf("%w for contracts to be read up to %d", ErrWait, c.state.Awaits())
	}
	if c.beginning && c.awaitsHandover() {
		return fmt.Errorf("%w for what other partitions have told of contracts", ErrWait)
	}
	c.beginning = false
	err := c.handle.Prepare(ctx, values(records))
	if errors.Is(err, schema.ErrRegistryDown) {
		c.parts.Log.Warn("schema registry gives no answer", zap.Int32("partition", c.partition), zap.Error(err))
		return fmt.Errorf("%w for the schema registry", ErrWait)
	}
	return err
}

func values(records []kafka.Record) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := range records {
			if !yield(records[i].Value) {
				return
			}
		}
	}
}

// Fold takes in records, a chunk at a time.
func (c *Counter) Fold(records []kafka.Record, next int64) error {
	for len(records) > 0 {
		n := min(chunk, len(records))
		if err := c.foldChunk(records[:n]); err != nil {
			return err
		}
		records = records[n:]
	}
	c.state.Begin(usage.TimeOf(failpoint.Now()))
	defer c.state.End()
	c.state.Skip(next)
	return nil
}

func (c *Counter) foldChunk(records []kafka.Record) error {
	c.state.Begin(usage.TimeOf(failpoint.Now()))
	defer c.state.End()
	for len(records) > 0 {
		n := min(len(c.drawn), len(records))
		if err := c.foldGroup(records[:n]); err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

// drawn is a record that was decoded and not folded yet.
type drawn struct {
	event  usage.Event
	reason usage.Reason // why it is none
	err    error
}

// foldGroup takes in as many records as are decoded together.
func (c *Counter) foldGroup(records []kafka.Record) error {
	decode := c.handle.Decode
	c.events = c.events[:0]
	for i := range records {
		r, d := &records[i], &c.drawn[i]
		d.reason, d.err = decode(r.Value, usage.Time(r.Timestamp), &d.event)
		switch decode = c.handle.DecodeMore; {
		case d.reason == "" && d.err != nil:
			return d.err
		case d.reason == "":
			c.events = append(c.events, &d.event)
		}
	}
	c.state.Foresee(c.events)
	for i := range records {
		r, d := &records[i], &c.drawn[i]
		in := aggregate.Input{Offset: r.Offset, Timestamp: usage.Time(r.Timestamp)}
		told := c.state.Told()
		var result aggregate.Result
		if d.reason != "" {
			c.state.Reject(in)
			result = aggregate.Result{Fate: aggregate.DeadLettered, Reason: d.reason}
		} else {
			result = c.state.Fold(in, &d.event)
		}
		c.note(r, result, d.err)
		for range c.state.Told() - told {
			c.tally.crossings = append(c.tally.crossings, in.Timestamp)
		}
	}
	return nil
}

// note tallies what became of r, and keeps it for the dead letters if it is one.
func (c *Counter) note(r *kafka.Record, result aggregate.Result, err error) {
	c.tally.fates[result.Fate]++
	c.tally.leftOut += int64(result.LeftOut)
	if result.Late && result.Fate == aggregate.Counted {
		c.tally.late++
	}
	if result.Fate != aggregate.DeadLettered {
		return
	}
	if c.tally.reasons == nil {
		c.tally.reasons = map[usage.Reason]int64{}
	}
	c.tally.reasons[result.Reason]++
	text := describe(result.Reason)
	if err != nil {
		text = err.Error()
	}
	headers := make([]kafka.Header, 0, len(r.Headers)+5)
	headers = append(headers, r.Headers...)
	for _, h := range [][2]string{
		{"meterd_topic", c.cfg.State.Topic},
		{"meterd_partition", strconv.Itoa(int(c.partition))},
		{"meterd_offset", strconv.FormatInt(r.Offset, 10)},
		{"meterd_reason", string(result.Reason)},
		{"meterd_error", text},
	} {
		headers = append(headers, kafka.Header{Key: []byte(h[0]), Value: []byte(h[1])})
	}
	c.letters = append(c.letters, kafka.Output{
		Topic: c.cfg.DeadLetters, Partition: c.partition, Key: r.Key, Value: r.Value, Headers: headers,
	})
}

// describe tells people what a reason means that counting gave.
func describe(reason usage.Reason) string {
	switch reason {
	case usage.MissingField:
		return "a void without the id of the event that it takes back"
	case usage.BadField:
		return "a field that a meter's when, group_by or value names is of no type that they can use, or a dimension's value is too long"
	case usage.UnknownMeter:
		return "no configured meter takes this event"
	case usage.Future:
		return "the event's time is further ahead than max_future"
	case usage.TooLate:
		return "the event's period ended longer ago than allowed_lateness"
	case usage.NotUndoable:
		return "a meter that is not count or sum takes the event: it cannot be taken back"
	case usage.Overflow:
		return "the quantity or a total with it does not fit the meter"
	default:
		return string(reason)
	}
}

// Between takes in the changes of contracts, answers from history, clients to
// be looked up and, at the end of the partition, the clock.
func (c *Counter) Between(readUpTo time.Time) error {
	if c.behind() {
		return nil
	}
	now := usage.TimeOf(failpoint.Now())
	c.state.Begin(now)
	defer c.state.End()
	if c.state.ContractsBehind() {
		c.state.TakeContracts()
	}
	c.takeHandovers()
	if c.questions != nil {
		answers := c.questions.Take()
		if len(answers) > 0 {
			failpoint.Hit(failpoint.Seeded)
		}
		c.taken = append(c.taken, answers...)
		for i := range answers {
			c.answer(&answers[i])
		}
		for more := true; more; {
			select {
			case client := <-c.lookups:
				if len(c.waiting) < maxLookups { // else its readers ask again
					c.state.LookUp(client)
				}
			default:
				more = false
			}
		}
	}
	if !readUpTo.IsZero() {
		c.state.Advance(usage.TimeOf(readUpTo))
		c.state.Idle(now)
	}
	if !c.state.Touched() {
		c.handed = nil // what it changed, it changed for good, or is asked for again
		c.ask()
	}
	return nil
}

// takeHandovers takes in what other partitions have told of contracts that
// are held, and has them asked for the others.
func (c *Counter) takeHandovers() {
	if c.handovers == nil {
		return
	}
	answers := c.handovers.Take()
	c.handed = append(c.handed, answers...)
	for i := range answers {
		c.state.TakeHandover(&answers[i])
	}
	if _, change := c.state.Holds(); change != c.wanted {
		c.wanted = change
		c.handovers.Want(c.state.Held())
	}
}

func (c *Counter) answer(a *Answer) {
	if a.Failed != nil { // whoever asks has logged why
		c.state.SeedFailed(a.Ask)
		return
	}
	if err := c.state.TakeSeed(a.Ask, a.Totals); err != nil {
		c.state.SeedFailed(a.Ask)
		c.parts.Log.Error("seed cannot be taken: the counter stays incomplete",
			zap.Int32("partition", c.partition), zap.String("client", a.Ask.Client), zap.Error(err))
	}
}

// ask passes on the questions that are certain: what gave rise to them was
// committed, or changes nothing.
func (c *Counter) ask() {
	if c.questions == nil {
		return
	}
	c.waiting = append(c.waiting, c.state.TakeAsks()...)
	n := c.questions.Submit(c.waiting)
	c.waiting = c.waiting[n:]
}

// Pending tells about the open transaction.
func (c *Counter) Pending() Pending {
	return Pending{Any: c.state.Touched(), Urgent: c.state.Urgent(), Dirty: c.state.Dirty()}
}

// Outputs returns all that the open transaction writes: the changelog, what
// limits tell, dead letters.
func (c *Counter) Outputs(now time.Time) ([]kafka.Output, error) {
	changes := c.state.Changes(usage.TimeOf(now))
	c.tally.events, c.tally.misplaced = changes.Events, changes.Misplaced
	out := make([]kafka.Output, 0, c.state.Dirty()+len(changes.Events)+len(changes.States)+len(c.letters))
	// One buffer for all of the changelog's keys and values: the records are
	// kept until they are on disk, so it is a new one each time.
	buffer := make([]byte, 0, cap(c.buffer))
	cut := func(from int) []byte { return buffer[from:len(buffer):len(buffer)] }
	put := func(key, value []byte) {
		out = append(out, kafka.Output{Topic: c.cfg.Changelog, Partition: c.partition, Key: key, Value: value})
	}
	for r := range changes.Counters {
		from := len(buffer)
		buffer = r.AppendCounterKey(buffer)
		key := cut(from)
		from = len(buffer)
		buffer = schema.AppendCounter(buffer, r)
		put(key, cut(from))
	}
	for i := range changes.Limits {
		value, err := schema.AppendLimit(nil, &changes.Limits[i])
		if err != nil {
			return nil, fmt.Errorf("encode limit: %w", err)
		}
		put([]byte(changes.Limits[i].Key()), value)
	}
	for i := range changes.Dedupe {
		put([]byte(changes.Dedupe[i].Key()), schema.AppendDedupe(nil, &changes.Dedupe[i]))
	}
	for _, key := range changes.Tombstones {
		put([]byte(key), nil)
	}
	put([]byte(aggregate.PositionKey(c.partition)), schema.AppendPosition(nil, &changes.Position))
	c.buffer = buffer[:0]

	for _, event := range changes.Events {
		o, err := c.event(c.cfg.LimitEvents, []byte(event.Client), event)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	for _, s := range changes.States {
		o, err := c.event(c.cfg.LimitState, []byte(s.Key), s.Event)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return append(out, c.letters...), nil
}

// event returns the record of a limit event, or of a limit of which nothing
// stands.
func (c *Counter) event(topic string, key []byte, event *alerts.Event) (kafka.Output, error) {
	o := kafka.Output{Topic: topic, Partition: c.partition, Key: key}
	if event == nil {
		return o, nil
	}
	var err error
	if o.Value, err = c.parts.Events.Append(nil, event); err != nil {
		return o, fmt.Errorf("encode limit event: %w", err)
	}
	for _, h := range schema.Headers(event, c.cfg.ApplicationID, c.parts.Events.Format()) {
		o.Headers = append(o.Headers, kafka.Header(h))
	}
	return o, nil
}

// Committed makes the open transaction what readers see.
func (c *Counter) Committed(now time.Time) {
	asks := c.state.TakeAsks()
	c.parts.Metrics.count(&c.tally, now)
	c.state.Committed(usage.TimeOf(now))
	c.waiting = append(c.waiting, asks...)
	c.reset()
	c.ask()
}

// Rollback undoes the open transaction. Answers from history and from other
// partitions that were part of it are taken in again.
func (c *Counter) Rollback() {
	c.state.Rollback()
	again, handed := c.taken, c.handed
	c.reset()
	if len(again)+len(handed) == 0 {
		return
	}
	c.state.Begin(usage.TimeOf(failpoint.Now()))
	defer c.state.End()
	if c.state.ContractsBehind() { // in the order of Between
		c.state.TakeContracts()
	}
	c.taken, c.handed = again, handed
	for i := range handed {
		c.state.TakeHandover(&handed[i])
	}
	for i := range again {
		c.answer(&again[i])
	}
}

func (c *Counter) reset() {
	c.letters, c.taken, c.handed = nil, nil, nil
	c.tally = tally{crossings: c.tally.crossings[:0]}
}

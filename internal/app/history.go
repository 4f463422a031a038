package app

import (
	"sync"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/ingest"
)

// history lets partitions ask Druid.
type history struct{ seeder *druid.Seeder }

// Open returns an empty set of questions about one partition.
func (h history) Open(partition int32) ingest.Questions {
	return &questions{
		partition: partition, submitter: h.seeder.Submitter(), asked: map[druid.Request][]aggregate.Ask{},
	}
}

// questions remembers which asks a request stands for: Druid does not know of
// scopes, so asks that differ in nothing else are one request.
type questions struct {
	partition int32
	submitter *druid.Submitter

	mu    sync.Mutex // guards asked: a partition's end may close beside its loop
	asked map[druid.Request][]aggregate.Ask
}

func (q *questions) Submit(asks []aggregate.Ask) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, ask := range asks {
		r := druid.Request{
			Partition: q.partition, Boundary: ask.Boundary,
			Start: ask.Period.Start, End: ask.Period.End, Cut: ask.Cut, Client: ask.Client,
		}
		if q.submitter.Submit(r) == 0 {
			return i
		}
		q.remember(r, ask)
	}
	return len(asks)
}

func (q *questions) remember(r druid.Request, ask aggregate.Ask) {
	for _, known := range q.asked[r] {
		if known.Scope == ask.Scope && known.Period.ID == ask.Period.ID {
			return
		}
	}
	q.asked[r] = append(q.asked[r], ask)
}

func (q *questions) Take() []ingest.Answer {
	updates := q.submitter.Take()
	if len(updates) == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var answers []ingest.Answer
	for i := range updates {
		u := &updates[i]
		for _, ask := range q.asked[u.Request] {
			a := ingest.Answer{Ask: ask}
			if u.State.Done() {
				a.Totals = totals(u.Totals)
			} else {
				a.Failed = u.Reason
			}
			answers = append(answers, a)
		}
		if u.State.Done() {
			delete(q.asked, u.Request)
		}
	}
	return answers
}

func totals(from []druid.Total) []aggregate.SeedTotal {
	list := make([]aggregate.SeedTotal, 0, len(from))
	for i := range from {
		t := &from[i]
		list = append(list, aggregate.SeedTotal{
			Meter: t.Meter, Fields: t.Fields, Void: t.Void, Events: t.Events, Quantity: t.Quantity,
			Min: t.Min, Max: t.Max, Latest: t.Latest, First: t.First, Last: t.Last,
		})
	}
	return list
}

func (q *questions) Close() { q.submitter.Close() }

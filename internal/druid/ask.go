package druid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/meterd/meterd/internal/usage"
)

// Ask makes one attempt at q and returns the totals of its clients, by client,
// meter and fields (with Config.Latest, see there), or an error: there is no
// part of an answer. It returns
// ErrIncomplete when the answer did not prove itself (ask again, later),
// ErrOverflow and ErrColumns when totals are not exact, and *StatusError when
// Druid refused. Where answers are Bounded the first attempt is never enough.
func (s *Seeder) Ask(ctx context.Context, q Question) ([]Total, error) {
	a, err := s.ask(ctx, &q)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, c := range slices.Sorted(maps.Keys(a.bad)) {
		errs = append(errs, fmt.Errorf("client %q: %w", c, a.bad[c]))
	}
	for _, c := range slices.Sorted(maps.Keys(a.again)) {
		errs = append(errs, fmt.Errorf("client %q: %w", c, a.again[c]))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return a.totals, nil
}

// ask is Ask for callers who can use the answer for some clients where the
// totals of others are not exact, or not proven.
func (s *Seeder) ask(ctx context.Context, q *Question) (answer, error) {
	if err := q.validate(&s.cfg); err != nil {
		return answer{}, fmt.Errorf("question: %w", err)
	}
	if q.Boundary == 0 || q.Start >= q.until(&s.cfg) {
		return answer{}, nil
	}
	begin := s.now()
	a, err := s.attempt(ctx, q)
	outcome := err
	if len(a.again) > 0 {
		outcome = ErrIncomplete
	}
	s.metrics.asked(outcome, s.now().Sub(begin))
	if err != nil {
		return answer{}, fmt.Errorf("partition %d: %w", q.Partition, err)
	}
	return a, nil
}

func (s *Seeder) attempt(ctx context.Context, q *Question) (answer, error) {
	if s.cfg.Bounded() {
		return s.bounded(ctx, q)
	}
	return s.exact(ctx, q)
}

// errFirst tells that an answer cannot be part of a proof because nobody knew
// beforehand that one was needed.
var errFirst = errors.New("nobody looked beforehand whether history is settled")

// exact asks for the control count of the partition, and with it or after it
// for the sums.
func (s *Seeder) exact(ctx context.Context, q *Question) (answer, error) {
	kinds, err := s.checkSchema(ctx)
	if err != nil {
		return answer{}, err
	}
	// Where the count alone did not prove completeness before, this answer may
	// be half of a proof: then Druid's state must be good on both sides of it.
	e := edge{partition: q.Partition, boundary: q.Boundary}
	conditions := errFirst
	if s.proofs.find(e).wanted {
		conditions = s.settled(ctx, e)
	}
	asks, row := q.whole(&s.cfg), (*parser).totalRow
	if s.cfg.detailed() {
		asks, row = q.control(&s.cfg), (*parser).controlRow
	}
	a, err := s.read(ctx, q, kinds, asks, row)
	if err != nil {
		return answer{}, err
	}
	if err := s.judge(ctx, e, a.control, conditions); err != nil {
		return answer{}, err
	}
	if !s.cfg.detailed() || len(a.clients) == 0 {
		return a, nil
	}
	// All rows of these clients are proven to be among those that were counted:
	// as many rows with the same offsets are the same rows.
	d, err := s.sums(ctx, q, kinds)
	if err != nil {
		return answer{}, err
	}
	if err := s.agree(a.clients, d.clients); err != nil {
		return answer{}, err
	}
	return s.latest(ctx, q, kinds, d)
}

// sums asks for the sums by fields.
func (s *Seeder) sums(ctx context.Context, q *Question, kinds kinds) (answer, error) {
	return s.read(ctx, q, kinds, q.details(&s.cfg, kinds), (*parser).totalRow)
}

// latest adds to the answer of sums, where they are wanted, the latest
// quantities of the same rows.
func (s *Seeder) latest(ctx context.Context, q *Question, kinds kinds, a answer) (answer, error) {
	if !s.cfg.latest() || len(a.totals) == 0 {
		return a, nil
	}
	var times []usage.Time
	for i := range a.totals {
		times = append(times, a.totals[i].Last)
	}
	slices.Sort(times)
	l, err := s.read(ctx, q, kinds, q.latest(&s.cfg, kinds, slices.Compact(times)), (*parser).latestRow)
	if err != nil {
		return answer{}, err
	}
	if err := s.agree(a.clients, l.clients); err != nil {
		return answer{}, err
	}
	if err := a.setLatest(l.latest); err != nil {
		return answer{}, err
	}
	for client, digest := range l.digests {
		a.digests[client] += digest
	}
	return a, nil
}

// read asks a query and reads its answer to the end.
func (s *Seeder) read(ctx context.Context, q *Question, kinds kinds, asks query, row func(*parser, *cells) error) (a answer, err error) {
	err = s.http.query(ctx, asks.body, func(r io.Reader) (err error) {
		p := newParser(&s.cfg, q, kinds, s.seed)
		a, err = p.read(r, asks.cells, func(c *cells) error { return row(p, c) })
		return err
	})
	return a, err
}

// agree returns ErrIncomplete unless two answers have the same rows of each
// client. More rows in the second than in the first may come of a column that
// since has several values in a row: then the next question looks at columns.
func (s *Seeder) agree(first, second map[string]control) error {
	var err error
	compare := func(client string) {
		before, after := first[client], second[client]
		if before == after || err != nil {
			return
		}
		if after.rows > before.rows {
			s.schema.forget()
		}
		err = fmt.Errorf("%w: of client %q there were %d rows, and then %d", ErrIncomplete, client, before.rows, after.rows)
	}
	for _, client := range slices.Sorted(maps.Keys(first)) {
		compare(client)
	}
	for _, client := range slices.Sorted(maps.Keys(second)) {
		compare(client)
	}
	return err
}

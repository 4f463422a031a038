package druid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Ask makes one attempt at q and returns the totals of its clients, by client
// and meter, or an error: there is no part of an answer. It returns
// ErrIncomplete when the answer did not prove itself (ask again, later),
// ErrOverflow and ErrColumns when totals are not exact, and *StatusError when
// Druid refused.
func (s *Seeder) Ask(ctx context.Context, q Question) ([]Total, error) {
	a, err := s.ask(ctx, &q)
	if err != nil {
		return nil, err
	}
	var bad []error
	for _, c := range slices.Sorted(maps.Keys(a.bad)) {
		bad = append(bad, fmt.Errorf("client %q: %w", c, a.bad[c]))
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	return a.totals, nil
}

// ask is Ask for callers who can use the answer for some clients where the
// totals of others are not exact.
func (s *Seeder) ask(ctx context.Context, q *Question) (answer, error) {
	if err := q.validate(&s.cfg); err != nil {
		return answer{}, fmt.Errorf("question: %w", err)
	}
	if q.Boundary == 0 || q.Start == q.End {
		return answer{}, nil
	}
	begin := s.now()
	a, err := s.attempt(ctx, q)
	s.metrics.asked(err, s.now().Sub(begin))
	return a, err
}

func (s *Seeder) attempt(ctx context.Context, q *Question) (answer, error) {
	if err := s.checkSchema(ctx); err != nil {
		return answer{}, err
	}
	// Where the count alone did not prove completeness before, this answer may
	// be half of a proof: then Druid's state must be good on both sides of it.
	e := edge{partition: q.Partition, boundary: q.Boundary}
	conditions := errFirst
	if s.proofs.find(e).wanted {
		conditions = s.settled(ctx, e)
	}
	var a answer
	err := s.http.query(ctx, q.groupBy(&s.cfg), func(r io.Reader) (err error) {
		a, err = parseAnswer(r, q, s.cfg.Columns)
		return err
	})
	if err != nil {
		return answer{}, fmt.Errorf("partition %d: %w", q.Partition, err)
	}
	if err := s.judge(ctx, e, a.control, conditions); err != nil {
		return answer{}, fmt.Errorf("partition %d: %w", q.Partition, err)
	}
	return a, nil
}

// errFirst tells that an answer cannot be part of a proof because nobody knew
// beforehand that one was needed.
var errFirst = errors.New("nobody looked beforehand whether history is settled")

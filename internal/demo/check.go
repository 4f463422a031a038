package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// verdict waits until meterd has counted everything, compares, and says what
// came of it. The traffic has ended, after the time that it played.
func (s *stage) verdict(ctx context.Context, played time.Duration) error {
	s.screen.Say("the traffic has ended; comparing …")
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	if err := s.out.flush(ctx); err != nil {
		return err
	}
	ends, err := s.around.ends(ctx)
	if err != nil {
		return err
	}
	wrong, totals, err := s.compare(ctx, ends)
	if err != nil {
		return err
	}
	s.summary(played, totals, len(wrong))
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	const most = 20
	if len(wrong) > most {
		wrong = append(wrong[:most], fmt.Sprintf("and %d more", len(wrong)-most))
	}
	return fmt.Errorf("%w:\n%s", ErrMismatch, strings.Join(wrong, "\n"))
}

func (s *stage) summary(played time.Duration, totals, wrong int) {
	past, produced, repeated := s.ledger.counts()
	crossed, cleared, reset, all := s.heard.counts()
	s.screen.Say(fmt.Sprintf("played for %s: %s usage events produced, %s of them twice; %s more were in history before",
		played.Round(100*time.Millisecond), commas(produced), commas(repeated), commas(past)))
	s.screen.Say(fmt.Sprintf("%s limit events: %s crossed, %s cleared, %s reset", commas(all), commas(crossed), commas(cleared), commas(reset)))
	if wrong == 0 {
		s.screen.Say(fmt.Sprintf("checked: all %s totals of %s clients are what was produced, and every limit event was told once",
			commas(int64(totals)), commas(int64(len(s.ledger.months())))))
	}
}

// compare returns what differs between meterd and the ledger, and how many
// totals it compared. Of a client that has used nothing lately meterd asks
// history first, so many are asked for at once.
func (s *stage) compare(ctx context.Context, ends map[int32]int64) (wrong []string, totals int, err error) {
	var mu sync.Mutex // guards the results
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(256)
	for client, months := range s.ledger.months() {
		group.Go(func() error {
			differ, n, err := s.compareClient(asking, client, months, ends)
			if err != nil {
				return fmt.Errorf("compare client %s: %w", client, err)
			}
			mu.Lock()
			defer mu.Unlock()
			wrong, totals = append(wrong, differ...), totals+n
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, 0, err
	}
	events, err := s.compareEvents(ctx)
	if err != nil {
		return nil, 0, err
	}
	return append(wrong, events...), totals, nil
}

// compareClient compares each month that the client used something in, and
// the newest period of every counter that its limits have.
func (s *stage) compareClient(ctx context.Context, client string, months []tally, ends map[int32]int64) (wrong []string, totals int, err error) {
	missing := map[tally]bool{}
	periods := map[string]bool{"": true}
	for _, key := range months {
		missing[key], periods[key.period] = true, true
	}
	for _, period := range slices.Sorted(maps.Keys(periods)) {
		answer, err := s.settled(ctx, client, period, ends)
		if err != nil {
			return nil, 0, err
		}
		for _, c := range answer.Counters {
			key := tally{client: client, meter: c.Meter, period: c.Period.ID}
			if period == "" && missing[key] {
				continue // asked for by itself
			}
			delete(missing, key)
			totals++
			want, _ := s.ledger.total(key)
			if c.Usage != strconv.FormatInt(want.of(c.Meter), 10) {
				wrong = append(wrong, fmt.Sprintf("%s %s %s: meterd says %s, produced were %d", client, c.Meter, c.Period.ID, c.Usage, want.of(c.Meter)))
			}
		}
	}
	for key := range missing {
		wrong = append(wrong, fmt.Sprintf("%s %s %s: meterd has no counter", client, key.meter, key.period))
	}
	return wrong, totals, nil
}

// settled returns the client's usage once everything is counted, history too.
func (s *stage) settled(ctx context.Context, client, period string, ends map[int32]int64) (answer usageAnswer, err error) {
	err = poll(ctx, func() (bool, error) {
		var err error
		answer, err = s.api.usage(ctx, client, period)
		return answer.Complete && answer.AsOf.Offset >= ends[answer.AsOf.Partition], err
	})
	if err != nil {
		return answer, fmt.Errorf("wait for all to be counted (complete %t, offset %d of %d): %w",
			answer.Complete, answer.AsOf.Offset, ends[answer.AsOf.Partition], err)
	}
	return answer, nil
}

// compareEvents waits until the subscriber has read as many limit events as
// meterd has committed, and returns what is wrong with them and with the
// counts of records.
func (s *stage) compareEvents(ctx context.Context) ([]string, error) {
	waiting, cancel := context.WithTimeout(ctx, checkWithin/3)
	defer cancel()
	var m metrics
	err := poll(waiting, func() (bool, error) {
		var err error
		m, err = s.api.metrics(waiting)
		_, _, _, read := s.heard.counts()
		return err == nil && read == m.sum("meterd_limit_events_total"), err
	})
	if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
		return nil, err
	}
	wrong := s.heard.wrong()
	differ := func(what string, says, want int64) {
		if says != want {
			wrong = append(wrong, fmt.Sprintf("%s: meterd says %d, %d is right", what, says, want))
		}
	}
	_, produced, repeated := s.ledger.counts()
	_, _, _, read := s.heard.counts()
	differ("records counted", m.records("counted"), produced)
	differ("duplicates", m.records("duplicate"), repeated)
	differ("dead letters", m.records("dead_lettered"), 0)
	differ("limit events", m.sum("meterd_limit_events_total"), read)
	return wrong, nil
}

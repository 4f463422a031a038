package demo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// display asks meterd again and again, and shows what it says.
type display struct {
	api      *api
	screen   screen
	crowd    *crowd
	accounts *accounts
	heard    *subscriber
	gate     *gate
	since    time.Time

	samples []sample // of the last seconds, oldest first
}

// sample is what was counted by a time.
type sample struct {
	at                    time.Time
	counted, transactions int64
}

// lately is the time that rates are of.
const lately = 3 * time.Second

// Run shows until ctx ends.
func (d *display) Run(ctx context.Context) error {
	ticker := time.NewTicker(d.screen.Every())
	defer ticker.Stop()
	for {
		if err := d.show(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (d *display) show(ctx context.Context) error {
	v := &view{
		title: fmt.Sprintf("meterd demo: %s clients, %s events/s, all in this process; Ctrl-C ends it",
			commas(int64(len(d.crowd.clients))), commas(int64(d.crowd.rate))),
		urls: []string{
			"curl " + d.api.base + "/v1/clients/" + d.crowd.clients[0] + "/usage",
			"curl " + d.api.base + "/v1/clients/" + d.crowd.clients[0] + "/limits",
			"curl " + d.api.base + "/metrics",
			"curl " + d.api.base + "/readyz?verbose",
		},
	}
	for _, client := range d.accounts.clients() {
		limits, complete, err := d.api.limits(ctx, client)
		if errors.Is(err, errLater) {
			continue
		}
		if err != nil {
			return err
		}
		known := fine
		if !complete {
			known = seeding
		}
		for i := range limits {
			v.entries = append(v.entries, entryOf(client, &limits[i], known))
		}
	}
	byUtilization(v.entries)
	m, err := d.api.metrics(ctx)
	if err != nil {
		return err
	}
	d.fill(&v.status, m, time.Now())
	d.screen.Show(v)
	return nil
}

// fill makes the status of metrics that were read now.
func (d *display) fill(s *status, m metrics, now time.Time) {
	_, _, _, s.limitEvents = d.heard.counts()
	s.up, s.refused = now.Sub(d.since), d.gate.count()
	s.counted, s.duplicates, s.lag = m.records("counted"), m.records("duplicate"), m.sum("meterd_lag_records")

	latest := sample{at: now, counted: s.counted, transactions: m.sum("meterd_transactions_total")}
	d.samples = append(d.samples, latest)
	for len(d.samples) > 2 && now.Sub(d.samples[1].at) >= lately {
		d.samples = d.samples[1:]
	}
	if took := now.Sub(d.samples[0].at).Seconds(); took > 0 {
		s.perSecond = float64(latest.counted-d.samples[0].counted) / took
		s.transactions = float64(latest.transactions-d.samples[0].transactions) / took
	}
}

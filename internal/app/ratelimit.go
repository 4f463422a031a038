package app

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/meterd/meterd/internal/envoy"
	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/internal/usage"
)

// newRateLimit makes Envoy's rate-limit service, if it is configured.
func (d *daemon) newRateLimit() error {
	cfg := &d.cfg.RateLimit
	if cfg.Listen == "" {
		return nil
	}
	e := envoy.Config{Listen: cfg.Listen, Domain: cfg.Domain, TLS: d.server.Encryption()}
	for _, r := range cfg.Rules {
		e.Rules = append(e.Rules, envoy.Rule(r))
	}
	var err error
	if d.rateLimit, err = envoy.New(e, d.decide, time.Now, d.log.Named("ratelimit"), d.reg); err != nil {
		return fmt.Errorf("rate-limit service: %w", err)
	}
	return nil
}

// decide decides about uses as POST /v1/check does.
func (d *daemon) decide(ctx context.Context, authorization string, uses []envoy.Use) ([]envoy.Decision, error) {
	asked := make([]httpapi.Use, len(uses))
	for i, u := range uses {
		asked[i] = httpapi.Use{Client: u.Client, Meter: u.Meter, Quantity: u.Quantity, Dimensions: u.Dimensions}
	}
	decided, err := d.server.Check(ctx, authorization, asked)
	if err != nil {
		return nil, refusedCheck(err)
	}
	list := make([]envoy.Decision, len(decided))
	for i := range decided {
		list[i].Allowed = decided[i].Allowed
		for _, l := range decided[i].Limits {
			list[i].Limits = append(list[i].Limits, shownLimit(&l))
		}
	}
	return list, nil
}

func refusedCheck(err error) error {
	switch status, detail := httpapi.StatusOf(err); status {
	case http.StatusUnauthorized:
		return envoy.ErrUnauthorized
	case http.StatusForbidden:
		return envoy.ErrForbidden
	case http.StatusBadRequest:
		return fmt.Errorf("%w: %s", envoy.ErrInvalid, detail)
	}
	return err
}

func shownLimit(l *httpapi.DecidedLimit) envoy.Limit {
	shown := envoy.Limit{
		Name: strconv.Quote(l.Contract) + " " + strconv.Quote(l.LimitID), Limit: l.Limit, Remaining: l.Remaining, Soft: l.Soft, Allowed: l.Allowed,
	}
	if l.NextReset != usage.MaxTime {
		shown.Reset = l.NextReset.Std()
	}
	return shown
}

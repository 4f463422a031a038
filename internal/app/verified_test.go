package app_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/app"
	"github.com/meterd/meterd/internal/verify"
)

// verified demands that a recount of everything finds nothing wrong.
func (w *world) verified(t *testing.T) {
	t.Helper()
	catalog, err := w.cfg.Catalog()
	require.NoError(t, err)
	codecs, err := app.NewCodecs(t.Context(), &w.cfg, zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	found := []string{}
	report, err := verify.Run(t.Context(), verify.Config{
		ApplicationID: w.cfg.ApplicationID, Catalog: &catalog, MeterMapped: true, DedupeWindow: app.DedupeWindow(&w.cfg),
		MaxFuture: w.cfg.Usage.MaxFuture.Duration(), AllowedLateness: w.cfg.Usage.AllowedLateness.Duration(), KeepPeriods: w.cfg.State.KeepPeriods,
		Topics: verify.Topics{
			Usage: w.cfg.Usage.Topic, Contracts: w.cfg.Contracts.Topic, Changelog: w.cfg.ChangelogTopic,
			LimitEvents: w.cfg.LimitEvents.Topic, LimitState: w.cfg.LimitEvents.StateTopic, DeadLetters: w.cfg.DeadLetterTopic,
		},
	}, verify.Parts{
		Cluster: w.cluster, Decoder: codecs.Usage, Events: codecs.LimitEvents,
		Found: func(d verify.Difference) { found = append(found, d.String()) },
	})
	require.NoError(t, err)
	require.Empty(t, found)
	require.Empty(t, report.Unchecked)
}

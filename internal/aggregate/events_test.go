package aggregate_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
)

func TestTheWholeLimitEvent(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.revision = 42
	r.put("k", "acme", "", limit("l", "1", `"meter":"hours","enforcement":"soft","timezone":"Europe/Berlin"`))
	r.use(ev{meter: "hours", qty: "0.4", id: "first"})
	r.use(ev{meter: "hours", qty: "0.43", id: "second", time: "11-10T11:59:59.5"})
	r.commit()

	topic, partition, offset, id, when := "usage", int32(3), int64(1), "second", at(t, "11-10T11:59:59.5")
	want := alerts.Event{
		ID:   uuid.NewSHA1(uuid.MustParse("8e314bec-7be6-49b5-80a1-57612ed76f79"), []byte(`["meterd","k","l",{},"2026-11",1]`)).String(),
		Kind: alerts.Crossed, Client: "acme", Meter: "hours", Dimensions: map[string]string{}, Contract: "k", ContractRevision: 42,
		LimitID: "l", Limit: "1", Enforcement: contracts.Soft,
		Thresholds: []alerts.PassedThreshold{{Threshold: "50%", Value: "0.5"}, {Threshold: "80%", Value: "0.8"}}, Highest: "80%",
		Standing: []string{"50%", "80%"}, UsageBefore: "0.4", UsageAfter: "0.83", Utilization: "0.83",
		Period:   alerts.PeriodInfo{ID: "2026-11", Start: at(t, "10-31T23:00"), End: at(t, "11-30T23:00"), Timezone: "Europe/Berlin"},
		Cause:    alerts.Cause{Kind: alerts.ByUsage, Topic: &topic, Partition: &partition, Offset: &offset, EventID: &id, EventTime: &when},
		Sequence: 1, DecidedAt: r.clock,
	}
	require.Len(t, r.told, 1)
	require.Equal(t, want, *r.told[0])
	require.Equal(t, want, *r.states[`["k","l",{}]`])
}

func TestACauseWithoutIDHasNone(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "1", ""))
	r.use(ev{})
	r.commit()
	require.Nil(t, r.told[0].Cause.EventID)
}

func TestTheResetEvent(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	r.put("k", "acme", "", limit("l", "100", ""))
	r.use(ev{qty: "80"})
	r.commit()
	r.advance("12-01")
	r.commit()
	e := r.told[1]
	require.Equal(t, alerts.Reset, e.Kind)
	require.Equal(t, alerts.Cause{Kind: alerts.ByPeriodEnd}, e.Cause)
	require.Equal(t, "0", e.Utilization)
	require.Equal(t, "80%", e.Highest)
	require.False(t, e.Late)
	require.Equal(t, at(t, "12-01"), e.Period.End)
	require.Empty(t, r.states)
}

func TestThresholdsAtTheEdgeOfNumbers(t *testing.T) {
	t.Parallel()

	r := newTestRig(t)
	most := strings.Repeat("9", 18)
	r.put("k", "acme", "", limit("l", "9223372036854775807", `"thresholds":["100%","1"]`))
	r.use(ev{qty: "9223372036854775806"})
	r.use(ev{qty: "1"})
	r.use(ev{qty: "-" + most})
	require.Equal(t, []string{
		"crossed k/l 2026-11 #1 [1=1] 0..9223372036854775806 [1] usage",
		"crossed k/l 2026-11 #2 [100%=9223372036854775807] 9223372036854775806..9223372036854775807 [1 100%] usage",
		"cleared k/l 2026-11 #3 [100%=9223372036854775807] 9223372036854775807..8223372036854775808 [1] usage",
	}, r.commit())
}

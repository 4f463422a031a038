package alerts_test

import (
	"encoding/json"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

func TestIDIsTheUUIDOfTheCanonicalText(t *testing.T) {
	t.Parallel()

	space := uuid.MustParse("8e314bec-7be6-49b5-80a1-57612ed76f79")
	tests := map[string]struct {
		identity alerts.Identity
		text     string // RFC 8785
	}{
		"plain": {
			alerts.Identity{ApplicationID: "meterd", Contract: "acme-2026", Limit: "traffic", Period: "2026-11", Sequence: 2},
			`["meterd","acme-2026","traffic",{},"2026-11",2]`,
		},
		"no dimensions and none given are the same": {
			alerts.Identity{ApplicationID: "meterd", Contract: "c", Limit: "l", Dimensions: map[string]string{}, Period: "lifetime", Sequence: 1},
			`["meterd","c","l",{},"lifetime",1]`,
		},
		"outside ASCII": {
			alerts.Identity{ApplicationID: "zähler", Contract: "東京", Limit: "ß/<&>\u2028", Period: "2026-11-22T05+01:00", Sequence: 9007199254740993},
			"[\"zähler\",\"東京\",\"ß/<&>\u2028\",{},\"2026-11-22T05+01:00\",9007199254740993]",
		},
		"escapes": {
			alerts.Identity{ApplicationID: "a\"b\\c", Contract: "\n\t\r\b\f", Limit: "\x00\x1f\x7f", Period: "p", Sequence: 3},
			"[\"a\\\"b\\\\c\",\"\\n\\t\\r\\b\\f\",\"\\u0000\\u001f\x7f\",{},\"p\",3]",
		},
		"dimensions in the order of UTF-16": {
			alerts.Identity{ApplicationID: "a", Contract: "c", Limit: "l", Dimensions: map[string]string{"\ufb33": "2", "😀": "1", "b": "y", "a": "x"}, Period: "p", Sequence: 1},
			"[\"a\",\"c\",\"l\",{\"a\":\"x\",\"b\":\"y\",\"😀\":\"1\",\"\ufb33\":\"2\"},\"p\",1]",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			require.Equal(t, uuid.NewSHA1(space, []byte(tt.text)).String(), tt.identity.ID())
			parsed, err := uuid.Parse(tt.identity.ID())
			require.NoError(t, err)
			require.Equal(t, uuid.Version(5), parsed.Version())
			require.Equal(t, uuid.RFC4122, parsed.Variant())
		})
	}
}

// The value is written down, so that no change of code or library changes the
// ids that consumers have seen.
func TestIDNeverChanges(t *testing.T) {
	t.Parallel()

	id := alerts.Identity{ApplicationID: "meterd", Contract: "acme-2026", Limit: "traffic", Period: "2026-11", Sequence: 2}.ID()
	require.Equal(t, "ee4aaa2c-23ec-5ce7-b902-4cc54d661481", id)
}

func TestStateKey(t *testing.T) {
	t.Parallel()

	require.Equal(t, `["acme-2026","traffic",{}]`, alerts.StateKey("acme-2026", "traffic", nil))
	require.Equal(t, `["a\"b","ü",{"a":"","b":"1"}]`, alerts.StateKey(`a"b`, "ü", map[string]string{"b": "1", "a": ""}))
}

func TestShow(t *testing.T) {
	t.Parallel()

	require.Equal(t, []alerts.PassedThreshold{}, alerts.Show(nil, 2))
	require.Equal(t, []alerts.PassedThreshold{{Threshold: "80%", Value: "0.8"}, {Threshold: "1", Value: "1"}},
		alerts.Show(list(th("80%", 80), th("1", 100)), 2))
}

func TestEventAsJSON(t *testing.T) {
	t.Parallel()

	topic, partition, offset, id, at := "usage", int32(3), int64(1234567), "01JD", usage.Time(1795323600123)
	event := alerts.Event{
		ID: "b3f0c2a4-6f0e-5c1d-9c53-0a9f7d2e1c11", Kind: alerts.Crossed, Client: "acme", Meter: "bytes_out",
		Dimensions: map[string]string{}, Contract: "acme-2026", ContractRevision: 42, LimitID: "traffic", Limit: "1000000",
		Enforcement: contracts.Hard, Thresholds: alerts.Show(list(th("80%", 800000)), 0), Highest: "80%",
		Standing: []string{"80%"}, UsageBefore: "799998", UsageAfter: "800001", Utilization: "0.800001",
		Period: alerts.PeriodInfo{ID: "lifetime", Start: 1793487600000, End: usage.MaxTime, Timezone: "Europe/Berlin"},
		Cause: alerts.Cause{
			Kind: alerts.ByUsage, Topic: &topic, Partition: &partition, Offset: &offset, EventID: &id, EventTime: &at,
		},
		Seeded: true, Sequence: 2, DecidedAt: 1795323600131,
	}
	got, err := json.Marshal(event)
	require.NoError(t, err)
	require.Equal(t, `{"id":"b3f0c2a4-6f0e-5c1d-9c53-0a9f7d2e1c11","kind":"crossed","client":"acme","meter":"bytes_out",`+
		`"dimensions":{},"contract":"acme-2026","contract_revision":42,"limit_id":"traffic","limit":"1000000","enforcement":"hard",`+
		`"thresholds":[{"threshold":"80%","value":"800000"}],"highest":"80%","standing":["80%"],`+
		`"usage_before":"799998","usage_after":"800001","utilization":"0.800001",`+
		`"period":{"id":"lifetime","start":"2026-10-31T23:00:00Z","end":null,"timezone":"Europe/Berlin"},`+
		`"cause":{"kind":"usage","topic":"usage","partition":3,"offset":1234567,"event_id":"01JD","event_time":"2026-11-22T05:00:00.123Z"},`+
		`"late":false,"seeded":true,"sequence":2,"decided_at":"2026-11-22T05:00:00.131Z"}`, string(got))

	event.Cause = alerts.Cause{Kind: alerts.ByPeriodEnd}
	got, err = json.Marshal(event.Cause)
	require.NoError(t, err)
	require.Equal(t, `{"kind":"period_end","topic":null,"partition":null,"offset":null,"event_id":null,"event_time":null}`, string(got))
}

package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func entries() []entry {
	list := []entry{
		{client: "acme", meter: calls, period: "hour", usage: "3,378", limit: "3,378", utilization: 1, state: blocked},
		{client: "client-with-a-long-name", meter: traffic, period: "day", usage: "8,061,165", limit: "13,797,468", utilization: 0.584249, state: fine},
		{client: "cobalt", meter: calls, period: "day", usage: "2,300", limit: "2,785", utilization: 0.825853, state: warned},
		{client: "dune", meter: traffic, period: "hour", usage: "-5", limit: "10", utilization: -0.5, state: fine},
		{client: "ember", meter: calls, period: "day", usage: "20", limit: "10", utilization: 2, state: over},
		{client: "fjord", meter: calls, period: "day", usage: "0", limit: "10", state: seeding},
	}
	byUtilization(list)
	return list
}

func text(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.text + "\n")
	}
	return b.String()
}

func TestTable(t *testing.T) {
	tests := map[string]struct {
		width int
		want  string
	}{
		"as wide as a terminal is": {90, `
CLIENT      METER     PER           USAGE         LIMIT    USED                    STATE
ember       api_calls day              20            10  200.0% ██████████████████ over
acme        api_calls hour          3,378         3,378  100.0% ██████████████████ blocked
cobalt      api_calls day           2,300         2,785   82.6% ██████████████░░░░ warned
client-wit… bytes_out day       8,061,165    13,797,468   58.4% ██████████░░░░░░░░ ok
fjord       api_calls day               0            10    0.0% ░░░░░░░░░░░░░░░░░░ seeding
dune        bytes_out hour             -5            10  -50.0% ░░░░░░░░░░░░░░░░░░ ok
`},
		"too narrow for a bar": {74, `
CLIENT      METER     PER           USAGE         LIMIT    USED STATE
ember       api_calls day              20            10  200.0% over
acme        api_calls hour          3,378         3,378  100.0% blocked
cobalt      api_calls day           2,300         2,785   82.6% warned
client-wit… bytes_out day       8,061,165    13,797,468   58.4% ok
fjord       api_calls day               0            10    0.0% seeding
dune        bytes_out hour             -5            10  -50.0% ok
`},
		"too narrow for the period": {64, `
CLIENT      METER             USAGE         LIMIT    USED STATE
ember       api_calls            20            10  200.0% over
acme        api_calls         3,378         3,378  100.0% block…
cobalt      api_calls         2,300         2,785   82.6% warned
client-wit… bytes_out     8,061,165    13,797,468   58.4% ok
fjord       api_calls             0            10    0.0% seedi…
dune        bytes_out            -5            10  -50.0% ok
`},
		"too narrow for anything": {20, `
CLIENT      METER  …
ember       api_cal…
acme        api_cal…
cobalt      api_cal…
client-wit… bytes_o…
fjord       api_cal…
dune        bytes_o…
`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, strings.TrimPrefix(tt.want, "\n"), text(table(entries(), tt.width)))
		})
	}
}

func TestStates(t *testing.T) {
	tests := map[string]struct {
		limit limitAnswer
		known state
		want  state
	}{
		"below":                   {limitAnswer{Utilization: "0.799999"}, fine, fine},
		"near":                    {limitAnswer{Utilization: "0.8"}, fine, warned},
		"reached":                 {limitAnswer{Utilization: "1"}, fine, over},
		"reached where it blocks": {limitAnswer{Utilization: "1", Blocked: true}, fine, blocked},
		"not known yet":           {limitAnswer{Utilization: "1", Blocked: true}, seeding, seeding},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, entryOf("acme", &tt.limit, tt.known).state)
		})
	}
}

func TestEntryOfAnAnswer(t *testing.T) {
	l := limitAnswer{Meter: traffic, Limit: "1000000", Usage: "1000003.5", Utilization: "1.000003", Blocked: true}
	l.Period.ID = "2026-11-22T05+00:00"
	require.Equal(t, entry{
		client: "acme", meter: traffic, period: "hour", usage: "1,000,003.5", limit: "1,000,000", utilization: 1.000003, state: blocked,
	}, entryOf("acme", &l, fine))
	require.Equal(t, "day", periodName("2026-11-22"))
	require.Equal(t, "month", periodName("2026-11"))
}

func TestGrouped(t *testing.T) {
	for decimal, want := range map[string]string{
		"0": "0", "999": "999", "1000": "1,000", "-1000": "-1,000", "-999": "-999",
		"1234567": "1,234,567", "1234567.891": "1,234,567.891", "9223372036854775807": "9,223,372,036,854,775,807",
	} {
		require.Equal(t, want, grouped(decimal))
	}
}

func TestStatusLine(t *testing.T) {
	s := status{up: 61500 * time.Millisecond, counted: 123456, perSecond: 1999.6, lag: 100, transactions: 19.8, limitEvents: 1203, duplicates: 600, refused: 7}
	require.Equal(t, "up 1m2s · 123,456 counted · 2,000/s · lag 100 · 20 transactions/s · 1,203 limit events · 600 duplicates · 7 refused", s.line().text)
}

func TestLimitEventLine(t *testing.T) {
	decided := time.Date(2026, 11, 22, 8, 54, 19, 963e6, time.UTC)
	used := decided.Add(-5 * time.Millisecond)
	e := limitEvent{
		Kind: "crossed", Client: "acme", Meter: traffic, UsageAfter: "1000003", Limit: "1000000", Enforcement: "hard",
		Thresholds: []struct {
			Threshold string `avro:"threshold"`
		}{{"80%"}, {"100%"}},
		DecidedAt: decided, received: decided.Add(3 * time.Millisecond),
	}
	e.Cause.Kind, e.Cause.EventTime = "usage", &used
	require.Equal(t, line{"08:54:19.963 crossed 80% 100%     acme      bytes_out 1,000,003 of 1,000,000 by usage in 8 ms", bad}, e.line())

	e.Thresholds = e.Thresholds[:1]
	require.Equal(t, warn, e.line().tone)

	e.Kind, e.Cause.Kind, e.Cause.EventTime, e.UsageAfter = "reset", "period_end", nil, "0"
	require.Equal(t, line{"08:54:19.963 reset   80%          acme      bytes_out 0 of 1,000,000 by period end", good}, e.line())
}

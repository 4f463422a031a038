package config_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/usage"
)

func load(t *testing.T, source string) *config.Config {
	t.Helper()
	c, err := config.Load(file(t, source), nil, nil)
	require.NoError(t, err)
	return c
}

func TestValidateMeters(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		source string
		want   []string
	}{
		"every aggregation":               {"meters: [{name: a, aggregation: count}, {name: b, aggregation: sum}, {name: c, aggregation: max}, {name: d, aggregation: min}, {name: e, aggregation: latest}, {name: f, aggregation: unique, value: u.v}]", nil},
		"unique without a value":          {"meters: [{name: a, aggregation: unique}]", []string{"meters[0].value: is required with the aggregation unique"}},
		"a value without unique":          {"meters: [{name: a, aggregation: max, value: u}]", []string{"meters[0].value: is for the aggregation unique alone"}},
		"a value that is no path":         {"meters: [{name: a, aggregation: unique, value: u.}]", []string{`meters[0].value: "u." is not names with single dots between them`}},
		"dimensions":                      {"meters: [{name: a, aggregation: sum, group_by: [a.b, c, d.e.f], max_combinations: 1}, {name: b, aggregation: max, group_by: [c], max_combinations: 1000000}]", nil},
		"dimensions of one name":          {"meters: [{name: a, aggregation: sum, group_by: [a.b, c, d.b, c]}]", []string{`meters[0].group_by[2]: "a.b" and "d.b" would both be the dimension "b"`, `meters[0].group_by[3]: "c" and "c" would both be the dimension "c"`}},
		"the same name in another meter":  {"meters: [{name: a, aggregation: sum, group_by: [a.b]}, {name: b, aggregation: sum, group_by: [d.b]}]", nil},
		"dimensions that are no paths":    {"meters: [{name: a, aggregation: sum, group_by: ['', a..b, .c]}]", []string{"meters[0].group_by[0]: is empty", `meters[0].group_by[1]: "a..b" is not names with single dots between them`, `meters[0].group_by[2]: ".c" is not names with single dots between them`}},
		"a path too deep":                 {"meters: [{name: a, aggregation: sum, group_by: [" + strings.Repeat("a.", 16) + "b]}]", []string{`meters[0].group_by[0]: "` + strings.Repeat("a.", 16) + `b" has 17 parts, more than 16`}},
		"nine dimensions":                 {"meters: [{name: a, aggregation: sum, group_by: [a, b, c, d, e, f, g, h, i]}]", []string{"meters[0].group_by: 9 dimensions, more than 8"}},
		"no combinations":                 {"meters: [{name: a, aggregation: sum, group_by: [a], max_combinations: 0}, {name: b, aggregation: sum, group_by: [a], max_combinations: 1000001}]", []string{"meters[0].max_combinations: 0 is not between 1 and 1000000", "meters[1].max_combinations: 1000001 is not between 1 and 1000000"}},
		"a condition":                     {`meters: [{name: a, aggregation: count, when: 'meter == "x" && properties.region in ["eu", "us"]'}]`, nil},
		"a condition that cannot be":      {`meters: [{name: a, aggregation: count}, {name: b, aggregation: count, when: 'region == "eu" && region > 3'}]`, []string{"meters[1].when: region is used as text and as a number (1:19)", ` | region == "eu" && region > 3`, " | ..................^"}},
		"a condition that does not parse": {`meters: [{name: a, aggregation: count, when: 'region ='}]`, []string{`meters[0].when: unexpected token Operator("=") (1:8)`, " | region =", " | .......^"}},
		"a condition that is too deep":    {`meters: [{name: a, aggregation: count, when: ` + strings.Repeat("a.", 16) + `b}]`, []string{`meters[0].when: "` + strings.Repeat("a.", 16) + `b" has 17 parts, more than 16 (1:33)`, " | " + strings.Repeat("a.", 16) + "b", " | ................................^"}},
		"64 paths":                        {meterOfPaths(64), nil},
		"65 paths":                        {meterOfPaths(65), []string{"meters: when, group_by and value of all of them name 65 paths, more than 64"}},
		"no meter that events name":       {"usage: {fields: {meter: ''}}\nmeters: [{name: a, aggregation: count}, {name: b, aggregation: count, when: x}]", nil},
		"voids":                           {"usage: {fields: {void: properties.undo}}", nil},
		"voids that nothing remembers":    {"usage: {fields: {void: undo, id: ''}, dedupe_window: 0}", []string{"usage.fields.void: needs usage.fields.id: an event is taken back by its id", "usage.dedupe_window: must be above 0 where usage.fields.void is mapped: an event can be taken back within it"}},
		"voids that are no path":          {"usage: {fields: {void: a..b}}", []string{`usage.fields.void: "a..b" is not names with single dots between them`}},
		"any zone":                        {"schedule: {period: week, timezone: Australia/Lord_Howe}", nil},
		"no zone":                         {"schedule: {timezone: ''}", []string{`schedule.timezone: "" is not the IANA name of a time zone, such as UTC`}},
		"the machine's zone":              {"schedule: {timezone: Local}", []string{`schedule.timezone: "Local" is not the IANA name of a time zone, such as UTC`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, lines(load(t, least+tt.source).Validate()))
		})
	}
}

// meterOfPaths has meters that look at n paths, each of them twice.
func meterOfPaths(n int) string {
	var source strings.Builder
	source.WriteString("meters:\n")
	for i := range n {
		fmt.Fprintf(&source, "  - {name: a%d, aggregation: unique, value: p.v%d, when: p.v%d != nil}\n", i, i, i)
	}
	return source.String()
}

func TestCatalog(t *testing.T) {
	t.Parallel()
	c := load(t, least+"meters: [{name: a, aggregation: sum, unit: bytes, decimals: 2}, {name: b, aggregation: count}]\nschedule: {period: day, timezone: Europe/Berlin}")
	got, err := c.Catalog()
	require.NoError(t, err)
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	require.Equal(t, usage.Catalog{
		Meters:   []usage.Meter{{Name: "a", Aggregation: usage.Sum, Unit: "bytes", Decimals: 2, MaxCombinations: 10000}, {Name: "b", Aggregation: usage.Count, MaxCombinations: 10000}},
		Schedule: usage.Schedule{Kind: usage.Day, Zone: berlin},
	}, got)

	c.Schedule.Timezone = "Mars/Base"
	_, err = c.Catalog()
	require.ErrorIs(t, err, usage.ErrBadSchedule)

	c.Schedule.Timezone, c.Meters[0].When = "UTC", "+"
	_, err = c.Catalog()
	require.ErrorContains(t, err, "meters[0].when: ")
}

// Paths stand once in the catalog, and all that looks at them knows where.
func TestCatalogOfPaths(t *testing.T) {
	t.Parallel()
	c := load(t, least+`
meters:
  - {name: calls, aggregation: count, group_by: [properties.zone, properties.endpoint, method], max_combinations: 7}
  - {name: users, aggregation: unique, value: properties.user, when: 'properties.zone == "eu" && meter == "calls"'}
  - {name: zones, aggregation: unique, value: properties.zone}
`)
	got, err := c.Catalog()
	require.NoError(t, err)
	require.Equal(t, []string{"properties.zone", "properties.endpoint", "method", "meter", "properties.user"}, got.Paths)
	require.Equal(t, []usage.Dimension{{Name: "endpoint", Field: 1}, {Name: "method", Field: 2}, {Name: "zone", Field: 0}}, got.Meters[0].Dimensions)
	require.Equal(t, 7, got.Meters[0].MaxCombinations)
	require.Nil(t, got.Meters[0].When, "nil means a meter that events name")
	require.Equal(t, 4, got.Meters[1].Value)
	require.Equal(t, 0, got.Meters[2].Value)

	text := func(s string) usage.Value { return usage.Value{Kind: usage.TextValue, Text: []byte(s)} }
	fields := []usage.Value{text("eu"), {}, {}, text("calls"), {}}
	holds, err := got.Meters[1].When.Holds(fields)
	require.NoError(t, err)
	require.True(t, holds)
	fields[0] = text("us")
	holds, err = got.Meters[1].When.Holds(fields)
	require.NoError(t, err)
	require.False(t, holds)
}

func TestValidateHistory(t *testing.T) {
	t.Parallel()

	const voids = "usage: {fields: {void: undo}}\n"
	const grouped = "meters: [{name: a, aggregation: count, group_by: [p.zone], when: 'q.zone == \"x\"'}]\n"
	tests := map[string]struct {
		source, druid string
		want          []string
	}{
		"offsets":                          {"", "", nil},
		"half of an offset":                {"", "columns: {partition: ''}", []string{"history.druid.columns.partition: is required with offset; where rows have no offsets, both must be empty"}},
		"record times":                     {"", "supervisor: s, columns: {partition: '', offset: '', record_time: r}", nil},
		"record times beside offsets":      {"", "columns: {record_time: r}", nil},
		"event times":                      {"", "supervisor: s, granularity: 1h, columns: {partition: '', offset: '', count: c}", nil},
		"event times to the millisecond":   {"", "supervisor: s, granularity: 1ms, columns: {partition: '', offset: ''}", nil},
		"event times of what grain":        {"", "supervisor: s, columns: {partition: '', offset: ''}", []string{"history.druid.granularity: is required where history.druid.columns has neither offset nor record_time: it must be the datasource's queryGranularity"}},
		"no part of a day":                 {"", "granularity: 7h", []string{"history.druid.granularity: 7h is not a part of a day from 1ms to 24h"}},
		"more than a day":                  {"", "granularity: 48h", []string{"history.druid.granularity: 48h is not a part of a day from 1ms to 24h"}},
		"less than nothing":                {"", "granularity: -1h", []string{"history.druid.granularity: -1h is not a part of a day from 1ms to 24h"}},
		"less than a millisecond":          {"", "granularity: 1us", []string{"history.druid.granularity: 1µs is not a part of a day from 1ms to 24h"}},
		"no supervisor and no offsets":     {"", "columns: {partition: '', offset: '', record_time: r}", []string{"history.druid.supervisor: is required where history.druid.columns has no offset: nothing else could tell what is published"}},
		"roll-up with offsets":             {"", "columns: {count: c}", []string{"history.druid.columns.count: is for rolled-up rows, which have neither offset nor record_time"}},
		"a maximum of rolled-up rows":      {"meters: [{name: a, aggregation: max}, {name: b, aggregation: sum}]\n", "supervisor: s, granularity: 1h, columns: {partition: '', offset: ''}", []string{"history.druid.columns.record_time: or offset, is required with the aggregation max of a: by event time alone, rows do not tell"}},
		"a maximum with record times":      {"meters: [{name: a, aggregation: max}]\n", "supervisor: s, columns: {partition: '', offset: '', record_time: r}", nil},
		"voids":                            {voids, "columns: {void: undo}", nil},
		"voids in the column of that name": {voids, "", nil},
		"voids that only history has":      {"", "columns: {void: undo}", []string{"history.druid.columns.void: needs usage.fields.void"}},
		"fields of one name":               {grouped, "", []string{`history.druid.columns.fields: p.zone and q.zone would both be the column "zone": say which is which`}},
		"fields of one name, told apart":   {grouped, "columns: {fields: {q.zone: q_zone}}", nil},
		"fields that share a column":       {grouped, "columns: {fields: {q.zone: z, p.zone: z}}", nil},
		"a field that takes another's":     {grouped, "columns: {fields: {q.zone: zone}}", []string{`history.druid.columns.fields: p.zone and q.zone would both be the column "zone": say which is which`}},
		"fields that nothing looks at":     {grouped, "columns: {fields: {q.zone: q_zone, zone: z, p.zone: ''}}", []string{`history.druid.columns.fields["p.zone"]: is empty`, `history.druid.columns.fields["zone"]: no meter looks at it in when, group_by or value`}},
		"fields of meters that are wrong":  {"meters: [{name: a, aggregation: count, when: '+'}]\n", "columns: {fields: {a: b}}", []string{"meters[0].when: unexpected token EOF (1:1)", " | +", " | ^"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := load(t, least+tt.source+"history: {druid: {url: 'http://d:8888', "+tt.druid+"}}")
			require.Equal(t, tt.want, lines(c.Validate()))
		})
	}
}

func TestHistoryFields(t *testing.T) {
	t.Parallel()
	c := load(t, least+`
usage: {fields: {client: who.id, quantity: amount}}
meters:
  - {name: a, aggregation: count, when: 'meter == "x" && who.id != "me" && p.test && p.plan == "pro" && amount > 1', group_by: [p.zone]}
  - {name: b, aggregation: unique, value: p.user}
history: {druid: {url: 'http://d:8888', columns: {client: client_id, meter: m, quantity: '', fields: {p.zone: region}}}}
`)
	require.NoError(t, c.Validate())
	catalog, err := c.Catalog()
	require.NoError(t, err)
	require.Equal(t, []string{"p.zone", "meter", "who.id", "p.test", "p.plan", "amount", "p.user"}, catalog.Paths)
	require.Equal(t, []config.HistoryField{
		{Column: "region"}, {Column: "m"}, {Column: "client_id"}, {Column: "test", Boolean: true}, {Column: "plan"}, {Column: "amount"}, {Column: "user"},
	}, c.HistoryFields(&catalog))
	require.False(t, c.History.Druid.Columns.Bounded())
	c.History.Druid.Columns.Partition, c.History.Druid.Columns.Offset = "", ""
	require.True(t, c.History.Druid.Columns.Bounded())
}

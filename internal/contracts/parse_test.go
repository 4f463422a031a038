package contracts_test

import (
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// catalog has a meter without decimals, one with two and one with dimensions, by
// month in UTC.
func catalog(t testing.TB) *usage.Catalog {
	t.Helper()
	month, err := usage.NewSchedule(usage.Month, "UTC")
	require.NoError(t, err)
	return &usage.Catalog{Schedule: month, Meters: []usage.Meter{
		{Name: "bytes_out", Aggregation: usage.Sum},
		{Name: "gb_hours", Aggregation: usage.Sum, Decimals: 2},
		{Name: "calls", Aggregation: usage.Count, Dimensions: []usage.Dimension{{Name: "endpoint", Field: 2}, {Name: "method", Field: 0}, {Name: "region", Field: 1}}},
		{Name: "users", Aggregation: usage.Unique, Value: 3},
	}}
}

func instant(t testing.TB, text string) usage.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return usage.TimeOf(at)
}

// contractOf is a contract of the id "a" with the given limits.
func contractOf(limits string) string {
	return `{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00Z","limits":[` + limits + `]}`
}

// limitOf is a limit of bytes_out with more of its keys.
func limitOf(more string) string { return contractOf(`{"id":"l","meter":"bytes_out"` + more + `}`) }

// callsOf is a limit of calls, which has dimensions, with more of its keys.
func callsOf(more string) string {
	return contractOf(`{"id":"l","meter":"calls","limit":"1"` + more + `}`)
}

func TestParseReadsTheWhole(t *testing.T) {
	t.Parallel()

	value, err := os.ReadFile("testdata/contract.json")
	require.NoError(t, err)
	c, err := contracts.Parse([]byte("acme-2026"), value, 42, catalog(t))
	require.NoError(t, err)

	berlinMonth, err := usage.NewSchedule(usage.Month, "Europe/Berlin")
	require.NoError(t, err)
	berlinDay, err := usage.NewSchedule(usage.Day, "Europe/Berlin")
	require.NoError(t, err)
	require.Equal(t, &contracts.Contract{
		ID: "acme-2026", Client: "acme", StartsAt: instant(t, "2026-01-01T00:00:00Z"), EndsAt: usage.MaxTime,
		Revision: 42, Raw: value,
		Limits: []contracts.Limit{
			{
				ID: "traffic", Meter: 0, MeterName: "bytes_out", Value: 1000000, Schedule: berlinMonth, Enforcement: contracts.Hard,
				Thresholds: []contracts.Threshold{{"50%", 500000}, {"80%", 800000}, {"100%", 1000000}, {"120%", 1200000}},
			},
			{
				ID: "hours", Meter: 1, MeterName: "gb_hours", Decimals: 2, Value: 2000000, Schedule: berlinDay, Enforcement: contracts.Soft,
				Thresholds: []contracts.Threshold{{"100%", 2000000}, {"25000", 2500000}},
			},
		},
	}, c)
}

func TestParseDefaults(t *testing.T) {
	t.Parallel()

	c, err := contracts.Parse([]byte("a"), []byte(limitOf(`,"limit":"10"`)), 0, catalog(t))
	require.NoError(t, err)
	require.Equal(t, usage.MaxTime, c.EndsAt)
	require.Len(t, c.Limits, 1)
	require.True(t, catalog(t).Schedule.Equal(c.Limits[0].Schedule))
	require.Equal(t, contracts.Hard, c.Limits[0].Enforcement)
	require.Equal(t, []contracts.Threshold{{"100%", 10}}, c.Limits[0].Thresholds)

	open, err := contracts.Parse([]byte("a"), []byte(`{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00Z","ends_at":null}`), 0, catalog(t))
	require.NoError(t, err)
	require.Equal(t, usage.MaxTime, open.EndsAt)
}

// Only an end may be null, which is none: anywhere else it is a mistake of whoever
// wrote it, and would put a contract into force that means something else.
func TestParseRefusesNulls(t *testing.T) {
	t.Parallel()

	for _, key := range []string{"timezone", "limits"} {
		_, err := contracts.Parse([]byte("a"), []byte(`{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00Z","`+key+`":null}`), 0, catalog(t))
		require.ErrorIs(t, err, contracts.ErrInvalid)
		require.ErrorContains(t, err, key+": null")
	}
	for _, key := range []string{"period", "timezone", "thresholds", "enforcement", "where", "per"} {
		_, err := contracts.Parse([]byte("a"), []byte(limitOf(`,"limit":"10","`+key+`":null`)), 0, catalog(t))
		require.ErrorIs(t, err, contracts.ErrInvalid)
		require.ErrorContains(t, err, key+": null")
	}
}

func TestParseZones(t *testing.T) {
	t.Parallel()

	value := `{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00+01:00","timezone":"Asia/Tokyo","limits":[
		{"id":"own","meter":"bytes_out","limit":"1","timezone":"America/New_York","period":"anniversary"},
		{"id":"contract's","meter":"bytes_out","limit":"1","period":"hour"}]}`
	c, err := contracts.Parse([]byte("a"), []byte(value), 0, catalog(t))
	require.NoError(t, err)
	require.Equal(t, instant(t, "2025-12-31T23:00:00Z"), c.StartsAt)
	require.Equal(t, "America/New_York", c.Limits[0].Schedule.Zone.String())
	require.Equal(t, c.StartsAt, c.Limits[0].Schedule.Anchor, "anniversaries are counted from the start of the contract")
	require.Equal(t, "Asia/Tokyo", c.Limits[1].Schedule.Zone.String())
	require.Equal(t, usage.Hour, c.Limits[1].Schedule.Kind)
}

func TestParseDimensions(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		keys  string
		where map[string]string
		per   []string
	}{
		"none":                            {"", nil, nil},
		"none of either":                  {`,"where":{},"per":[]`, nil, nil},
		"one required":                    {`,"where":{"region":"eu"}`, map[string]string{"region": "eu"}, nil},
		"the empty value is one":          {`,"where":{"region":""}`, map[string]string{"region": ""}, nil},
		"the overflow is one":             {`,"where":{"region":"__overflow__"}`, map[string]string{"region": usage.OverflowValue}, nil},
		"all required":                    {`,"where":{"region":"eu","method":"GET","endpoint":"/v1"}`, map[string]string{"region": "eu", "method": "GET", "endpoint": "/v1"}, nil},
		"each value for itself, in order": {`,"per":["region","endpoint","method"]`, nil, []string{"endpoint", "method", "region"}},
		"both":                            {`,"per":["method"],"where":{"region":"eu"}`, map[string]string{"region": "eu"}, []string{"method"}},
		"a value of 256 bytes":            {`,"where":{"region":"` + strings.Repeat("r", 256) + `"}`, map[string]string{"region": strings.Repeat("r", 256)}, nil},
		"escapes are what they mean":      {`,"where":{"reg\u0069on":"\u0065u"}`, map[string]string{"region": "eu"}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			c, err := contracts.Parse([]byte("a"), []byte(callsOf(tt.keys)), 0, catalog(t))
			require.NoError(t, err)
			require.Equal(t, tt.where, c.Limits[0].Where)
			require.Equal(t, tt.per, c.Limits[0].Per)
		})
	}
}

func TestParseAccepts(t *testing.T) {
	t.Parallel()

	for name, value := range map[string]string{
		"no limits":                 contractOf(``),
		"no key limits":             `{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00Z"}`,
		"every kind of period":      contractOf(everyPeriod()),
		"milliseconds":              `{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00.001Z"}`,
		"an end a millisecond on":   `{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00Z","ends_at":"2026-01-01T00:00:00.001Z"}`,
		"nothing in where and per":  limitOf(`,"limit":"1","where":{},"per":[]`),
		"white space around it":     "\n" + contractOf(``) + "\n",
		"trailing zeros in a limit": limitOf(`,"limit":"10.00"`),
		"an id of 256 bytes":        `{"id":"a","client":"` + strings.Repeat("c", 256) + `","starts_at":"2026-01-01T00:00:00Z"}`,
		"no threshold at all":       limitOf(`,"limit":"100","thresholds":[]`),
		"equal values, two labels":  limitOf(`,"limit":"100","thresholds":["80%","80"]`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, err := contracts.Parse([]byte("a"), []byte(value), 0, catalog(t))
			require.NoError(t, err)
		})
	}
}

func everyPeriod() string {
	var limits []string
	for _, period := range []string{"hour", "day", "week", "month", "quarter", "year", "lifetime", "anniversary"} {
		limits = append(limits, `{"id":"`+period+`","meter":"bytes_out","limit":"1","period":"`+period+`"}`)
	}
	return strings.Join(limits, ",")
}

func TestParseRejects(t *testing.T) {
	t.Parallel()

	const head = `{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00Z"`
	tests := map[string]struct{ value, reason string }{
		"no JSON":                              {`{"id":`, "not JSON"},
		"nothing at all":                       {``, "not a JSON object"},
		"an array":                             {`[]`, "not a JSON object"},
		"a bare null":                          {`null`, "not a JSON object"},
		"two values":                           {head + `}{}`, "follows"},
		"not UTF-8":                            {head + `,"timezone":"` + "\xff" + `"}`, "UTF-8"},
		"too large":                            {head + `}` + strings.Repeat(" ", contracts.MaxBytes), "bytes"},
		"an unknown key":                       {head + `,"colour":"red"}`, `"colour"`},
		"a key in other letters":               {head + `,"Limits":[]}`, `"Limits"`},
		"a key twice":                          {head + `,"client":"b"}`, `"client" is there twice`},
		"an unknown key of a limit":            {limitOf(`,"limit":"1","max":1`), `"max"`},
		"no id":                                {`{"client":"acme","starts_at":"2026-01-01T00:00:00Z"}`, "id is missing"},
		"a null id":                            {`{"id":null,"client":"acme","starts_at":"2026-01-01T00:00:00Z"}`, "id is missing"},
		"an empty id":                          {`{"id":"","client":"acme","starts_at":"2026-01-01T00:00:00Z"}`, "id:"},
		"an id that is a number":               {`{"id":1,"client":"acme","starts_at":"2026-01-01T00:00:00Z"}`, "id: wrong type"},
		"another id than the key":              {`{"id":"b","client":"acme","starts_at":"2026-01-01T00:00:00Z"}`, `id "b" is not the record's key "a"`},
		"no client":                            {`{"id":"a","starts_at":"2026-01-01T00:00:00Z"}`, "client is missing"},
		"a client of 257 bytes":                {`{"id":"a","client":"` + strings.Repeat("c", 257) + `","starts_at":"2026-01-01T00:00:00Z"}`, "client: 257 bytes"},
		"no start":                             {`{"id":"a","client":"acme"}`, "starts_at is missing"},
		"a start that is a number":             {`{"id":"a","client":"acme","starts_at":1}`, "starts_at: wrong type"},
		"a start that is a date":               {`{"id":"a","client":"acme","starts_at":"2026-01-01"}`, "starts_at:"},
		"an empty start":                       {`{"id":"a","client":"acme","starts_at":""}`, "starts_at:"},
		"a start finer than a millisecond":     {`{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00.0001Z"}`, "starts_at:"},
		"an empty end":                         {head + `,"ends_at":""}`, "ends_at:"},
		"an end at the start":                  {head + `,"ends_at":"2026-01-01T00:00:00Z"}`, "ends_at 2026-01-01T00:00:00Z is not after starts_at"},
		"an end before the start":              {head + `,"ends_at":"2026-01-01T00:00:00+01:00"}`, "ends_at"},
		"an unknown zone":                      {head + `,"timezone":"Mars/Olympus"}`, `timezone: "Mars/Olympus"`},
		"the machine's zone":                   {head + `,"timezone":"Local"}`, `timezone: "Local"`},
		"an empty zone":                        {head + `,"timezone":""}`, `timezone: ""`},
		"limits that are no array":             {head + `,"limits":{}}`, "limits: wrong type"},
		"a limit that is no object":            {contractOf(`"l"`), "limit is not a JSON object (limits[0])"},
		"a null limit":                         {contractOf(`null`), "limits[0]"},
		"a limit without id":                   {contractOf(`{"meter":"bytes_out","limit":"1"}`), "id is missing (limits[0])"},
		"a limit without meter":                {contractOf(`{"id":"l","limit":"1"}`), "meter is missing"},
		"a limit without limit":                {limitOf(``), "limit is missing"},
		"a limit id twice":                     {contractOf(`{"id":"l","meter":"bytes_out","limit":"1"},{"id":"l","meter":"gb_hours","limit":"1"}`), `limits[1].id: "l" is there twice`},
		"an unknown meter":                     {contractOf(`{"id":"l","meter":"bytes_in","limit":"1"}`), `meter: "bytes_in"`},
		"an unknown period":                    {limitOf(`,"limit":"1","period":"decade"`), `period: "decade"`},
		"an empty period":                      {limitOf(`,"limit":"1","period":""`), `period: ""`},
		"an unknown zone of a limit":           {limitOf(`,"limit":"1","timezone":"UTC+1"`), `timezone: "UTC+1"`},
		"a limit that is a number":             {limitOf(`,"limit":1`), "limit: wrong type"},
		"a limit of zero":                      {limitOf(`,"limit":"0"`), `limit: "0" is not greater than 0`},
		"a negative limit":                     {limitOf(`,"limit":"-1"`), `limit: "-1" is not greater than 0`},
		"a limit with an exponent":             {limitOf(`,"limit":"1e3"`), `limit: "1e3"`},
		"a limit with a sign":                  {limitOf(`,"limit":"+1"`), `limit: "+1"`},
		"an empty limit":                       {limitOf(`,"limit":""`), `limit: ""`},
		"a limit finer than the meter":         {limitOf(`,"limit":"0.5"`), `limit: "0.5" does not fit 0 decimals`},
		"a limit finer than two decimals":      {contractOf(`{"id":"l","meter":"gb_hours","limit":"1.005"}`), `limit: "1.005" does not fit 2 decimals`},
		"a limit that no counter holds":        {limitOf(`,"limit":"9223372036854775808"`), "limit:"},
		"a threshold of zero":                  {limitOf(`,"limit":"1","thresholds":["0"]`), `thresholds: "0"`},
		"a percentage of zero":                 {limitOf(`,"limit":"1","thresholds":["0%"]`), `thresholds: "0"`},
		"a negative percentage":                {limitOf(`,"limit":"1","thresholds":["-5%"]`), `thresholds: "-5"`},
		"a threshold that is a number":         {limitOf(`,"limit":"1","thresholds":[80]`), "thresholds: wrong type"},
		"a threshold that is null":             {limitOf(`,"limit":"1","thresholds":[null]`), "thresholds:"},
		"a threshold that is a bare sign":      {limitOf(`,"limit":"1","thresholds":["%"]`), "thresholds:"},
		"a threshold finer than the meter":     {limitOf(`,"limit":"1","thresholds":["0.5"]`), `thresholds: "0.5"`},
		"a percentage finer than six digits":   {limitOf(`,"limit":"1","thresholds":["0.0000001%"]`), "thresholds:"},
		"a percentage that no counter reaches": {limitOf(`,"limit":"9223372036854775807","thresholds":["101%"]`), `thresholds: "101%"`},
		"a threshold label twice":              {limitOf(`,"limit":"1","thresholds":["80%","100%","80%"]`), `thresholds: "80%" is there twice`},
		"an unknown enforcement":               {limitOf(`,"limit":"1","enforcement":"firm"`), `enforcement: "firm"`},
		"a dimension that is not there":        {limitOf(`,"limit":"1","where":{"endpoint":"/x"}`), `where: "endpoint"`},
		"a where of other types":               {limitOf(`,"limit":"1","where":{"endpoint":1}`), `where: the value of "endpoint" is not a string`},
		"a where that is no object":            {callsOf(`,"where":["region"]`), "where: wrong type"},
		"a where with a null":                  {callsOf(`,"where":{"region":null}`), `where: the value of "region" is not a string`},
		"a where with more below":              {callsOf(`,"where":{"region":{"a":"b"}}`), `where: the value of "region" is not a string`},
		"a where with a boolean":               {callsOf(`,"where":{"region":true}`), `where: the value of "region" is not a string`},
		"a where twice":                        {callsOf(`,"where":{"region":"a","region":"b"}`), `where: "region" is there twice`},
		"a where of 257 bytes":                 {callsOf(`,"where":{"region":"` + strings.Repeat("r", 257) + `"}`), `where: the value of "region" has 257 bytes, more than 256`},
		"a dimension by its path":              {callsOf(`,"where":{"properties.region":"eu"}`), `where: "properties.region" is not a dimension of meter "calls"`},
		"another where beside a good one":      {callsOf(`,"where":{"region":"eu","zone":"a"}`), `where: "zone" is not a dimension of meter "calls"`},
		"a dimension in where and per":         {callsOf(`,"where":{"region":"eu"},"per":["method","region"]`), `per: "region" is in where already`},
		"a dimension twice in per":             {callsOf(`,"per":["region","method","region"]`), `per: "region" is there twice`},
		"an unknown one in per":                {callsOf(`,"per":["region","zone"]`), `per: "zone" is not a dimension of meter "calls"`},
		"a per of other types":                 {callsOf(`,"per":["region",1]`), "per: wrong type"},
		"a per that is one text":               {callsOf(`,"per":"region"`), "per: wrong type"},
		"a per of a null":                      {callsOf(`,"per":[null]`), `per: "" is not a dimension of meter "calls"`},
		"a per that is not there":              {limitOf(`,"limit":"1","per":["region"]`), `per: "region"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			c, err := contracts.Parse([]byte("a"), []byte(tt.value), 7, catalog(t))
			require.ErrorIs(t, err, contracts.ErrInvalid)
			require.ErrorContains(t, err, tt.reason)
			require.NotContains(t, err.Error(), "\n")
			require.Nil(t, c)
		})
	}
}

func TestThresholdValues(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		limit, labels string
		want          []contracts.Threshold
	}{
		"a percentage rounds up":            {"10", `"33.3%"`, []contracts.Threshold{{"33.3%", 4}}},
		"a tiny one is one unit":            {"10", `"0.000001%"`, []contracts.Threshold{{"0.000001%", 1}}},
		"an exact one does not round":       {"10", `"50%"`, []contracts.Threshold{{"50%", 5}}},
		"above the limit":                   {"10", `"250%"`, []contracts.Threshold{{"250%", 25}}},
		"absolute ones are as written":      {"10", `"7"`, []contracts.Threshold{{"7", 7}}},
		"lowest value first":                {"100", `"100%","25","80%"`, []contracts.Threshold{{"25", 25}, {"80%", 80}, {"100%", 100}}},
		"equal values in the written order": {"100", `"100%","80","80%","80.0%"`, []contracts.Threshold{{"80", 80}, {"80%", 80}, {"80.0%", 80}, {"100%", 100}}},
		"the largest limit is exact":        {"9223372036854775807", `"100%"`, []contracts.Threshold{{"100%", math.MaxInt64}}},
		"a product beyond 64 bits":          {"9223372036854775807", `"99.999999%"`, []contracts.Threshold{{"99.999999%", 9223371944621055439}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			c, err := contracts.Parse([]byte("a"), []byte(limitOf(`,"limit":"`+tt.limit+`","thresholds":[`+tt.labels+`]`)), 0, catalog(t))
			require.NoError(t, err)
			require.Equal(t, tt.want, c.Limits[0].Thresholds)
		})
	}

	t.Run("a percentage rounds up to the meter's smallest unit", func(t *testing.T) {
		t.Parallel()

		value := contractOf(`{"id":"l","meter":"gb_hours","limit":"0.1","thresholds":["33.3%","0.05"]}`)
		c, err := contracts.Parse([]byte("a"), []byte(value), 0, catalog(t))
		require.NoError(t, err)
		require.Equal(t, []contracts.Threshold{{"33.3%", 4}, {"0.05", 5}}, c.Limits[0].Thresholds)
	})
}

func FuzzParse(f *testing.F) {
	whole, err := os.ReadFile("testdata/contract.json")
	require.NoError(f, err)
	f.Add([]byte("acme-2026"), whole)
	f.Add([]byte("a"), []byte(limitOf(`,"limit":"10","thresholds":["33.3%","7"],"period":"anniversary"`)))
	f.Add([]byte("a"), []byte(contractOf(everyPeriod())))
	f.Add([]byte("a"), []byte(limitOf(`,"limit":"1","where":{"a":"b"}`)))
	f.Add([]byte("a"), []byte(callsOf(`,"where":{"region":"eu"},"per":["method","endpoint"]`)))
	meters := catalog(f)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		c, err := contracts.Parse(key, value, 3, meters)
		if err != nil {
			require.ErrorIs(t, err, contracts.ErrInvalid)
			require.Nil(t, c)
			return
		}
		require.Equal(t, string(key), c.ID)
		require.NotEmpty(t, c.Client)
		require.Less(t, c.StartsAt, c.EndsAt)
		require.Equal(t, value, []byte(c.Raw))
		ids := map[string]bool{}
		for _, l := range c.Limits {
			require.False(t, ids[l.ID])
			ids[l.ID] = true
			require.Positive(t, l.Value)
			require.Equal(t, meters.Meters[l.Meter].Name, l.MeterName)
			require.IsIncreasing(t, append([]string{""}, l.Per...))
			for _, name := range slices.Concat(l.Per, slices.Collect(maps.Keys(l.Where))) {
				require.True(t, slices.ContainsFunc(meters.Meters[l.Meter].Dimensions, func(d usage.Dimension) bool { return d.Name == name }))
			}
			labels, last := map[string]bool{}, usage.Quantity(1)
			for _, threshold := range l.Thresholds {
				require.False(t, labels[threshold.Label])
				labels[threshold.Label] = true
				require.GreaterOrEqual(t, threshold.Value, last)
				last = threshold.Value
			}
		}
		again, err := contracts.Parse(key, c.Raw, 3, meters)
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}

package alerts_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

func TestUseAllowed(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		aggregation     usage.Aggregation
		enforcement     contracts.Enforcement
		total, quantity usage.Quantity
		want            bool
	}{
		"a sum below the limit":                        {usage.Sum, contracts.Hard, 80, 19, true},
		"a sum that uses up the limit":                 {usage.Sum, contracts.Hard, 80, 20, true},
		"a sum past the limit":                         {usage.Sum, contracts.Hard, 80, 21, false},
		"a soft limit never denies":                    {usage.Sum, contracts.Soft, 80, 21, true},
		"nothing more where the limit is used up":      {usage.Sum, contracts.Hard, 100, 0, true},
		"nothing more where it was passed":             {usage.Sum, contracts.Hard, 101, 0, false},
		"a total below zero leaves more":               {usage.Sum, contracts.Hard, -50, 150, true},
		"but not without end":                          {usage.Sum, contracts.Hard, -50, 151, false},
		"what no counter can hold":                     {usage.Sum, contracts.Hard, 1, math.MaxInt64, false},
		"a count":                                      {usage.Count, contracts.Hard, 99, 1, true},
		"a count past the limit":                       {usage.Count, contracts.Hard, 100, 1, false},
		"a max takes the larger: the total":            {usage.Max, contracts.Hard, 101, 1, false},
		"a max takes the larger: the quantity":         {usage.Max, contracts.Hard, 1, 101, false},
		"a max of both at the limit":                   {usage.Max, contracts.Hard, 100, 100, true},
		"a latest is the quantity alone":               {usage.Latest, contracts.Hard, 1000, 100, true},
		"a latest past the limit":                      {usage.Latest, contracts.Hard, 0, 101, false},
		"a min is the total alone":                     {usage.Min, contracts.Hard, 100, 1000, true},
		"a min past the limit, whatever comes":         {usage.Min, contracts.Hard, 101, 0, false},
		"distinct values are the total alone":          {usage.Unique, contracts.Hard, 100, 1000, true},
		"distinct values past the limit":               {usage.Unique, contracts.Hard, 101, 0, false},
		"a soft max, latest, min and unique all allow": {usage.Latest, contracts.Soft, 0, 101, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			use := alerts.Use{Aggregation: tt.aggregation, Quantity: tt.quantity}
			require.Equal(t, tt.want, use.Allowed(&contracts.Limit{Value: 100, Enforcement: tt.enforcement}, tt.total))
		})
	}
}

func TestUseConcerns(t *testing.T) {
	t.Parallel()

	use := alerts.Use{Meter: "calls", Dimensions: map[string]string{"region": "eu", "endpoint": "/a"}}
	tests := map[string]struct {
		limit contracts.Limit
		want  bool
	}{
		"the total":                       {contracts.Limit{MeterName: "calls"}, true},
		"another meter":                   {contracts.Limit{MeterName: "bytes"}, false},
		"a value that it has":             {contracts.Limit{MeterName: "calls", Where: map[string]string{"region": "eu"}}, true},
		"a value that it has not":         {contracts.Limit{MeterName: "calls", Where: map[string]string{"region": "us"}}, false},
		"all pairs have to match":         {contracts.Limit{MeterName: "calls", Where: map[string]string{"region": "eu", "endpoint": "/b"}}, false},
		"what is missing is empty":        {contracts.Limit{MeterName: "calls", Where: map[string]string{"plan": ""}}, true},
		"what is missing is nothing else": {contracts.Limit{MeterName: "calls", Where: map[string]string{"plan": "x"}}, false},
		"each value":                      {contracts.Limit{MeterName: "calls", Per: []string{"endpoint"}}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, use.Concerns(&tt.limit))
		})
	}
	require.Nil(t, use.Per(&contracts.Limit{}))
	require.Equal(t, map[string]string{"endpoint": "/a", "plan": ""}, use.Per(&contracts.Limit{Per: []string{"endpoint", "plan"}}))
}

func TestBlocked(t *testing.T) {
	t.Parallel()

	hard, soft := &contracts.Limit{Value: 100, Enforcement: contracts.Hard}, &contracts.Limit{Value: 100, Enforcement: contracts.Soft}
	require.False(t, alerts.Blocked(hard, 99))
	require.True(t, alerts.Blocked(hard, 100), "reaching it blocks")
	require.False(t, alerts.Blocked(soft, 101))
}

func TestRemaining(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		decimals     int
		limit, total usage.Quantity
		want         string
	}{
		"a part":                    {limit: 100, total: 33, want: "67"},
		"a part with decimals":      {decimals: 2, limit: 150, total: 25, want: "1.25"},
		"nothing":                   {limit: 100, total: 100, want: "0"},
		"past the limit":            {limit: 1, total: math.MaxInt64, want: "0"},
		"far below zero":            {limit: math.MaxInt64, total: -math.MaxInt64, want: "18446744073709551614"},
		"trailing zeros stay whole": {limit: math.MaxInt64, total: -33, want: "9223372036854775840"},
		"far below, with decimals":  {decimals: 6, limit: math.MaxInt64, total: -33, want: "9223372036854.77584"},
		"decimals that are zero":    {decimals: 2, limit: math.MaxInt64, total: -93, want: "92233720368547759"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, alerts.Remaining(&contracts.Limit{Value: tt.limit, Decimals: tt.decimals}, tt.total))
		})
	}
}

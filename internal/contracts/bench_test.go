package contracts_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// BenchmarkParse reads a contract with eight limits.
func BenchmarkParse(b *testing.B) {
	schedule, err := usage.NewSchedule(usage.Month, "UTC")
	require.NoError(b, err)
	catalog := &usage.Catalog{Schedule: schedule}
	var limits []string
	for i := range 8 {
		name := fmt.Sprint("meter-", i)
		catalog.Meters = append(catalog.Meters, usage.Meter{Name: name, Aggregation: usage.Sum})
		limits = append(limits, fmt.Sprintf(`{"id": %q, "meter": %q, "limit": "1000000", "period": "day", "timezone": "Europe/Berlin", "thresholds": ["50%%", "80%%", "100%%"]}`, name, name))
	}
	value := []byte(`{"id": "acme-2026", "client": "acme", "starts_at": "2026-01-01T00:00:00Z", "limits": [` + strings.Join(limits, ",") + `]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contracts.Parse([]byte("acme-2026"), value, 1, catalog); err != nil {
			b.Fatal(err)
		}
	}
}

package schema_test

import (
	"testing"

	"github.com/hamba/avro/v2"
	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/schema"
)

// FuzzChangelog decodes damaged records. What is taken to be one must be one
// for another decoder, and come back as it is.
func FuzzChangelog(f *testing.F) {
	limit, err := schema.AppendLimit(nil, limitRecord())
	require.NoError(f, err)
	f.Add(schema.AppendCounter(nil, counterRecord()))
	f.Add(schema.AppendCounter(nil, boundedCounter()))
	f.Add(limit)
	f.Add(schema.AppendPosition(nil, &aggregate.PositionRecord{Position: 1}))
	f.Add(schema.AppendDedupe(nil, &aggregate.DedupeRecord{Void: true, Hashes: make([]aggregate.Hash, 2)}))
	keys := []string{`["counter",1]`, `["limit",1]`, `["position",1]`, `["dedupe",1]`, `["void",1]`}
	oracles := map[string]avro.Schema{}
	for _, name := range []string{"counter", "limit", "position", "dedupe"} {
		oracles[name] = hamba(f, schemaText(f, name))
	}
	oracles[aggregate.VoidKind] = oracles[aggregate.DedupeKind]
	f.Fuzz(func(t *testing.T, value []byte) {
		var d schema.ChangelogDecoder
		for _, key := range keys {
			got, err := d.Decode([]byte(key), value)
			if err != nil {
				require.ErrorIs(t, err, schema.ErrForeign)
				continue
			}
			r := avro.NewReader(nil, 0).Reset(value[10:])
			r.ReadNext(oracles[schema.KindOfKey([]byte(key))])
			require.NoError(t, r.Error)
			again, err := d.Decode([]byte(key), appendRecord(t, got))
			require.NoError(t, err)
			require.Equal(t, got, again)
		}
	})
}

func appendRecord(t *testing.T, record any) []byte {
	t.Helper()
	switch r := record.(type) {
	case *aggregate.CounterRecord:
		return schema.AppendCounter(nil, r)
	case *aggregate.LimitRecord:
		value, err := schema.AppendLimit(nil, r)
		require.NoError(t, err)
		return value
	case *aggregate.PositionRecord:
		return schema.AppendPosition(nil, r)
	case *aggregate.DedupeRecord:
		return schema.AppendDedupe(nil, r)
	}
	require.Fail(t, "no such record")
	return nil
}

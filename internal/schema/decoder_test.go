package schema_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/meterd/meterd/internal/schema"
	"github.com/meterd/meterd/internal/usage"
)

// switchboard is a registry whose answers a test changes while it runs.
type switchboard struct {
	mu     sync.Mutex
	answer func(ctx context.Context, id uint32) (schema.Schema, error)
	asked  []uint32
}

func (s *switchboard) SchemaByID(ctx context.Context, id uint32) (schema.Schema, error) {
	s.mu.Lock()
	s.asked = append(s.asked, id)
	answer := s.answer
	s.mu.Unlock()
	return answer(ctx, id)
}

func (s *switchboard) set(answer func(ctx context.Context, id uint32) (schema.Schema, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.asked = answer, nil
}

func (s *switchboard) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func has(context.Context, uint32) (schema.Schema, error) {
	return schema.Schema{Text: record(`c "string"`)}, nil
}

func hasNot(context.Context, uint32) (schema.Schema, error) {
	return schema.Schema{}, schema.ErrUnknownSchema
}

func isDown(context.Context, uint32) (schema.Schema, error) {
	return schema.Schema{}, fmt.Errorf("%w: connection refused", schema.ErrRegistryDown)
}

// onlyClient is a configuration that maps a client and nothing else.
func onlyClient() schema.DecoderConfig {
	config := schema.DefaultDecoderConfig()
	config.Mapping = schema.Mapping{Client: "c"}
	return config
}

func newDecoder(tb testing.TB, registry schema.Registry) (*schema.Decoder, *prometheus.Registry) {
	tb.Helper()
	prom := prometheus.NewRegistry()
	d, err := schema.NewDecoder(onlyClient(), registry, zap.NewNop(), prom)
	require.NoError(tb, err)
	return d, prom
}

// withID is a good record of any schema id.
func withID(id uint32) []byte { return append(schema.AppendHeader(nil, id), str("acme")...) }

func prepare(t *testing.T, h *schema.Handle, ids ...uint32) error {
	t.Helper()
	values := make([][]byte, 0, len(ids))
	for _, id := range ids {
		values = append(values, withID(id))
	}
	return h.Prepare(t.Context(), slices.Values(values))
}

func reasonOf(t *testing.T, h *schema.Handle, value []byte) usage.Reason {
	t.Helper()
	var ev usage.Event
	reason, err := h.Decode(value, recordTime, &ev)
	require.Equal(t, reason == "", err == nil, "%v", err)
	return reason
}

func TestRecordsThatAreNotLookedInto(t *testing.T) {
	t.Parallel()

	config := onlyClient()
	config.MaxRecordBytes = 20
	board := &switchboard{answer: has}
	d, err := schema.NewDecoder(config, board, zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	h := d.Handle()
	tests := map[string]struct {
		value []byte
		want  usage.Reason
	}{
		"null":                            {nil, usage.Undecodable},
		"empty":                           {[]byte{}, usage.Undecodable},
		"no zero":                         {[]byte{1, 0, 0, 0, 7, 8}, usage.Undecodable},
		"a header that is cut off":        {[]byte{0, 0, 0, 7}, usage.Undecodable},
		"JSON":                            {[]byte(`{"c":"acme"}`), usage.Undecodable},
		"too large":                       {append(schema.AppendHeader(nil, 7), str("acme-acme-acme-")...), usage.TooLarge},
		"too large comes before the rest": {make([]byte, 21), usage.TooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, h.Prepare(t.Context(), slices.Values([][]byte{tt.value})))
			require.Equal(t, tt.want, reasonOf(t, h, tt.value))
			require.Zero(t, board.requests(), "the registry has nothing to do with it")
		})
	}
}

func TestSchemasAreAskedForOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		board := &switchboard{answer: func(ctx context.Context, id uint32) (schema.Schema, error) {
			<-open
			return has(ctx, id)
		}}
		d, prom := newDecoder(t, board)
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				h := d.Handle()
				if err := prepare(t, h, 7, 7, 8, 7); err != nil {
					t.Error(err)
					return
				}
				var ev usage.Event
				if reason, err := h.Decode(withID(8), recordTime, &ev); reason != "" || err != nil {
					t.Error(reason, err)
				}
			})
		}
		synctest.Wait()
		require.Equal(t, 2, board.requests(), "one a schema, whoever asks")
		close(open)
		all.Wait()
		require.Equal(t, 2, board.requests())
		require.InDelta(t, 2, testutil.ToFloat64(gauge(t, prom, "meterd_registry_schemas")), 0)
	})
}

// gauge finds a gauge by its name.
func gauge(t *testing.T, prom *prometheus.Registry, name string) prometheus.Gauge {
	t.Helper()
	families, err := prom.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name})
			g.Set(f.GetMetric()[0].GetGauge().GetValue())
			return g
		}
	}
	require.Fail(t, "no such metric", name)
	return nil
}

// A partition that is taken away while it waits for the registry must not
// take the others' answer with it.
func TestOthersDoNotGiveUpWithTheFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		board := &switchboard{answer: func(ctx context.Context, _ uint32) (schema.Schema, error) {
			<-ctx.Done()
			return schema.Schema{}, ctx.Err()
		}}
		d, _ := newDecoder(t, board)
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- d.Handle().Prepare(ctx, slices.Values([][]byte{withID(7)})) }()
		synctest.Wait()
		go func() { second <- prepare(t, d.Handle(), 7) }()
		synctest.Wait()
		board.set(has)
		cancel()
		require.ErrorIs(t, <-first, context.Canceled)
		require.NoError(t, <-second)
	})
}

func TestUnknownSchema(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		board := &switchboard{answer: hasNot}
		d, _ := newDecoder(t, board)
		h := d.Handle()

		began := time.Now()
		require.NoError(t, prepare(t, h, 7, 8, 9))
		require.Equal(t, 9, board.requests(), "each is asked for three times")
		require.Equal(t, 600*time.Millisecond, time.Since(began), "but waited for together")
		require.Equal(t, usage.UnknownSchema, reasonOf(t, h, withID(7)))

		board.set(has)
		require.NoError(t, prepare(t, h, 7))
		require.NoError(t, prepare(t, d.Handle(), 8))
		require.Zero(t, board.requests(), "for a while it stays unknown, to all")
		require.Equal(t, usage.UnknownSchema, reasonOf(t, h, withID(7)))

		<-time.After(10 * time.Second)
		require.NoError(t, prepare(t, h, 7))
		require.Empty(t, reasonOf(t, h, withID(7)), "registered since")
	})
}

// A registry whose replica lags answers right a moment later.
func TestSchemaThatIsNewlyRegistered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked int
		board := &switchboard{answer: func(ctx context.Context, id uint32) (schema.Schema, error) {
			if asked++; asked < 3 {
				return hasNot(ctx, id)
			}
			return has(ctx, id)
		}}
		d, _ := newDecoder(t, board)
		h := d.Handle()
		require.NoError(t, prepare(t, h, 7))
		require.Empty(t, reasonOf(t, h, withID(7)))
	})
}

func TestRegistryThatIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		board := &switchboard{answer: has}
		d, _ := newDecoder(t, board)
		h := d.Handle()
		require.NoError(t, prepare(t, h, 7))

		board.set(isDown)
		require.NoError(t, prepare(t, h, 7), "what is known goes on")
		require.NoError(t, prepare(t, d.Handle(), 7), "on every partition")
		require.Zero(t, board.requests())

		for range 3 {
			require.ErrorIs(t, prepare(t, h, 7, 8), schema.ErrRegistryDown)
			var ev usage.Event
			reason, err := h.Decode(withID(8), recordTime, &ev)
			require.Empty(t, reason, "no reason to give the record up")
			require.ErrorIs(t, err, schema.ErrNotPrepared)
		}
		require.Equal(t, 3, board.requests())

		board.set(has)
		require.NoError(t, prepare(t, h, 7, 8))
		require.Empty(t, reasonOf(t, h, withID(8)))
	})
}

// Being down comes before being unknown: then nothing is settled.
func TestDownAfterUnknown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked int
		board := &switchboard{answer: func(ctx context.Context, id uint32) (schema.Schema, error) {
			if asked++; asked == 1 {
				return hasNot(ctx, id)
			}
			return isDown(ctx, id)
		}}
		d, _ := newDecoder(t, board)
		require.ErrorIs(t, prepare(t, d.Handle(), 7), schema.ErrRegistryDown)
	})
}

func TestPrepareEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _ := newDecoder(t, &switchboard{answer: hasNot})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := d.Handle().Prepare(ctx, slices.Values([][]byte{withID(7)}))
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestUnusableSchemaIsUndecodable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		board := &switchboard{answer: func(context.Context, uint32) (schema.Schema, error) {
			return schema.Schema{Type: "PROTOBUF", Text: "message M {}"}, nil
		}}
		d, _ := newDecoder(t, board)
		h := d.Handle()
		require.NoError(t, prepare(t, h, 7))
		var ev usage.Event
		reason, err := h.Decode(withID(7), recordTime, &ev)
		require.Equal(t, usage.Undecodable, reason)
		require.ErrorContains(t, err, "schema 7")
		require.ErrorContains(t, err, "PROTOBUF")
	})
}

// Anybody who may write can make up schema ids; memory stays bounded.
func TestManyUnknownSchemas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		board := &switchboard{answer: func(ctx context.Context, id uint32) (schema.Schema, error) {
			if id == 1 {
				return has(ctx, id)
			}
			return hasNot(ctx, id)
		}}
		d, prom := newDecoder(t, board)
		h := d.Handle()
		require.NoError(t, prepare(t, h, 1))
		ids := make([]uint32, 0, 70_000)
		for id := range cap(ids) {
			ids = append(ids, uint32(id+2))
		}
		require.NoError(t, prepare(t, h, ids...))
		require.Equal(t, usage.UnknownSchema, reasonOf(t, h, withID(60_000)))
		require.InDelta(t, 1, testutil.ToFloat64(gauge(t, prom, "meterd_registry_schemas")), 0)

		board.set(hasNot)
		require.NoError(t, prepare(t, d.Handle(), 1))
		require.Zero(t, board.requests(), "the good one is still known")
	})
}

func TestDecoderConfig(t *testing.T) {
	t.Parallel()

	require.NoError(t, schema.DefaultDecoderConfig().Validate())
	tests := map[string]struct {
		change func(*schema.DecoderConfig)
		want   string
	}{
		"no format":               {func(c *schema.DecoderConfig) { c.Format = "csv" }, "format"},
		"no client":               {func(c *schema.DecoderConfig) { c.Mapping.Client = "" }, "fields.client"},
		"a void without id":       {func(c *schema.DecoderConfig) { c.Mapping.ID, c.Mapping.Void = "", "v" }, "fields.void"},
		"an empty part":           {func(c *schema.DecoderConfig) { c.Mapping.Time = "a..b" }, "fields.time"},
		"too many parts":          {func(c *schema.DecoderConfig) { c.Mapping.Meter = "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a" }, "fields.meter"},
		"an empty path":           {func(c *schema.DecoderConfig) { c.Mapping.Fields = []string{"a.b", ""} }, `""`},
		"a long path":             {func(c *schema.DecoderConfig) { c.Mapping.Fields = []string{strings.Repeat("a.", 16) + "a"} }, "17 parts"},
		"too many paths":          {func(c *schema.DecoderConfig) { c.Mapping.Fields = slices.Repeat([]string{"a"}, 65) }, "65 paths, more than 64"},
		"no bytes":                {func(c *schema.DecoderConfig) { c.MaxRecordBytes = 0 }, "max_record_bytes"},
		"more bytes than 32 bits": {func(c *schema.DecoderConfig) { c.MaxRecordBytes = 1 << 31 }, "max_record_bytes"},
		"a negative pause":        {func(c *schema.DecoderConfig) { c.UnknownPause = -1 }, "negative"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			config := schema.DefaultDecoderConfig()
			tt.change(&config)
			_, err := schema.NewDecoder(config, schemas{}, zap.NewNop(), prometheus.NewRegistry())
			require.ErrorContains(t, err, tt.want)
		})
	}

	_, err := schema.NewDecoder(schema.DefaultDecoderConfig(), nil, zap.NewNop(), prometheus.NewRegistry())
	require.ErrorContains(t, err, "needs a schema registry")

	prom := prometheus.NewRegistry()
	_, err = schema.NewDecoder(onlyClient(), schemas{}, zap.NewNop(), prom)
	require.NoError(t, err)
	_, err = schema.NewDecoder(onlyClient(), schemas{}, zap.NewNop(), prom)
	var twice prometheus.AlreadyRegisteredError
	require.ErrorAs(t, err, &twice)
}

// FuzzWireHeader gives values of any kind to Prepare and Decode.
func FuzzWireHeader(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte{0, 0, 0, 0, 7})
	f.Add(withID(7))
	f.Add(withID(8))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 2})
	f.Add([]byte{1, 0, 0, 0, 7, 8})
	h := decoder(f, onlyClient(), record(`c "string"`))
	f.Fuzz(func(t *testing.T, value []byte) {
		got, _ := decode(t, h, value)
		id, ok := schema.WireID(value)
		switch {
		case !ok:
			require.Equal(t, usage.Undecodable, got.reason)
		case id != 7:
			require.Equal(t, usage.UnknownSchema, got.reason)
		default:
			require.NotEqual(t, usage.UnknownSchema, got.reason)
			require.Equal(t, value[:5], schema.AppendHeader(nil, id))
		}
	})
}

package schema

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/meterd/meterd/internal/usage"
)

// Registry is where schemas come from. RegistryClient is one.
type Registry interface {
	// SchemaByID returns ErrUnknownSchema or ErrBadSchema only where asking
	// again would change nothing by itself, and ErrRegistryDown for all else.
	SchemaByID(ctx context.Context, id uint32) (Schema, error)
}

// resolution is what is known of a schema id: a plan, or why there is none.
type resolution struct {
	plan   *Plan
	reason usage.Reason
	err    error
	until  time.Time // when one without a plan is forgotten
}

// cache resolves schema ids, each with one request at a time whoever asks.
type cache struct {
	config   DecoderConfig
	registry Registry
	log      *zap.Logger
	metrics  *metrics
	flights  singleflight.Group

	mu    sync.RWMutex
	known map[uint32]*resolution
	bad   int // of known, how many have no plan
}

const (
	// unknownTries is how often the registry must deny a schema.
	unknownTries = 3
	// parallelLookups bounds the requests of one batch.
	parallelLookups = 8
	// maxBad bounds how many ids without a schema are remembered: anybody who
	// may write to the usage topic can make them up.
	maxBad = 1 << 16
)

func newCache(config DecoderConfig, registry Registry, log *zap.Logger, m *metrics) *cache {
	return &cache{config: config, registry: registry, log: log, metrics: m, known: map[uint32]*resolution{}}
}

// resolve puts what is known of ids into into. All of them are asked for even
// where one fails, so that the next call has less to do.
//
// Those that the registry denies are asked for again together: a batch waits
// but once for all of them.
func (c *cache) resolve(ctx context.Context, ids []uint32, into map[uint32]*resolution) error {
	pause := c.config.UnknownPause
	var denied map[uint32]error
	for try := 1; ; try++ {
		var err error
		if denied, err = c.lookUp(ctx, ids, into); err != nil || len(denied) == 0 {
			return err
		}
		if try == unknownTries {
			break
		}
		ids = ids[:0:0]
		for id := range denied {
			ids = append(ids, id)
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
		pause *= 2
	}
	for id, err := range denied {
		into[id] = c.keep(id, &resolution{reason: usage.UnknownSchema, err: err})
	}
	return nil
}

// lookUp resolves ids once and returns those that the registry denies.
func (c *cache) lookUp(ctx context.Context, ids []uint32, into map[uint32]*resolution) (map[uint32]error, error) {
	var (
		mu     sync.Mutex // guards into, denied and failed
		denied = map[uint32]error{}
		failed []error
		group  errgroup.Group
	)
	group.SetLimit(parallelLookups)
	for _, id := range ids {
		if r := c.recall(id); r != nil {
			mu.Lock()
			into[id] = r
			mu.Unlock()
			continue
		}
		group.Go(func() error {
			r, err := c.ask(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				into[id] = r
			case errors.Is(err, ErrUnknownSchema):
				denied[id] = err
			case len(failed) == 0: // the others fail alike
				failed = append(failed, err)
			}
			return nil
		})
	}
	return denied, errors.Join(group.Wait(), errors.Join(failed...))
}

// ask gets one schema from the registry and compiles its plan.
//
// Whoever is first to ask for an id asks for all. If the first gives up,
// because its partition was taken away, that is no answer for the others: they
// ask again.
func (c *cache) ask(ctx context.Context, id uint32) (*resolution, error) {
	for {
		answer, err, _ := c.flights.Do(strconv.FormatUint(uint64(id), 10), func() (any, error) {
			if r := c.recall(id); r != nil { // by a flight that has just landed
				return r, nil
			}
			return c.request(ctx, id)
		})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		ended := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
		if ended && !errors.Is(err, ErrRegistryDown) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return answer.(*resolution), nil
	}
}

// request asks the registry.
func (c *cache) request(ctx context.Context, id uint32) (*resolution, error) {
	s, err := c.registry.SchemaByID(ctx, id)
	var plan *Plan
	if err == nil {
		plan, err = NewPlan(s, c.config.Mapping)
	}
	switch {
	case err == nil:
		c.metrics.lookups.WithLabelValues("found").Inc()
		c.log.Info("schema resolved", zap.Uint32("schema", id))
		return c.keep(id, &resolution{plan: plan}), nil
	case errors.Is(err, ErrBadSchema):
		c.metrics.lookups.WithLabelValues("unusable").Inc()
		c.log.Warn("schema cannot be used, its records are undecodable", zap.Uint32("schema", id), zap.Error(err))
		return c.keep(id, &resolution{reason: usage.Undecodable, err: fmt.Errorf("schema %d: %w", id, err)}), nil
	case errors.Is(err, ErrUnknownSchema):
		c.metrics.lookups.WithLabelValues("unknown").Inc()
	case ctx.Err() == nil:
		c.metrics.lookups.WithLabelValues("failed").Inc()
	}
	return nil, fmt.Errorf("schema %d: %w", id, err)
}

// recall returns what is known of id, or nil.
func (c *cache) recall(id uint32) *resolution {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.known[id]
	if r == nil || r.plan == nil && !time.Now().Before(r.until) {
		return nil
	}
	return r
}

// keep remembers r, for a while only if it has no plan.
func (c *cache) keep(id uint32, r *resolution) *resolution {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.known[id]; old != nil && old.plan == nil {
		c.bad--
	}
	if r.plan == nil {
		r.until = time.Now().Add(c.config.UnknownFor)
		c.bad++
	}
	c.known[id] = r
	if c.bad > maxBad {
		for other, old := range c.known {
			if old.plan == nil && other != id {
				delete(c.known, other)
			}
		}
		c.bad = 1
		if r.plan != nil {
			c.bad = 0
		}
	}
	c.metrics.schemas.Set(float64(len(c.known) - c.bad))
	return r
}

// wait waits for d, or returns the error of ctx.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// metrics of the decoder.
type metrics struct {
	lookups *prometheus.CounterVec
	schemas prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meterd_registry_lookups_total",
			Help: "Lookups of a schema id in the schema registry, by result; failed ones are repeated.",
		}, []string{"result"}),
		schemas: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meterd_registry_schemas",
			Help: "Schemas of usage events that are known.",
		}),
	}
	for _, result := range []string{"found", "unknown", "unusable", "failed"} {
		m.lookups.WithLabelValues(result)
	}
	return m, errors.Join(reg.Register(m.lookups), reg.Register(m.schemas))
}

package httpapi

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	duration *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer, open *streams) metrics {
	m := metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "http_request_duration_seconds",
			Help:                        "Time from a request's header to the end of its answer, by route and status.",
			Buckets:                     prometheus.ExponentialBuckets(0.0005, 2, 15),
			NativeHistogramBucketFactor: 1.1,
		}, []string{"route", "code"}),
	}
	reg.MustRegister(m.duration, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "http_streams", Help: "Streams of server-sent events that are open.",
	}, func() float64 { return float64(open.count()) }))
	return m
}

// measure observes how long requests take. Streams take as long as their
// clients like, and are not among them.
func (s *Server) measure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		wrapped := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(wrapped, r)
		if wrapped.Header().Get("Content-Type") == eventStream {
			return
		}
		code := strconv.Itoa(cmp.Or(wrapped.Status(), http.StatusOK))
		s.metrics.duration.WithLabelValues(route(r), code).Observe(time.Since(start).Seconds())
	})
}

// route returns the pattern of the request's route, never its path: that has
// client ids in it. A request that came to none is "other".
func route(r *http.Request) string {
	ctx := chi.RouteContext(r.Context())
	if ctx == nil || len(ctx.RoutePatterns) != 1 || ctx.RoutePatterns[0] == "" {
		return "other"
	}
	return ctx.RoutePatterns[0]
}

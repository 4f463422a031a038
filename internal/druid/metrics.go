package druid

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	questions *prometheus.CounterVec
	duration  prometheus.Histogram
	requests  prometheus.Gauge
	failed    prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		questions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meterd_seed_questions_total",
			Help: "Questions put to history, by result.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "meterd_seed_question_duration_seconds",
			Help:    "Time from a question to its result, whatever it was.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 13),
		}),
		requests: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meterd_seed_requests",
			Help: "Clients whose history was asked for and is not there yet.",
		}),
		failed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "meterd_seed_requests_failed",
			Help: "Those of meterd_seed_requests whose attempts keep failing.",
		}),
	}
	for _, result := range []string{resultOK, resultIncomplete, resultBusy, resultDenied, resultCanceled, resultError} {
		m.questions.WithLabelValues(result)
	}
	reg.MustRegister(m.questions, m.duration, m.requests, m.failed)
	return m
}

const (
	resultOK         = "ok"
	resultIncomplete = "incomplete" // nothing proves the answer complete
	resultBusy       = "busy"       // refused for now: 429, 503, 504
	resultDenied     = "denied"
	resultCanceled   = "canceled" // nobody waits for it any more
	resultError      = "error"
)

func (m *metrics) asked(err error, took time.Duration) {
	m.questions.WithLabelValues(result(err)).Inc()
	m.duration.Observe(took.Seconds())
}

func result(err error) string {
	status, refused := errors.AsType[*StatusError](err)
	switch {
	case err == nil:
		return resultOK
	case errors.Is(err, ErrIncomplete):
		return resultIncomplete
	case errors.Is(err, context.Canceled):
		return resultCanceled
	case refused && status.Denied():
		return resultDenied
	case refused && status.busy():
		return resultBusy
	}
	return resultError
}

func (e *StatusError) busy() bool {
	return e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable || e.Status == http.StatusGatewayTimeout
}

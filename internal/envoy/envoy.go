// Package envoy answers Envoy's rate-limit service, envoy.service.ratelimit.v3,
// by the limits of contracts, so that what speaks to such a service (Envoy,
// Istio, Contour, Emissary) can have requests decided by meterd as it is.
//
// A descriptor is made a use of a client and meter by the rules of the
// configuration. Nothing is counted here: usage comes from its topic, and
// hits_addend is the quantity of which it is asked whether there is room for it.
// What cannot be known is an error of gRPC, never a guess; Envoy's
// failure_mode_deny says what becomes of the request then.
//
// New binds the listener, Run serves until its context ends.
package envoy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	descriptors "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimit "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Rule makes a use of a descriptor that has an entry under Client and under all
// keys of Dimensions, and whose entries under the keys of Match have its values.
type Rule struct {
	Meter      string
	Client     string            // the key of the entry that has the client
	Dimensions map[string]string // the keys of entries, by dimension of the meter
	Match      map[string]string
}

// Config says where the service is and what descriptors stand for.
type Config struct {
	Listen string
	Domain string // of requests that are answered; empty for all
	Rules  []Rule // the first that fits counts; where none does there is no limit
	TLS    *tls.Config
}

// Use is what a Checker is asked about.
type Use struct {
	Client, Meter, Quantity string
	Dimensions              map[string]string
}

// Decision is what a Checker says of a use, with the limits that apply.
type Decision struct {
	Allowed bool
	Limits  []Limit
}

// Limit is a limit as it is before a use. Reset is zero where it never begins
// anew. Limit and Remaining are decimals.
type Limit struct {
	Name             string
	Limit, Remaining string
	Soft             bool
	Allowed          bool
	Reset            time.Time
}

// Checker decides about uses, all or none, for whoever has this authorization:
// the header of HTTP, or "". Its errors are one of those here, or say that it
// cannot be known at present.
type Checker func(ctx context.Context, authorization string, uses []Use) ([]Decision, error)

// Errors of a Checker.
var (
	// ErrUnauthorized is returned when there is no valid token.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrForbidden is returned when the token does not allow it.
	ErrForbidden = errors.New("forbidden")
	// ErrInvalid is returned when there can be no such use.
	ErrInvalid = errors.New("invalid")
)

const (
	maxMessageBytes = 64 << 10
	maxDescriptors  = 100
	maxStreams      = 1000
	shutdownTimeout = 5 * time.Second
)

// Server is the service on its listener.
type Server struct {
	cfg      Config
	check    Checker
	now      func() time.Time
	log      *zap.Logger
	listener net.Listener
	grpc     *grpc.Server
	answers  *prometheus.CounterVec
	duration prometheus.Histogram
}

// New binds the listener; Run serves it. A Server that is not run must be
// closed.
func New(cfg Config, check Checker, now func() time.Time, log *zap.Logger, reg prometheus.Registerer) (*Server, error) {
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("ratelimit.listen: %w", err)
	}
	s := &Server{
		cfg: cfg, check: check, now: now, log: log, listener: listener,
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meterd_ratelimit_answers_total", Help: "Answers of Envoy's rate-limit service: ok, over_limit, or the code of an error.",
		}, []string{"answer"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meterd_ratelimit_duration_seconds", Help: "Time to answer one request of Envoy's rate-limit service.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
	}
	reg.MustRegister(s.answers, s.duration)
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(5 * time.Second),
		grpc.UnaryInterceptor(s.watched),
	}
	if cfg.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(cfg.TLS)))
	}
	s.grpc = grpc.NewServer(options...)
	ratelimit.RegisterRateLimitServiceServer(s.grpc, service{s})
	healthpb.RegisterHealthServer(s.grpc, health.NewServer())
	return s, nil
}

// Addr returns where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close gives the listener back. It is for a Server that will not be run, and
// harmless after Run.
func (s *Server) Close() error {
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close listener of the rate-limit service: %w", err)
	}
	return nil
}

// Run serves until ctx ends, and then until the requests at hand are answered
// or five seconds have passed. It runs once.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(s.listener) }()
	s.log.Info("rate-limit service listening", zap.Stringer("address", s.Addr()), zap.Bool("tls", s.cfg.TLS != nil))
	select {
	case err := <-served:
		return fmt.Errorf("serve rate-limit service: %w", err)
	case <-ctx.Done():
	}
	cut := time.AfterFunc(shutdownTimeout, s.grpc.Stop)
	defer cut.Stop()
	s.grpc.GracefulStop()
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // which it is where it ended before it began
		return fmt.Errorf("serve rate-limit service: %w", err)
	}
	return nil
}

// watched measures answers, and answers for a handler that panicked.
func (s *Server) watched(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
	start := time.Now()
	defer func() {
		if cause := recover(); cause != nil {
			s.log.Error("rate-limit request failed", zap.Any("panic", cause), zap.Stack("stack"))
			answer, err = nil, status.Error(codes.Internal, "internal error")
		}
		s.duration.Observe(time.Since(start).Seconds())
		s.answers.WithLabelValues(label(answer, err)).Inc()
	}()
	return handle(ctx, request)
}

func label(answer any, err error) string {
	if err != nil {
		return strings.ToLower(status.Code(err).String())
	}
	if r, ok := answer.(*ratelimit.RateLimitResponse); ok && r.GetOverallCode() == ratelimit.RateLimitResponse_OVER_LIMIT {
		return "over_limit"
	}
	return "ok"
}

// service is a Server as gRPC calls it.
type service struct{ s *Server }

// ShouldRateLimit answers one request.
func (v service) ShouldRateLimit(ctx context.Context, r *ratelimit.RateLimitRequest) (*ratelimit.RateLimitResponse, error) {
	s := v.s
	switch n := len(r.GetDescriptors()); {
	case s.cfg.Domain != "" && r.GetDomain() != s.cfg.Domain:
		return nil, status.Errorf(codes.InvalidArgument, "the domain %q is not that of ratelimit.domain", r.GetDomain())
	case n < 1 || n > maxDescriptors:
		return nil, status.Errorf(codes.InvalidArgument, "not 1 to %d descriptors", maxDescriptors)
	}
	var uses []Use
	places := make([]int, len(r.GetDescriptors())) // of its use; -1: none
	for i, d := range r.GetDescriptors() {
		places[i] = -1
		if use, ok := s.use(d, r.GetHitsAddend()); ok {
			places[i] = len(uses)
			uses = append(uses, use)
		}
	}
	// Asked also where there is no use: who may not ask is to learn nothing.
	decisions, err := s.check(ctx, authorization(ctx), uses)
	if err != nil {
		return nil, s.failed(err)
	}
	answer := &ratelimit.RateLimitResponse{OverallCode: ratelimit.RateLimitResponse_OK}
	for _, place := range places {
		told := &ratelimit.RateLimitResponse_DescriptorStatus{Code: ratelimit.RateLimitResponse_OK}
		if place >= 0 {
			told = s.tell(&decisions[place])
		}
		if told.GetCode() == ratelimit.RateLimitResponse_OVER_LIMIT {
			answer.OverallCode = ratelimit.RateLimitResponse_OVER_LIMIT
		}
		answer.Statuses = append(answer.Statuses, told)
	}
	return answer, nil
}

// failed is what a client is told of an error of the Checker.
func (s *Server) failed(err error) error {
	switch {
	case errors.Is(err, ErrUnauthorized):
		return status.Error(codes.Unauthenticated, "a valid bearer token is required")
	case errors.Is(err, ErrForbidden):
		return status.Error(codes.PermissionDenied, "the token does not allow this")
	case errors.Is(err, ErrInvalid):
		return status.Error(codes.InvalidArgument, err.Error())
	}
	s.log.Debug("rate-limit request not answered", zap.Error(err))
	return status.Error(codes.Unavailable, "it cannot be known at present")
}

func authorization(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md.Get("authorization"); len(values) == 1 {
		return values[0]
	}
	return ""
}

// use makes a use of a descriptor by the first rule that fits.
func (s *Server) use(d *descriptors.RateLimitDescriptor, hits uint32) (Use, bool) {
	entries := make(map[string]string, len(d.GetEntries()))
	for _, e := range d.GetEntries() {
		if _, twice := entries[e.GetKey()]; !twice {
			entries[e.GetKey()] = e.GetValue()
		}
	}
	i := slices.IndexFunc(s.cfg.Rules, func(r Rule) bool { return r.fits(entries) })
	if i < 0 {
		return Use{}, false
	}
	rule := &s.cfg.Rules[i]
	use := Use{Client: entries[rule.Client], Meter: rule.Meter, Quantity: quantity(d, hits)}
	for dimension, key := range rule.Dimensions {
		if use.Dimensions == nil {
			use.Dimensions = map[string]string{}
		}
		use.Dimensions[dimension] = entries[key]
	}
	return use, true
}

// quantity is what the descriptor, or else the request, adds: 1 where neither
// says, and nothing where it gives back.
func quantity(d *descriptors.RateLimitDescriptor, hits uint32) string {
	switch {
	case d.GetIsNegativeHits():
		return "0"
	case d.GetHitsAddend() != nil:
		return strconv.FormatUint(d.GetHitsAddend().GetValue(), 10)
	}
	return strconv.FormatUint(uint64(max(hits, 1)), 10)
}

func (r *Rule) fits(entries map[string]string) bool {
	if _, ok := entries[r.Client]; !ok {
		return false
	}
	for key, value := range r.Match {
		if has, ok := entries[key]; !ok || has != value {
			return false
		}
	}
	for _, key := range r.Dimensions {
		if _, ok := entries[key]; !ok {
			return false
		}
	}
	return true
}

// tell makes a status of a decision: with the limit that leaves no room for
// longest, or else the hard one that has the least left.
func (s *Server) tell(d *Decision) *ratelimit.RateLimitResponse_DescriptorStatus {
	told := &ratelimit.RateLimitResponse_DescriptorStatus{Code: ratelimit.RateLimitResponse_OK}
	if !d.Allowed {
		told.Code = ratelimit.RateLimitResponse_OVER_LIMIT
	}
	l := d.shown()
	if l == nil {
		return told
	}
	told.CurrentLimit = &ratelimit.RateLimitResponse_RateLimit{Name: l.Name, RequestsPerUnit: whole(l.Limit)}
	told.LimitRemaining = whole(l.Remaining)
	if wait := l.Reset.Sub(s.now()); !l.Reset.IsZero() && wait > 0 {
		told.DurationUntilReset = durationpb.New(wait)
	}
	return told
}

func (d *Decision) shown() *Limit {
	var shown *Limit
	for i := range d.Limits {
		l := &d.Limits[i]
		switch {
		case l.Soft, !d.Allowed && l.Allowed:
		case shown == nil,
			d.Allowed && whole(l.Remaining) < whole(shown.Remaining),
			!d.Allowed && !shown.Reset.IsZero() && (l.Reset.IsZero() || l.Reset.After(shown.Reset)):
			shown = l
		}
	}
	return shown
}

// whole is a decimal without what is behind the point, as far as the protocol
// can tell of it.
func whole(decimal string) uint32 {
	text, _, _ := strings.Cut(decimal, ".")
	n, err := strconv.ParseUint(text, 10, bits.UintSize)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return math.MaxUint32
	case err != nil:
		return 0 // less than nothing
	}
	return uint32(min(n, math.MaxUint32))
}

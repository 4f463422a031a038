package httpapi

import (
	"bytes"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/klauspost/compress/gzhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

const (
	pathLivez  = "/livez"
	pathReadyz = "/readyz"

	pathOverview = "/v1/overview"
	pathCheck    = "/v1/check"

	headerRequestID = "X-Request-Id"

	// minCompressed is the least size of an answer that is worth compressing.
	minCompressed = 1400
)

// openAPI describes all routes, in OpenAPI 3.1.
//
//go:embed openapi.json
var openAPI []byte

// router returns all routes behind what applies to each of them.
func (s *Server) router(reg Registry) *chi.Mux {
	r := chi.NewRouter()
	r.Use(identify, s.measure, s.recovered, plainly, escapedPath, middleware.GetHead, s.authorize, s.peers.signed, bounded)
	r.NotFound(s.handle(func(http.ResponseWriter, *http.Request) error {
		return refuse(errNotFound, "there is nothing of this name")
	}))
	r.MethodNotAllowed(s.handle(wrongMethod))

	r.Get(pathLivez, s.handle(s.livez))
	r.Get(pathReadyz, s.handle(s.readyz))
	all := prometheus.Gatherers{reg}
	if s.parts.Costly != nil {
		all = append(all, s.parts.Costly)
	}
	metrics := promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(s.log), ErrorHandling: promhttp.ContinueOnError})
	r.Get("/metrics", s.only(readers, func(w http.ResponseWriter, r *http.Request) error {
		metrics.ServeHTTP(w, r)
		return nil
	}))
	r.Get("/v1/limit-events", s.only(anyToken, s.limitEvents))
	r.Get(pathOverview+"/stream", s.only(readers, s.overviewStream))
	r.Group(s.answers)
	return r
}

// answers adds the routes whose answers end, which are compressed for those who
// ask for that.
func (s *Server) answers(r chi.Router) {
	r.Use(compressed)
	r.Get("/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		write(w, "application/json", http.StatusOK, openAPI)
	})
	r.Get("/v1/clients", s.only(readers, s.clients))
	r.Get("/v1/clients/{client}/usage", s.only(thatClient, s.usage))
	r.Get("/v1/clients/{client}/limits", s.only(thatClient, s.limits))
	r.Get("/v1/clients/{client}/explain", s.only(thatClient, s.explain))
	r.Get(pathOverview, s.only(readers, s.overview))
	r.Post(pathCheck, s.only(anyToken, s.check))
	r.Get("/v1/contracts", s.only(anyToken, s.contracts))
	r.Get("/v1/contracts/{id}", s.only(anyToken, s.contract))
	r.Put("/v1/contracts/{id}", s.only(admins, s.putContract))
	r.Delete("/v1/contracts/{id}", s.only(admins, s.deleteContract))
	r.Get("/v1/assignments", s.only(readers, s.assignments))
	r.Post(pathHandover, s.only(admins, s.handover))
}

// compressed has answers of some size sent in gzip or zstd, as the client likes.
func compressed(next http.Handler) http.Handler {
	wrap, err := gzhttp.NewWrapper(gzhttp.MinSize(minCompressed), gzhttp.ContentTypes([]string{"application/json", "application/problem+json"}))
	if err != nil {
		return next // the options are constant, and right
	}
	return wrap(next)
}

// handle makes a handler of fn. When fn returns an error, it has written
// nothing.
func (s *Server) handle(fn func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := fn(w, r); err != nil {
			s.refuse(w, r, err)
		}
	}
}

// wrongMethod answers a request whose path is known, or may be, and whose
// method is not.
func wrongMethod(w http.ResponseWriter, r *http.Request) error {
	ctx := chi.RouteContext(r.Context())
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		if !ctx.Routes.Match(chi.NewRouteContext(), method, ctx.RoutePath) {
			continue
		}
		allowed = append(allowed, method)
		if method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	if len(allowed) == 0 {
		return refuse(errNotFound, "there is nothing of this name")
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return refuse(errMethodNotAllowed, "allowed are %s", strings.Join(allowed, ", "))
}

// identify gives each request an id, its own if it brings a harmless one.
func identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(headerRequestID)
		if harmful := func(c rune) bool { return c <= ' ' || c > '~' }; id == "" || len(id) > 128 || strings.ContainsFunc(id, harmful) {
			id = rand.Text()
			r.Header.Set(headerRequestID, id)
		}
		w.Header().Set(headerRequestID, id)
		next.ServeHTTP(w, r)
	})
}

// recovered answers for a handler that panicked. Handlers write only when they
// have all of their answer, so the status is still to be sent.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if cause := recover(); cause != nil {
				s.refuse(w, r, refuse(errInternal, "panic").because(fmt.Errorf("%v\n%s", cause, debug.Stack())))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// plainly keeps answers out of caches, and browsers from taking them for what
// they are not.
func plainly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// escapedPath routes by the path as it was sent, so that a slash within an id
// (%2F) does not part it, and pathID decodes every id exactly once.
func escapedPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chi.RouteContext(r.Context()).RoutePath = r.URL.EscapedPath()
		next.ServeHTTP(w, r)
	})
}

func bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		next.ServeHTTP(w, r)
	})
}

// encode returns v as JSON on a line, as it is: without the escapes that only
// HTML needs.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return b.Bytes(), nil
}

// answer writes v with status 200.
func answer(w http.ResponseWriter, v any) error {
	body, err := encode(v)
	if err != nil {
		return err
	}
	write(w, "application/json", http.StatusOK, body)
	return nil
}

func write(w http.ResponseWriter, contentType string, status int, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that is gone has no use for it
}

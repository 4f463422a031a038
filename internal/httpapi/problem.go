package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"go.uber.org/zap"
)

// What can be wrong with a request, or with meterd when it comes. Everything
// else is internal.
var (
	errBadRequest       = errors.New("bad request")
	errUnauthorized     = errors.New("unauthorized")
	errForbidden        = errors.New("forbidden")
	errNotFound         = errors.New("not found")
	errMethodNotAllowed = errors.New("method not allowed")
	errPrecondition     = errors.New("precondition failed")
	errConflict         = errors.New("conflict")
	errInvalidContract  = errors.New("invalid contract")
	errIncomplete       = errors.New("incomplete")
	errNotReady         = errors.New("not ready")
	errInternal         = errors.New("internal error")
)

// kind is what a client sees of an error.
type kind struct {
	err    error
	status int
	name   string // of the type, and for people
	title  string
	again  string // Retry-After, in seconds
}

// kinds has one for each of the above. The first that an error is counts;
// errInternal is the last, for all the rest.
var kinds = []kind{
	{err: errBadRequest, status: http.StatusBadRequest, name: "bad-request", title: "Bad request"},
	{err: errUnauthorized, status: http.StatusUnauthorized, name: "unauthorized", title: "Unauthorized"},
	{err: errForbidden, status: http.StatusForbidden, name: "forbidden", title: "Forbidden"},
	{err: errNotFound, status: http.StatusNotFound, name: "not-found", title: "Not found"},
	{err: errMethodNotAllowed, status: http.StatusMethodNotAllowed, name: "method-not-allowed", title: "Method not allowed"},
	{err: errPrecondition, status: http.StatusPreconditionFailed, name: "conflict", title: "Not the revision that was expected"},
	{err: errConflict, status: http.StatusConflict, name: "conflict", title: "Another revision came first"},
	{err: errInvalidContract, status: http.StatusUnprocessableEntity, name: "invalid-contract", title: "The contract cannot come into force"},
	{err: errIncomplete, status: http.StatusServiceUnavailable, name: "incomplete", title: "Not all of the usage is known yet", again: "1"},
	{err: errNotReady, status: http.StatusServiceUnavailable, name: "not-ready", title: "Not ready", again: "1"},
	{err: errInternal, status: http.StatusInternalServerError, name: "internal", title: "Internal error"},
}

// problem is an error as RFC 9457 has it.
type problem struct {
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Detail string  `json:"detail,omitempty"`
	Checks []Check `json:"checks,omitempty"`
}

// refusal is an error with a text for the client. Its cause, if any, is for
// the log.
type refusal struct {
	kind   error
	detail string
	checks []Check
	cause  error
}

func refuse(kind error, format string, args ...any) *refusal {
	return &refusal{kind: kind, detail: fmt.Sprintf(format, args...)}
}

// because returns e with a cause.
func (e *refusal) because(cause error) *refusal {
	e.cause = cause
	return e
}

func (e *refusal) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %s: %s", e.kind, e.detail, e.cause)
	}
	return fmt.Sprintf("%s: %s", e.kind, e.detail)
}

// kindOf returns the entry of kinds that err is, and what it tells, which is
// nil for the last of them.
func kindOf(err error) (kind, *refusal) {
	last := kinds[len(kinds)-1]
	var told *refusal
	if !errors.As(err, &told) {
		return last, nil
	}
	for _, k := range kinds[:len(kinds)-1] {
		if errors.Is(told.kind, k.err) {
			return k, told
		}
	}
	return last, nil
}

// problemOf is what a client sees of err.
func problemOf(err error) problem {
	kind, told := kindOf(err)
	p := problem{Type: "/problems/" + kind.name, Title: kind.title, Status: kind.status}
	if told != nil {
		p.Detail, p.Checks = told.detail, told.checks
	}
	return p
}

// refuse answers with what err is to a client, and logs what it does not tell
// it.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	kind, told := kindOf(err)
	fields := []zap.Field{zap.String("route", route(r)), zap.String("request_id", w.Header().Get(headerRequestID)), zap.Error(err)}
	switch {
	case told == nil:
		s.log.Error("http request failed", fields...)
	case told.cause != nil && !errors.Is(r.Context().Err(), context.Canceled):
		s.log.Warn("http request refused", fields...)
	}
	if kind.again != "" {
		w.Header().Set("Retry-After", kind.again)
	}
	body, err := encode(problemOf(err))
	if err != nil {
		s.log.Error("problem not encoded", zap.Error(err))
	}
	write(w, "application/problem+json", kind.status, body)
}

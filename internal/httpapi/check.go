package httpapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

type checkRequest struct {
	Client     string            `json:"client"`
	Meter      string            `json:"meter"`
	Quantity   json.RawMessage   `json:"quantity"`
	Dimensions map[string]string `json:"dimensions"`
}

type checkAnswer struct {
	Allowed bool           `json:"allowed"`
	AsOf    asOf           `json:"as_of"`
	Limits  []checkedLimit `json:"limits"`
}

// checkedLimit is a limit that a use would count against, as it is before it.
type checkedLimit struct {
	Contract    string                `json:"contract"`
	LimitID     string                `json:"limit_id"`
	Dimensions  map[string]string     `json:"dimensions"`
	Enforcement contracts.Enforcement `json:"enforcement"`
	Limit       string                `json:"limit"`
	Usage       string                `json:"usage"`
	Remaining   string                `json:"remaining"`
	Allowed     bool                  `json:"allowed"`
	Blocked     bool                  `json:"blocked"`
	NextReset   usage.Time            `json:"next_reset"`
}

// check answers whether the limits of a client leave room for a use, or of
// several clients for several uses. It counts nothing.
func (s *Server) check(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	body, err := jsonBody(r)
	if err != nil {
		return err
	}
	requests, batch, err := readChecks(body)
	if err != nil {
		return err
	}
	g := s.grantOf(r)
	for i := range requests {
		if !g.checks(requests[i].Client) {
			return g.allows(false)
		}
	}
	uses, err := s.usesOf(requests, batch)
	if err != nil {
		return err
	}
	if batch {
		return s.checkAll(w, r, requests, uses)
	}
	use := uses[0]
	q := question{client: requests[0].Client, selection: aggregate.Selection{Meter: use.Meter, Dimensions: s.allDimensions(use)}, body: body}
	return s.atOwner(w, r, q, func(view aggregate.View, at asOf) (any, error) {
		limits, err := s.applying(&view, use)
		if err != nil {
			return nil, err
		}
		decided := decide(limits, use, at)
		if wait := decided.wait(s.parts.Now()); wait > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(wait, 10))
		}
		return decided, nil
	})
}

// wait returns in how many seconds all limits that leave no room begin anew,
// and 0 where there are none, or one of them never does.
func (a *checkAnswer) wait(now time.Time) int64 {
	last := usage.MinTime
	for i := range a.Limits {
		if !a.Limits[i].Allowed {
			last = max(last, a.Limits[i].NextReset)
		}
	}
	if last == usage.MinTime || last == usage.MaxTime {
		return 0
	}
	return max(1, int64(math.Ceil(last.Std().Sub(now).Seconds())))
}

// readChecks reads one use, or several under checks, and then says so.
func readChecks(body []byte) (requests []checkRequest, batch bool, err error) {
	var all struct {
		Checks []json.RawMessage `json:"checks"`
	}
	var keys map[string]json.RawMessage
	if json.Unmarshal(body, &keys) == nil && keys["checks"] != nil {
		if len(keys) > 1 {
			return nil, true, refuse(errBadRequest, "beside checks there is nothing")
		}
		if err := json.Unmarshal(body, &all); err != nil {
			return nil, true, refuse(errBadRequest, "checks: %s", plain(err))
		}
		if len(all.Checks) < 1 || len(all.Checks) > maxChecks {
			return nil, true, refuse(errBadRequest, "checks: not 1 to %d of them", maxChecks)
		}
		for i, one := range all.Checks {
			request, err := readCheck(one)
			if err != nil {
				return nil, true, inCheck(i, err)
			}
			requests = append(requests, request)
		}
		return requests, true, nil
	}
	request, err := readCheck(body)
	return []checkRequest{request}, false, err
}

// inCheck names the check that an error is of.
func inCheck(i int, err error) error {
	if told, ok := errors.AsType[*refusal](err); ok {
		return refuse(told.kind, "checks[%d]: %s", i, told.detail)
	}
	return err
}

// usesOf checks requests against the meters that they name.
func (s *Server) usesOf(requests []checkRequest, batch bool) ([]*alerts.Use, error) { //revive:disable-line:flag-parameter // it is what was read
	uses := make([]*alerts.Use, len(requests))
	for i := range requests {
		use, err := s.useOf(&requests[i])
		switch {
		case err != nil && batch:
			return nil, inCheck(i, err)
		case err != nil:
			return nil, err
		}
		uses[i] = use
	}
	return uses, nil
}

func readCheck(body []byte) (checkRequest, error) {
	var request checkRequest
	if !utf8.Valid(body) {
		return request, refuse(errBadRequest, "the body is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&request); err != nil {
		return request, refuse(errBadRequest, `the body is not a JSON object with client, meter, quantity and dimensions, and no others: %s`, plain(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return request, refuse(errBadRequest, "something follows the JSON object")
	}
	if request.Client == "" {
		return request, refuse(errBadRequest, "client: is missing")
	}
	return request, checkID("client", request.Client)
}

// plain is the text of what encoding/json finds wrong, for those who do not
// know of Go.
func plain(err error) string {
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		return cmp.Or(wrong.Field, "the body") + " has the wrong type"
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it ends too early"
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// useOf checks a request against the meter that it names.
func (s *Server) useOf(request *checkRequest) (*alerts.Use, error) {
	meter, err := s.meter(request.Meter)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(request.Dimensions)) {
		if !slices.ContainsFunc(meter.Dimensions, func(d usage.Dimension) bool { return d.Name == name }) {
			return nil, refuse(errBadRequest, "dimensions: %q is not a dimension of meter %q", name, meter.Name)
		}
		if len(request.Dimensions[name]) > usage.MaxIDBytes {
			return nil, refuse(errBadRequest, "dimensions: the value of %q has more than %d bytes", name, usage.MaxIDBytes)
		}
	}
	quantity, err := quantityOf(request.Quantity, meter.Decimals)
	if err != nil {
		return nil, err
	}
	return &alerts.Use{Meter: meter.Name, Aggregation: meter.Aggregation, Quantity: quantity, Dimensions: request.Dimensions}, nil
}

func (s *Server) meter(name string) (*usage.Meter, error) {
	if name == "" {
		return nil, refuse(errBadRequest, "meter: is missing")
	}
	i := s.parts.Catalog.Find(name)
	if i < 0 {
		return nil, refuse(errBadRequest, "meter: %q is not configured", name)
	}
	return &s.parts.Catalog.Meters[i], nil
}

// quantityOf reads a decimal string, or a JSON number; 1 where there is none.
func quantityOf(raw json.RawMessage, decimals int) (usage.Quantity, error) {
	text := string(raw)
	switch {
	case text == "" || text == "null":
		text = "1"
	case text[0] == '"':
		if json.Unmarshal(raw, &text) != nil || strings.ContainsAny(text, "eE") {
			return 0, refuse(errBadRequest, "quantity: %s is not a decimal number", raw)
		}
	}
	d, err := usage.ParseDecimal(text)
	if err != nil {
		return 0, refuse(errBadRequest, "quantity: %s is not a decimal number", raw)
	}
	q, fits := d.Quantity(decimals)
	switch {
	case !fits:
		return 0, refuse(errBadRequest, "quantity: %s does not fit %d decimals", text, decimals)
	case q < 0:
		return 0, refuse(errBadRequest, "quantity: %s is negative", text)
	}
	return q, nil
}

// judged is a limit that applies, with the total of its counter.
type judged struct {
	contract *contracts.Contract
	limit    *contracts.Limit
	per      map[string]string
	total    usage.Quantity
	period   usage.Period
}

// allDimensions returns what use has of every dimension of its meter.
func (s *Server) allDimensions(use *alerts.Use) map[string]string {
	meter, err := s.meter(use.Meter)
	if err != nil || len(meter.Dimensions) == 0 {
		return nil
	}
	all := make(map[string]string, len(meter.Dimensions))
	for _, d := range meter.Dimensions {
		all[d.Name] = use.Dimensions[d.Name]
	}
	return all
}

// applying returns the limits in force that judge use, in the order of contract
// ids and then of the contract. A value that a limit is for and that was never
// seen has used nothing. It refuses where a total is not all there is to count.
func (s *Server) applying(view *aggregate.View, use *alerts.Use) ([]judged, error) {
	now := view.AsOf.Time
	if now == usage.MinTime {
		now = usage.TimeOf(s.parts.Now()) // nothing was read yet
	}
	var list []judged
	complete := true
	for i := range view.Limits {
		v := &view.Limits[i]
		per := use.Per(v.Limit)
		if v.Ended || now < v.Contract.StartsAt || !use.Concerns(v.Limit) || !maps.Equal(per, v.Dimensions) {
			continue
		}
		complete = complete && v.Seed.Complete()
		list = append(list, judged{v.Contract, v.Limit, per, v.Total, v.Period})
	}
	for _, c := range s.parts.Contracts.Of(view.Client) {
		for i := range c.Limits {
			l := &c.Limits[i]
			seen := slices.ContainsFunc(list, func(j judged) bool { return j.contract.ID == c.ID && j.limit.ID == l.ID })
			if len(l.Per) == 0 || seen || now < c.StartsAt || now >= c.EndsAt || !use.Concerns(l) {
				continue
			}
			complete = complete && view.Complete
			list = append(list, judged{c, l, use.Per(l), 0, l.Schedule.At(now).Cut(c.StartsAt, c.EndsAt)})
		}
	}
	if len(list) > 0 && (!complete || !view.Known) {
		return nil, refuse(errIncomplete, "history is being asked for what the client has used")
	}
	slices.SortStableFunc(list, func(a, b judged) int {
		return cmp.Or(cmp.Compare(a.contract.ID, b.contract.ID), cmp.Compare(a.place(), b.place()))
	})
	return list, nil
}

// place is that of the limit in its contract.
func (j *judged) place() int {
	return slices.IndexFunc(j.contract.Limits, func(l contracts.Limit) bool { return l.ID == j.limit.ID })
}

func decide(limits []judged, use *alerts.Use, at asOf) checkAnswer {
	a := checkAnswer{Allowed: true, AsOf: at, Limits: make([]checkedLimit, 0, len(limits))}
	for _, j := range limits {
		l := checkedLimit{
			Contract: j.contract.ID, LimitID: j.limit.ID, Dimensions: showDimensions(j.per), Enforcement: j.limit.Enforcement,
			Limit: j.limit.Value.Format(j.limit.Decimals), Usage: j.total.Format(j.limit.Decimals), Remaining: alerts.Remaining(j.limit, j.total),
			Allowed: use.Allowed(j.limit, j.total), Blocked: alerts.Blocked(j.limit, j.total), NextReset: j.period.End,
		}
		a.Allowed = a.Allowed && l.Allowed
		a.Limits = append(a.Limits, l)
	}
	return a
}

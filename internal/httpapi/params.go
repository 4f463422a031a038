package httpapi

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"github.com/meterd/meterd/internal/usage"
)

// Bounds of a page, in entries.
const (
	defaultPage = 100
	maxPage     = 1000
)

// pathID returns the id that stands in the path under name.
func pathID(r *http.Request, name string) (string, error) {
	id, err := url.PathUnescape(chi.URLParam(r, name))
	if err != nil {
		return "", refuse(errBadRequest, "the %s id in the path is not percent-encoded as it should be", name)
	}
	if id == "" {
		return "", refuse(errBadRequest, "the %s id in the path is empty", name)
	}
	return id, checkID(name, id)
}

func checkID(name, id string) error {
	if len(id) > usage.MaxIDBytes {
		return refuse(errBadRequest, "%s: an id has at most %d bytes", name, usage.MaxIDBytes)
	}
	if !utf8.ValidString(id) {
		return refuse(errBadRequest, "%s: an id is UTF-8", name)
	}
	return nil
}

// query returns the query's parameters, each of which is one of known and
// there at most once.
func query(r *http.Request, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(errBadRequest, "the query is not well-formed")
	}
	for name, list := range values {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			return nil, refuse(errBadRequest, "there are no query parameters here")
		case !slices.Contains(known, name):
			return nil, refuse(errBadRequest, "known query parameters are %s, and no others", strings.Join(known, ", "))
		case len(list) > 1:
			return nil, refuse(errBadRequest, "%s: given more than once", name)
		case !utf8.ValidString(list[0]):
			return nil, refuse(errBadRequest, "%s: not UTF-8", name)
		}
	}
	return values, nil
}

// page returns the parameters after and limit.
func page(values url.Values) (after string, limit int, err error) {
	after = values.Get("after")
	if err := checkID("after", after); err != nil {
		return "", 0, err
	}
	if !values.Has("limit") {
		return after, defaultPage, nil
	}
	limit, err = strconv.Atoi(values.Get("limit"))
	if err != nil || limit < 1 || limit > maxPage {
		return "", 0, refuse(errBadRequest, "limit: not a number from 1 to %d", maxPage)
	}
	return after, limit, nil
}

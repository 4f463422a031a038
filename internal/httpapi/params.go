package httpapi

import (
	"errors"
	"io"
	"mime"
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
// there at most once; one that is known as "name..." any number of times.
func query(r *http.Request, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(errBadRequest, "the query is not well-formed")
	}
	for name, list := range values {
		switch {
		case slices.Contains(known, name+"..."):
			if !utf8.ValidString(strings.Join(list, "")) {
				return nil, refuse(errBadRequest, "%s: not UTF-8", name)
			}
		case !slices.Contains(known, name) && len(known) == 0:
			return nil, refuse(errBadRequest, "there are no query parameters here")
		case !slices.Contains(known, name):
			return nil, refuse(errBadRequest, "known query parameters are %s, and no others", strings.ReplaceAll(strings.Join(known, ", "), "...", ""))
		case len(list) > 1:
			return nil, refuse(errBadRequest, "%s: given more than once", name)
		case !utf8.ValidString(list[0]):
			return nil, refuse(errBadRequest, "%s: not UTF-8", name)
		}
	}
	return values, nil
}

// dimensions returns what parameters of the form name:value say, nil for none.
// A value may have colons in it.
func dimensions(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	values := make(map[string]string, len(list))
	for _, text := range list {
		name, value, ok := strings.Cut(text, ":")
		if !ok || name == "" {
			return nil, refuse(errBadRequest, "dimensions: %q is not name:value", text)
		}
		if _, twice := values[name]; twice {
			return nil, refuse(errBadRequest, "dimensions: %q is given more than once", name)
		}
		values[name] = value
	}
	return values, nil
}

// flag returns the parameter name, which is true or false, the default.
func flag(values url.Values, name string) (bool, error) {
	switch values.Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, refuse(errBadRequest, "%s: neither true nor false", name)
}

// jsonBody returns the body of r, of which its Content-Type must not say that it
// is something else than JSON. What curl and browsers send by themselves says
// nothing.
func jsonBody(r *http.Request) ([]byte, error) {
	if given := r.Header.Get("Content-Type"); given != "" {
		kind, _, err := mime.ParseMediaType(given)
		vague := []string{"application/json", "text/json", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded"}
		if err != nil || !slices.Contains(vague, kind) && !strings.HasSuffix(kind, "+json") {
			return nil, refuse(errBadRequest, "Content-Type: application/json is expected")
		}
	}
	body, err := io.ReadAll(r.Body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, refuse(errBadRequest, "the body has more than %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return nil, refuse(errBadRequest, "the body cannot be read").because(err)
	}
	return body, nil
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

package httpapi_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
)

// content is the description of a body.
type content map[string]struct {
	Example  any            `json:"example"`
	Examples map[string]any `json:"examples"`
}

// TestDocumentHasExamples of every body that is JSON, and each is as its schema
// has it.
func TestDocumentHasExamples(t *testing.T) {
	t.Parallel()
	_, compiler := readDocument(t)
	var doc struct {
		Paths map[string]map[string]struct {
			RequestBody *struct{ Content content } `json:"requestBody"`
			Responses   map[string]struct{ Content content }
		}
	}
	readDocumentInto(t, &doc)
	valid := func(pointer string, c content) {
		for kind, described := range c {
			if kind != "application/json" {
				continue
			}
			require.NotNil(t, described.Example, "%s has no example", pointer)
			schema, err := compiler.Compile("file:///openapi.json#" + pointer + "/content/application~1json/schema")
			require.NoError(t, err)
			text, err := json.Marshal(described.Example)
			require.NoError(t, err)
			value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
			require.NoError(t, err)
			require.NoError(t, schema.Validate(value), pointer)
		}
	}
	for path, operations := range doc.Paths {
		for method, o := range operations {
			pointer := "/paths/" + strings.NewReplacer("/", "~1", "{", "%7B", "}", "%7D").Replace(path) + "/" + method
			if o.RequestBody != nil {
				valid(pointer+"/requestBody", o.RequestBody.Content)
			}
			for code, r := range o.Responses {
				valid(pointer+"/responses/"+code, r.Content)
			}
		}
	}
}

// TestDocumentHasTheParametersThatHandlersTake: each is asked what it knows.
func TestDocumentHasTheParametersThatHandlersTake(t *testing.T) {
	t.Parallel()
	n := withAcme(t)
	tells(t, n, nil)
	serve(t, n, nil)
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []struct {
				Ref      string `json:"$ref"`
				Name, In string
			}
		}
		Components struct {
			Parameters map[string]struct{ Name, In string }
		}
	}
	readDocumentInto(t, &doc)
	for path, operations := range doc.Paths {
		if !strings.HasPrefix(path, "/v1/") {
			continue
		}
		for method, o := range operations {
			var described []string
			for _, p := range o.Parameters {
				if known, ok := doc.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")]; ok {
					p.Name, p.In = known.Name, known.In
				}
				if p.In == "query" {
					described = append(described, p.Name)
				}
			}
			r := n.send(t, strings.ToUpper(method), strings.NewReplacer("{client}", "acme", "{id}", "a").Replace(path)+"?nonsense=1")
			detail := r.refused(t, http.StatusBadRequest, "bad-request")
			var known []string
			if names, ok := strings.CutPrefix(detail, "known query parameters are "); ok {
				known = strings.Split(strings.TrimSuffix(names, ", and no others"), ", ")
			} else {
				require.Equal(t, "there are no query parameters here", detail)
			}
			require.ElementsMatch(t, described, known, "%s %s", method, path)
		}
	}
}

// TestDocumentHasTheStatusOfEveryProblem: each of the table is described
// somewhere.
func TestDocumentHasTheStatusOfEveryProblem(t *testing.T) {
	t.Parallel()
	doc, _ := readDocument(t)
	codes := map[string]bool{}
	for _, operations := range doc.Paths {
		for _, o := range operations {
			for code := range o.Responses {
				codes[code] = true
			}
		}
	}
	for _, code := range []string{"200", "204", "304", "400", "401", "403", "404", "405", "409", "412", "422", "500", "503"} {
		require.Contains(t, slices.Sorted(maps.Keys(codes)), code)
	}
}

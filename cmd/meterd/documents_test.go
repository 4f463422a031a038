package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// dirOf writes files by their names, and returns where.
func dirOf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return dir
}

func TestReadDocuments(t *testing.T) {
	t.Parallel()

	const a, b = `{"id":"a","client":"acme"}`, `{"id":"b","client":"acme"}`
	const asYAML = `# ours
id: a
client: acme
starts_at: 2026-01-01T00:00:00Z
ends_at: null
limits:
  - {id: traffic, meter: bytes_out, limit: "0010", thresholds: ["80%", '100%']}
`
	tests := map[string]struct {
		files map[string]string
		want  []document
	}{
		"a contract":             {map[string]string{"x.json": " " + a + "\n"}, []document{{id: "a", json: []byte(a)}}},
		"a list":                 {map[string]string{"x.json": "[" + a + "," + b + "]"}, []document{{id: "a", json: []byte(a)}, {id: "b", json: []byte(b)}}},
		"an empty list":          {map[string]string{"x.json": "[]"}, nil},
		"files by their names":   {map[string]string{"2.json": a, "1.json": b, "0.txt": "no", "3.json~": "no"}, []document{{id: "b", json: []byte(b)}, {id: "a", json: []byte(a)}}},
		"no id":                  {map[string]string{"x.json": `{"client":"acme"}`}, []document{{json: []byte(`{"client":"acme"}`), problem: "id is missing"}}},
		"an id that is no text":  {map[string]string{"x.json": `{"id":7}`}, []document{{json: []byte(`{"id":7}`), problem: "not an object with an id that is a text"}}},
		"no object":              {map[string]string{"x.json": `7`}, []document{{json: []byte(`7`), problem: "not an object with an id that is a text"}}},
		"two of them without id": {map[string]string{"x.json": `[{},{}]`}, []document{{json: []byte(`{}`), problem: "id is missing"}, {json: []byte(`{}`), problem: "id is missing"}}},
		"YAML": {map[string]string{"x.yaml": asYAML}, []document{{id: "a", json: []byte(
			`{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00Z","ends_at":null,"limits":[{"id":"traffic","meter":"bytes_out","limit":"0010","thresholds":["80%","100%"]}]}`)}}},
		"a list in YAML":      {map[string]string{"x.yml": "- {id: a, client: acme}\n- {id: b, client: acme}\n"}, []document{{id: "a", json: []byte(a)}, {id: "b", json: []byte(b)}}},
		"many YAML documents": {map[string]string{"x.yml": "id: a\nclient: acme\n---\nid: b\nclient: acme\n"}, []document{{id: "a", json: []byte(a)}, {id: "b", json: []byte(b)}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			list, err := readDocuments([]string{dirOf(t, tt.files)})
			require.NoError(t, err)
			require.Equal(t, tt.want, list)
		})
	}
}

func TestReadDocumentsFails(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		files map[string]string
		want  string
	}{
		"the same id twice":         {map[string]string{"x.json": `{"id":"a"}`, "y.yaml": "id: a"}, "contract a is in "},
		"nothing to read":           {map[string]string{"x.txt": "a"}, "no .json, .yaml or .yml file"},
		"JSON that breaks off":      {map[string]string{"x.json": `{"id":`}, "x.json: "},
		"a list that breaks off":    {map[string]string{"x.json": `[{"id":"a"}`}, "x.json: "},
		"a file without anything":   {map[string]string{"x.json": ``}, "x.json: "},
		"YAML that is none":         {map[string]string{"x.yaml": "a: [b"}, "x.yaml: "},
		"two contracts in a row":    {map[string]string{"x.json": `{"id":"a"}{"id":"b"}`}, "x.json: "},
		"YAML with the same key":    {map[string]string{"x.yaml": "id: a\nid: b\n"}, "x.yaml: "},
		"a reference to nothing":    {map[string]string{"x.yaml": "id: *a\n"}, "x.yaml: "},
		"what JSON has no form for": {map[string]string{"x.yaml": "id: a\nlimit: .nan\n"}, "x.yaml: "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			_, err := readDocuments([]string{dirOf(t, tt.files)})
			require.ErrorContains(t, err, tt.want)
		})
	}
	_, err := readDocuments([]string{"/no/such"})
	require.ErrorContains(t, err, "no such file")
}

func TestDifferences(t *testing.T) {
	t.Parallel()

	const base = `{"id":"a","client":"acme","limits":[{"id":"l","limit":"100","thresholds":["80%"]},{"id":"m","limit":"5"}]}`
	tests := map[string]struct {
		to   string
		want []string
	}{
		"the same":                  {base, nil},
		"another order of keys":     {`{"limits":[{"limit":"100","id":"l","thresholds":["80%"]},{"id":"m","limit":"5"}],"client":"acme","id":"a"}`, nil},
		"an end that is none":       {`{"id":"a","client":"acme","ends_at":null,"limits":[{"id":"l","limit":"100","thresholds":["80%"]},{"id":"m","limit":"5"}]}`, nil},
		"another limit":             {`{"id":"a","client":"acme","limits":[{"id":"l","limit":"200","thresholds":["80%"]},{"id":"m","limit":"5"}]}`, []string{`limits[l].limit: "100" -> "200"`}},
		"another order of limits":   {`{"id":"a","client":"acme","limits":[{"id":"m","limit":"5"},{"id":"l","limit":"100","thresholds":["80%"]}]}`, []string{`limits: "in this order" -> "in another"`}},
		"a limit that is gone":      {`{"id":"a","client":"acme","limits":[{"id":"l","limit":"100","thresholds":["80%"]}]}`, []string{`limits[m].id: "m" -> (none)`, `limits[m].limit: "5" -> (none)`}},
		"no limits":                 {`{"id":"a","client":"acme","limits":[]}`, []string{`limits[l].id: "l" -> (none)`, `limits[l].limit: "100" -> (none)`, `limits[l].thresholds: ["80%"] -> (none)`, `limits[m].id: "m" -> (none)`, `limits[m].limit: "5" -> (none)`}},
		"a threshold and an end":    {`{"id":"a","client":"acme","ends_at":"2027-01-01T00:00:00Z","limits":[{"id":"l","limit":"100","thresholds":["80%","90%"]},{"id":"m","limit":"5"}]}`, []string{`ends_at: (none) -> "2027-01-01T00:00:00Z"`, `limits[l].thresholds: ["80%"] -> ["80%","90%"]`}},
		"a client and its equals":   {`{"id":"a","client":"<zoe>","limits":[{"id":"l","limit":"100","thresholds":["80%"]},{"id":"m","limit":"5"}]}`, []string{`client: "acme" -> "<zoe>"`}},
		"a number instead of text":  {`{"id":"a","client":"acme","limits":[{"id":"l","limit":100,"thresholds":["80%"]},{"id":"m","limit":"5"}]}`, []string{`limits[l].limit: "100" -> 100`}},
		"where there was something": {`{"id":"a","client":"acme","limits":[{"id":"l","limit":"100","thresholds":["80%"],"where":{"x":"y"}},{"id":"m","limit":"5"}]}`, []string{`limits[l].where.x: (none) -> "y"`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			list, err := differences([]byte(base), []byte(tt.to))
			require.NoError(t, err)
			var lines []string
			for _, d := range list {
				lines = append(lines, d.String())
			}
			require.Equal(t, tt.want, lines)
		})
	}
}

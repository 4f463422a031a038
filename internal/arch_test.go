package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/meterd/meterd/"

// imports is the design's table of packages: for each the packages of ours
// that it may import. A new package gets its line here, with thought.
var imports = map[string][]string{
	"internal/usage":     {},
	"internal/contracts": {"usage"},
	"internal/alerts":    {"usage", "contracts"},
	"internal/aggregate": {"usage", "contracts", "alerts"},
	"internal/model":     {"usage", "contracts", "alerts"}, // of tests alone: it is held against aggregate
	"internal/schema":    {"usage", "contracts", "alerts", "aggregate"},
	"internal/failpoint": {},
	"internal/store":     {"usage", "failpoint"},
	"internal/druid":     {"usage"},
	"internal/kafka":     {"failpoint"},
	"internal/ingest":    {"usage", "contracts", "alerts", "aggregate", "schema", "kafka", "failpoint"},
	"internal/feed":      {"alerts"},
	"internal/envoy":     {},
	"internal/httpapi":   {"usage", "contracts", "alerts", "aggregate", "feed"},
	"internal/condition": {"usage"},
	"internal/config":    {"usage", "condition"},
	"internal/verify":    {"usage", "contracts", "alerts", "aggregate", "schema", "kafka", "config"}, // of aggregate the record types alone
	"internal/loadgen":   {"usage", "schema", "kafka"},
	"internal/app":       {"usage", "contracts", "alerts", "aggregate", "schema", "store", "druid", "kafka", "ingest", "feed", "httpapi", "envoy", "config"},
	"internal/demo":      {"usage", "contracts", "alerts", "schema", "kafka", "config", "app"},
	"internal/scenario":  {"usage", "contracts", "alerts", "aggregate", "schema", "kafka", "ingest", "config", "app"}, // for tests alone
	"client":             {},
	"cmd/meterd":         anything,
	"bench":              {"schema", "bench/contender", "bench/host", "bench/load", "bench/report"},
	"bench/contender":    {"aggregate", "schema", "bench/load"}, // of aggregate the record types alone
	"bench/host":         {},
	"bench/load":         {"usage", "schema", "kafka", "loadgen"}, // of kafka the partitioner alone
	"bench/report":       {},
	"test/integration":   {},

	"test/faults":         {"test/faults/broker", "test/faults/harness", "test/faults/planted"},
	"test/faults/broker":  {},
	"test/faults/harness": {"failpoint", "loadgen", "demo", "test/faults/proxy"},
	"test/faults/planted": {},
	"test/faults/proxy":   {},
}

// anything stands for all packages of ours.
var anything = []string{"*"}

// strangers never import one another, not even in tests: whoever uses one of
// them declares the interface that it needs, and app passes the concrete type.
var strangers = []string{"store", "druid", "kafka", "httpapi"}

// outside says which parts of the tree may import a library that only one
// package is to know. Directories count with all below them.
var outside = []struct {
	library string
	except  string   // a part of the library that is free for all
	where   []string // the parts of our tree that may import it
	tests   bool     // whether tests anywhere may
	only    string   // completes "but only …" in the complaint
}{
	{library: "github.com/IBM/sarama", where: []string{"internal/kafka"}, only: "internal/kafka speaks Kafka"},
	{library: "github.com/dgraph-io/badger", where: []string{"internal/store"}, only: "internal/store knows Badger"},
	{
		library: "github.com/twmb/franz-go", except: "github.com/twmb/franz-go/pkg/sr", where: []string{"internal/demo", "internal/scenario", "bench", "test/faults"}, tests: true,
		only: "tests, internal/scenario, internal/demo and bench use another client than the product's",
	},
	{library: "github.com/expr-lang/expr", where: []string{"internal/condition"}, only: "internal/condition knows the language of conditions"},
	{library: "github.com/stretchr/testify", tests: true, only: "tests assert"},
}

// TestArchitecture holds the table above for every Go file of the module.
func TestArchitecture(t *testing.T) {
	t.Parallel()

	packages := parseModule(t, os.DirFS(".."))
	require.NotEmpty(t, packages)
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			require.Empty(t, complaints(dir, packages[dir]))
		})
	}
}

// TestComplaints shows that each rule is able to fail.
func TestComplaints(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		dir, name, source string
		want              string
	}{
		"what the table allows":                {dir: "internal/alerts", source: `import "github.com/meterd/meterd/internal/usage"`},
		"what the table does not allow":        {dir: "internal/usage", source: `import "github.com/meterd/meterd/internal/alerts"`, want: "imports internal/alerts, which is not in its line"},
		"a package that is not in the table":   {dir: "internal/util", want: "is not in the table"},
		"a test may import more":               {dir: "internal/usage", name: "a_test.go", source: `import "github.com/meterd/meterd/internal/alerts"`},
		"but strangers stay strangers":         {dir: "internal/store", name: "a_test.go", source: `import "github.com/meterd/meterd/internal/kafka"`, want: "imports internal/kafka"},
		"sarama in its place":                  {dir: "internal/kafka", source: `import "github.com/IBM/sarama"`},
		"sarama elsewhere":                     {dir: "internal/ingest", source: `import "github.com/IBM/sarama"`, want: "imports github.com/IBM/sarama"},
		"sarama in a test elsewhere":           {dir: "internal/ingest", name: "a_test.go", source: `import "github.com/IBM/sarama"`, want: "imports github.com/IBM/sarama"},
		"badger elsewhere":                     {dir: "internal/app", source: `import "github.com/dgraph-io/badger/v4"`, want: "imports github.com/dgraph-io/badger/v4"},
		"the registry's client":                {dir: "internal/schema", source: `import "github.com/twmb/franz-go/pkg/sr"`},
		"the in-memory broker in a test":       {dir: "internal/kafka", name: "a_test.go", source: `import "github.com/twmb/franz-go/pkg/kfake"`},
		"the in-memory broker in the product":  {dir: "internal/app", source: `import "github.com/twmb/franz-go/pkg/kfake"`, want: "imports github.com/twmb/franz-go/pkg/kfake"},
		"testify in the product":               {dir: "internal/app", source: `import "github.com/stretchr/testify/require"`, want: "imports github.com/stretchr/testify/require"},
		"a library whose name only begins so":  {dir: "internal/app", source: `import "github.com/IBM/sarama-tools"`},
		"an integration test imports anything": {dir: "test/crash", name: "a_test.go", source: `import "github.com/meterd/meterd/internal/app"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			if tt.name == "" {
				tt.name = "a.go"
			}
			file, err := parser.ParseFile(token.NewFileSet(), tt.name, "// Package p is there.\npackage p\n"+tt.source, parser.ParseComments)
			require.NoError(t, err)
			got := complaints(tt.dir, map[string]*ast.File{tt.name: file})
			if tt.want == "" {
				require.Empty(t, got)
				return
			}
			require.Len(t, got, 1)
			require.Contains(t, got[0], tt.want)
		})
	}
}

// TestPackageComments shows that none is too few and two are too many.
func TestPackageComments(t *testing.T) {
	t.Parallel()

	parse := func(source string) *ast.File {
		file, err := parser.ParseFile(token.NewFileSet(), "", source, parser.ParseComments)
		require.NoError(t, err)
		return file
	}
	with, without := parse("// Package usage is.\npackage usage"), parse("package usage")
	require.Empty(t, complaints("internal/usage", map[string]*ast.File{"a.go": with, "b.go": without}))
	require.Len(t, complaints("internal/usage", map[string]*ast.File{"a.go": without}), 1)
	require.Len(t, complaints("internal/usage", map[string]*ast.File{"a.go": with, "b.go": with}), 1)
	require.Empty(t, complaints("internal/usage", map[string]*ast.File{"a_test.go": without}), "a directory with tests alone")
}

// parseModule reads every Go file of the module, by directory and then by
// name. Directories with a go.mod of their own are other modules.
func parseModule(t *testing.T, root fs.FS) map[string]map[string]*ast.File {
	t.Helper()

	packages := map[string]map[string]*ast.File{}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && notOurs(root, name):
			return fs.SkipDir
		case entry.IsDir() || path.Ext(name) != ".go":
			return nil
		}
		source, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ParseComments)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		if packages[dir] == nil {
			packages[dir] = map[string]*ast.File{}
		}
		packages[dir][path.Base(name)] = file
		return nil
	})
	require.NoError(t, err)
	return packages
}

func notOurs(root fs.FS, dir string) bool {
	base := path.Base(dir)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" {
		return true
	}
	_, err := fs.Stat(root, path.Join(dir, "go.mod"))
	return err == nil
}

// complaints returns what is wrong with the package in dir, by the rules above.
func complaints(dir string, files map[string]*ast.File) []string {
	var wrong []string
	comments, sources := 0, 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		file, isTest := files[name], strings.HasSuffix(name, "_test.go")
		if !isTest {
			sources++
			if file.Doc != nil {
				comments++
			}
		}
		for _, spec := range file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value) // the parser has read it before us
			if why := forbidden(dir, imported, isTest); why != "" {
				wrong = append(wrong, path.Join(dir, name)+" imports "+why)
			}
		}
	}
	if _, known := imports[dir]; !known && sources > 0 {
		wrong = append(wrong, dir+" is not in the table of packages in internal/arch_test.go")
	}
	if sources > 0 && comments != 1 {
		wrong = append(wrong, dir+" has "+strconv.Itoa(comments)+" package comments, not exactly one")
	}
	return wrong
}

// forbidden says why dir must not import imported, or "" if it may.
func forbidden(dir, imported string, isTest bool) string {
	if ours, ok := strings.CutPrefix(imported, module); ok {
		return forbiddenOfOurs(dir, ours, isTest)
	}
	for _, rule := range outside {
		free := within(imported, rule.except) || isTest && rule.tests
		if within(imported, rule.library) && !free && !slices.ContainsFunc(rule.where, func(at string) bool { return within(dir, at) }) {
			return imported + ", but only " + rule.only
		}
	}
	return ""
}

func forbiddenOfOurs(dir, ours string, isTest bool) string {
	from, to := strings.TrimPrefix(dir, "internal/"), strings.TrimPrefix(ours, "internal/")
	allowed := imports[dir]
	switch {
	case from == to, slices.Contains(allowed, to), slices.Equal(allowed, anything):
		return ""
	case slices.Contains(strangers, from) && slices.Contains(strangers, to):
		return ours + ": strangers never meet, declare the interface that is needed"
	case isTest:
		return ""
	}
	return ours + ", which is not in its line of the table in internal/arch_test.go"
}

// within reports whether name is parent or below it.
func within(name, parent string) bool {
	return parent != "" && (name == parent || strings.HasPrefix(name, parent+"/"))
}

package scenario

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/config"
)

// Document is a text with scenarios in it, and the configuration that they
// share.
type Document struct {
	Config    string // YAML
	Scenarios []*Scenario
}

var (
	heading = regexp.MustCompile(`^#+ (R\d+)\b`)
	// tableRow is a row of two columns, the second of which is a scenario on one
	// line.
	tableRow = regexp.MustCompile("^\\| (.+?) \\| `(.+)` \\|$")
)

// Blocks of the document that mean something, by the words behind the fence.
const (
	configBlock   = "yaml"          // the first of them is the configuration
	scenarioBlock = "scenario"      //
	rowsBlock     = "scenario rows" // what each row of the tables that follow begins with
)

// Open reads the document at path. Scenarios stand in blocks, and in tables
// whose second column is code, with semicolons between the steps; the rule of
// each is that of the nearest heading above it.
func Open(path string) (*Document, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open document: %w", err)
	}
	r := reader{document: &Document{}}
	for i, text := range strings.Split(string(content), "\n") {
		if err := r.line(text, i+1); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
	}
	if r.open {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), bad("the block of line %d has no end", r.begin))
	}
	return r.document, nil
}

// reader reads a document line by line.
type reader struct {
	document *Document
	rule     string
	rows     string // what rows begin with

	block string // the kind of block that is open, "" for none
	begin int
	lines []string
	open  bool
}

func (r *reader) line(text string, number int) error {
	fence, isFence := strings.CutPrefix(text, "```")
	switch {
	case isFence && !r.open:
		r.open, r.block, r.begin, r.lines = true, strings.TrimSpace(fence), number+1, nil
		return nil
	case isFence:
		r.open = false
		return r.close()
	case r.open:
		r.lines = append(r.lines, text)
		return nil
	}
	if found := heading.FindStringSubmatch(text); found != nil {
		r.rule = found[1]
	} else if strings.HasPrefix(text, "#") {
		r.rule = ""
	}
	if found := tableRow.FindStringSubmatch(text); found != nil && r.rows != "" {
		return r.add(r.rows+"\n"+strings.Join(steps(found[2]), "\n"), number-strings.Count(r.rows, "\n")-1, found[1])
	}
	return nil
}

// steps splits at semicolons.
func steps(row string) []string {
	return strings.Split(row, "; ")
}

func (r *reader) close() error {
	text := strings.Join(r.lines, "\n")
	switch r.block {
	case configBlock:
		if r.document.Config == "" {
			r.document.Config = text
		}
	case rowsBlock:
		r.rows = text
	case scenarioBlock:
		return r.add(text, r.begin, "")
	}
	return nil
}

func (r *reader) add(text string, line int, name string) error {
	s, err := Parse(text, line)
	if err != nil {
		return err
	}
	s.Rule = r.rule
	if name != "" {
		s.Name = name
	}
	if s.Name == "" {
		return bad("line %d: a scenario begins with # and its name", line)
	}
	r.document.Scenarios = append(r.document.Scenarios, s)
	return nil
}

// Load returns the configuration that s runs by: the document's, and what s
// has otherwise, with records as JSON; more goes before both. The file is
// written to dir.
func (d *Document) Load(s *Scenario, dir string, more map[string]string) (*config.Config, error) {
	path := filepath.Join(dir, "meterd.yaml")
	if err := os.WriteFile(path, []byte(d.Config), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	keys := map[string]string{
		"kafka.brokers": "127.0.0.1:9092", "usage.format": "json", "limit_events.format": "json",
	}
	maps.Copy(keys, s.Config)
	maps.Copy(keys, more)
	cfg, err := config.Load(path, nil, keys)
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", s.Line, err)
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("line %d: %w", s.Line, err)
	}
	return cfg, nil
}

// Settings returns what s has otherwise than the document, as one text: those
// with the same settings can share a daemon.
func (s *Scenario) Settings() string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(s.Config)) {
		fmt.Fprintf(&b, "%s: %s\n", key, s.Config[key])
	}
	return b.String()
}

// BySettings returns the scenarios that can be played through Kafka, by their
// Settings.
func (d *Document) BySettings() map[string][]*Scenario {
	sets := map[string][]*Scenario{}
	for _, s := range d.Scenarios {
		if s.CatchesUp() {
			sets[s.Settings()] = append(sets[s.Settings()], s)
		}
	}
	return sets
}

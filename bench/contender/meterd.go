package contender

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/meterd/meterd/bench/load"
	"github.com/meterd/meterd/internal/aggregate"
	"github.com/meterd/meterd/internal/schema"
)

// Meterd is meterd with its defaults: exactly once, with dedupe, changelog and
// state on disk.
type Meterd struct {
	Binary   string
	NoDedupe bool
	Label    string // a name other than the default

	changelog *schema.ChangelogDecoder
}

// Name is as in the interface.
func (m *Meterd) Name() string {
	switch {
	case m.Label != "":
		return m.Label
	case m.NoDedupe:
		return "meterd, no dedupe"
	}
	return "meterd"
}

// Once is as in the interface.
func (m *Meterd) Once() bool { return !m.NoDedupe }

func (m *Meterd) config(w Work) string { return filepath.Clean(w.Dir) + ".yaml" }

// Prepare writes the configuration, and has meterd make its topics.
func (m *Meterd) Prepare(ctx context.Context, w Work) error {
	m.changelog = &schema.ChangelogDecoder{}
	var text strings.Builder
	fmt.Fprintf(&text, "application_id: %s\nkafka: {brokers: [%q]}\nschema_registry: {url: %q}\n", w.Group, w.Brokers, w.Registry)
	fmt.Fprintf(&text, "usage: {topic: %s", w.Usage)
	if m.NoDedupe {
		text.WriteString(", dedupe_window: 0")
	}
	fmt.Fprintf(&text, "}\nschedule: {period: year}\ncontracts: {topic: %s}\nlimit_events: {format: json}\nmeters:\n", w.Contracts)
	for _, name := range load.Names[:w.Meters] {
		fmt.Fprintf(&text, "  - {name: %s, aggregation: sum}\n", name)
	}
	fmt.Fprintf(&text, "state: {dir: %q}\nhttp: {listen: %q}\n", w.Dir, w.HTTP)
	if err := os.WriteFile(m.config(w), []byte(text.String()), 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, m.Binary, "topics", "create", "--config", m.config(w)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("meterd topics create: %w: %s", err, out)
	}
	return nil
}

// Command is as in the interface.
func (m *Meterd) Command(w Work) (args, env []string) {
	return []string{m.Binary, "run", "--config", m.config(w)}, nil
}

// ReadyURL is as in the interface.
func (m *Meterd) ReadyURL(w Work) string { return "http://" + w.HTTP + "/readyz" }

// Topics is as in the interface.
func (m *Meterd) Topics(w Work) Topics {
	changelog := w.Group + ".changelog"
	return Topics{
		Totals: changelog, Changelogs: []string{changelog},
		LimitEvents: w.Group + ".limit-events", DeadLetters: w.Group + ".dead-letter", Others: []string{w.Group + ".limit-state"},
	}
}

// Total is as in the interface.
func (m *Meterd) Total(seen *load.Seen, key, value []byte) error {
	if len(value) == 0 {
		return nil
	}
	record, err := m.changelog.Decode(key, value)
	if err != nil {
		return fmt.Errorf("changelog: %w", err)
	}
	if c, ok := record.(*aggregate.CounterRecord); ok {
		seen.Total(c.Client, c.Meter, int64(c.Total), c.Events)
	}
	return nil
}

// Crossed is as in the interface.
func (m *Meterd) Crossed(value []byte, fn func(client, meter, threshold string)) error {
	var e struct {
		Kind, Client, Meter string
		Thresholds          []struct{ Threshold string }
	}
	if err := json.Unmarshal(value, &e); err != nil {
		return fmt.Errorf("limit event: %w", err)
	}
	if e.Kind != "crossed" {
		return fmt.Errorf("limit event: of the kind %q, which nothing in the load is a cause of", e.Kind)
	}
	for _, t := range e.Thresholds {
		fn(e.Client, e.Meter, t.Threshold)
	}
	return nil
}

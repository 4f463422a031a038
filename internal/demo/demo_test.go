package demo

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meterd/meterd/internal/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is a demonstration that does not mind what else the machine does.
func small() Config {
	cfg := Default()
	cfg.Rate, cfg.Clients, cfg.Duration, cfg.Listen = 1000, 60, patience, "127.0.0.1:0"
	return cfg
}

// patience is how long a demonstration plays that does not show what a test
// waits for.
const patience = 30 * time.Second

// watched is a buffer that interrupts the demonstration when all of some
// patterns have been seen in it.
type watched struct {
	bytes.Buffer
	interrupt context.CancelFunc
	patterns  []*regexp.Regexp
}

func watch(interrupt context.CancelFunc, patterns ...string) *watched {
	w := &watched{interrupt: interrupt}
	for _, p := range patterns {
		w.patterns = append(w.patterns, regexp.MustCompile(p))
	}
	return w
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	w.patterns = slices.DeleteFunc(w.patterns, func(p *regexp.Regexp) bool { return p.Match(w.Bytes()) })
	if len(w.patterns) == 0 {
		w.interrupt()
	}
	return n, err
}

func TestDemonstrationIsRight(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	bySeed := `\n\d\d:\d\d:\d\d\.\d{3} crossed 50%.* by seed\n` // history has passed thresholds
	byUsage := `\n\d\d:\d\d:\d\d\.\d{3} crossed .* by usage in \d+ ms\n`
	acme := `\nacme +api_calls +hour +[\d,]+ +[\d,]+ +[\d.]+% █+░* (warned|blocked)\n`
	out := watch(interrupt, bySeed, byUsage, acme)
	require.NoError(t, Run(ctx, small(), out), out.String())

	shown := out.String()
	require.Regexp(t, bySeed, shown)
	require.Regexp(t, byUsage, shown)
	require.Regexp(t, acme, shown)
	require.Regexp(t, `\nCLIENT +METER +PER +USAGE +LIMIT +USED +STATE\n`, shown)
	require.Regexp(t, `\ncurl http://127\.0\.0\.1:\d+/readyz\?verbose\n`, shown)
	require.Regexp(t, `\nup \d+s · [\d,]+ counted · `, shown)
	require.Regexp(t, `\nplayed for [\d.]+s: [\d,]+ usage events produced, [\d,]+ of them twice; 30,000 more were in history before\n`, shown)
	require.Regexp(t, `\nchecked: all \d+ totals of 60 clients are what was produced, and every limit event was told once\n$`, shown)
	require.NotContains(t, shown, "error")

	left, err := os.ReadDir(os.TempDir()) //nolint:usetesting // the directory that the demo uses is looked at
	require.NoError(t, err)
	require.Empty(t, left, "nothing is left behind")
}

func TestDemonstrationOnATerminal(t *testing.T) {
	cfg := small()
	cfg.Duration, cfg.Color = 0, true
	cfg.Size = func() (int, int) { return 100, 40 }
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := watch(interrupt, `\x1b\[\d+A\r`, `\x1b\[33m.*crossed`) // drawn anew, and a limit event
	require.NoError(t, Run(ctx, cfg, out), out.String())

	shown := out.String()
	require.Equal(t, 1, strings.Count(shown, hideCursor))
	require.True(t, strings.HasSuffix(shown, showCursor), "the cursor is back")
	require.NotContains(t, shown, clearAll, "what was on the terminal before stays")
	require.Contains(t, shown, "checked: all ")
}

func TestInterruptedBeforeItPlays(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	var out bytes.Buffer
	require.NoError(t, Run(ctx, small(), &out))
	require.NotContains(t, out.String(), "checked")
}

func TestSmallestDemonstration(t *testing.T) {
	cfg := small()
	cfg.Clients, cfg.Rate, cfg.Duration = 1, 1, 50*time.Millisecond
	var out bytes.Buffer
	require.NoError(t, Run(t.Context(), cfg, &out), out.String())
	require.Regexp(t, `checked: all \d totals of 1 clients`, out.String())
}

// Most clients have used nothing since meterd began to count: what they used
// before is looked up when it is asked for.
func TestDemonstrationThatEndsAtOnce(t *testing.T) {
	cfg := small()
	cfg.Clients, cfg.Duration = 300, 20*time.Millisecond
	var out bytes.Buffer
	require.NoError(t, Run(t.Context(), cfg, &out), out.String())
	require.Regexp(t, `checked: all \d+ totals of 300 clients`, out.String())
}

func TestAddressInUseIsAnError(t *testing.T) {
	cfg := small()
	cfg.Listen = "127.0.0.1:1" // where nobody but root may listen, or nobody at all
	if os.Geteuid() == 0 {
		cfg.Listen = "192.0.2.1:0" // of no interface
	}
	err := Run(t.Context(), cfg, &bytes.Buffer{})
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrMismatch)
}

func TestConfigIsChecked(t *testing.T) {
	cfg := Config{Rate: 0, Clients: -1, Duration: -time.Second}
	err := Run(t.Context(), cfg, &bytes.Buffer{})
	require.EqualError(t, err, "rate: 0 is not between 1 and 50000\nclients: -1 is not between 1 and 5000\nduration: -1s is negative")
	cfg = Default()
	require.NoError(t, cfg.Validate())
}

func TestUsualAddressIsTakenOnlyWhenFree(t *testing.T) {
	given, err := freeAddress(t.Context(), "127.0.0.1:7")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:7", given)
	chosen, err := freeAddress(t.Context(), "")
	require.NoError(t, err)
	require.Regexp(t, `^127\.0\.0\.1:(8080|0)$`, chosen)
}

// The schema of the traffic is the one that the configuration's defaults read.
func TestUsageSchemaIsTheOneOfTheProject(t *testing.T) {
	require.JSONEq(t, schema.UsageEventSchema, usageSchema)
}

package demo

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// view is what the display knows at one time.
type view struct {
	title   string
	entries []entry
	status  status
	urls    []string
}

// screen is where all is shown. Any goroutine may use it.
type screen interface {
	Say(text string)      // a line that stays
	Event(l line)         // a line of what happens
	Show(v *view)         // the present, in place of the one before
	Every() time.Duration // how often to Show
	Close()               // leaves the terminal as it was
}

func newScreen(cfg *Config, out io.Writer) screen {
	if cfg.Size == nil {
		return &paper{out: out}
	}
	return &terminal{out: out, size: cfg.Size, color: cfg.Color}
}

// paper is a screen that can only be written on line after line.
type paper struct {
	mu      sync.Mutex // guards out, and that a view's lines stay together
	out     io.Writer
	greeted bool
}

const paperWidth = 100

func (p *paper) Say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, text)
}

func (p *paper) Event(l line) { p.Say(l.text) }

func (p *paper) Show(v *view) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b bytes.Buffer
	if !p.greeted {
		p.greeted = true
		fmt.Fprintln(&b, v.title)
		for _, u := range v.urls {
			fmt.Fprintln(&b, u)
		}
	}
	b.WriteString("\n")
	for _, l := range table(v.entries, paperWidth) {
		fmt.Fprintln(&b, l.text)
	}
	fmt.Fprintf(&b, "%s\n\n", v.status.line().text)
	_, _ = b.WriteTo(p.out) // a pipe that is gone: there is nobody left to tell
}

func (p *paper) Every() time.Duration { return 2 * time.Second }

func (p *paper) Close() {}

// terminal is a screen that is drawn in place, at the end of what was there
// before.
type terminal struct {
	out   io.Writer
	size  func() (width, height int)
	color bool

	mu            sync.Mutex // guards all below, and out
	events        []line     // the latest, oldest first
	drawn         int        // lines that the next view replaces
	width, height int        // when they were drawn
	hidden        bool       // the cursor
}

const (
	maxEvents  = 100
	showCursor = "\x1b[?25h"
	hideCursor = "\x1b[?25l"
	clearAll   = "\x1b[2J\x1b[H"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
)

// Say writes below what is drawn, which stays as it is.
func (t *terminal) Say(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drawn = 0
	fmt.Fprint(t.out, "\r"+text+clearLine+"\r\n")
}

// Event is seen with the next view.
func (t *terminal) Event(l line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, l)
	t.events = t.events[max(0, len(t.events)-maxEvents):]
}

// Show draws v over the view before.
func (t *terminal) Show(v *view) {
	t.mu.Lock()
	defer t.mu.Unlock()
	width, height := t.size()
	width, height = max(width, 20), max(height, 5)
	lines := compose(v, t.events, width-1, height-1)
	var b bytes.Buffer
	switch {
	case !t.hidden:
		t.hidden = true
		for _, u := range untold(v.urls, lines) {
			b.WriteString("\r" + u + clearLine + "\r\n") // above, where they can be scrolled back to
		}
		b.WriteString(hideCursor)
	case t.drawn > 0 && (width != t.width || height != t.height):
		b.WriteString(clearAll) // what was drawn has moved
		t.drawn = 0
	}
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r", t.drawn)
	}
	for _, l := range lines {
		b.WriteString(t.toned(l) + clearLine + "\r\n")
	}
	b.WriteString(clearBelow)
	t.drawn, t.width, t.height = len(lines), width, height
	_, _ = b.WriteTo(t.out) // a terminal that is gone: there is nobody left to tell
}

func (t *terminal) toned(l line) string {
	if !t.color || l.tone == plain {
		return l.text
	}
	return string(l.tone) + l.text + untoned
}

func (t *terminal) Every() time.Duration { return 250 * time.Millisecond }

func (t *terminal) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hidden {
		fmt.Fprint(t.out, showCursor)
	}
}

// untold returns urls unless all of them are among lines.
func untold(urls []string, lines []line) []string {
	for _, u := range urls {
		if !slices.ContainsFunc(lines, func(l line) bool { return l.text == u }) {
			return urls
		}
	}
	return nil
}

// compose returns the lines of a view, at most width by height. With less room
// there are fewer limit events, then one address only, then fewer rows of the
// table, but a few limit events as long as there is any room.
func compose(v *view, events []line, width, height int) []line {
	const around = 6 // title, heading of the table, status, address, and two between them
	few := min(height/4, 6)
	rows := table(v.entries, width)
	rows = rows[:min(len(rows), max(1, height-around-few-1))]
	lines := append([]line{{text: v.title, tone: bold}, {}}, rows...)
	left := height - len(lines) - 2
	shown := v.urls
	if left < len(shown)+few+2 {
		shown = shown[:min(1, len(shown))]
	}
	left -= len(shown)
	if n := min(left-2, len(v.entries)+3); n > 0 {
		lines = append(lines, line{}, line{text: "limit events, as a subscriber reads them", tone: bold})
		latest := events[max(0, len(events)-n):]
		lines = append(lines, latest...)
		lines = append(lines, make([]line, n-len(latest))...)
	}
	lines = append(lines, line{}, v.status.line())
	for _, u := range shown {
		lines = append(lines, line{text: u, tone: dim})
	}
	for i := range lines {
		lines[i].text = fit(lines[i].text, width)
	}
	return lines[:min(len(lines), height)]
}

// newLog returns a logger whose warnings and errors are lines on s.
func newLog(s screen) *zap.Logger {
	encoder := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{
		MessageKey: "message", LevelKey: "level", NameKey: "name", TimeKey: "time",
		EncodeTime: zapcore.TimeEncoderOfLayout("15:04:05.000"), EncodeLevel: zapcore.LowercaseLevelEncoder,
		ConsoleSeparator: " ",
	})
	return zap.New(zapcore.NewCore(encoder, eventWriter{s}, zapcore.WarnLevel))
}

// eventWriter shows each thing that is written to it as an event.
type eventWriter struct{ screen screen }

func (w eventWriter) Write(p []byte) (int, error) {
	w.screen.Event(line{text: string(bytes.TrimSpace(p)), tone: dim})
	return len(p), nil
}

func (w eventWriter) Sync() error { return nil }

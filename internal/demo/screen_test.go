package demo

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

func someView() *view {
	return &view{title: "meterd demo", entries: entries(), urls: []string{"curl http://a/1", "curl http://a/2"}}
}

func someEvents(n int) []line {
	var list []line
	for i := range n {
		list = append(list, line{text: fmt.Sprintf("event %d", i), tone: warn})
	}
	return list
}

func TestComposeOnATerminalWithRoom(t *testing.T) {
	want := `
meterd demo

CLIENT      METER     PER           USAGE         LIMIT    USED        STATE
ember       api_calls day              20            10  200.0% ██████ over
acme        api_calls hour          3,378         3,378  100.0% ██████ blocked
cobalt      api_calls day           2,300         2,785   82.6% ████░░ warned
client-wit… bytes_out day       8,061,165    13,797,468   58.4% ███░░░ ok
fjord       api_calls day               0            10    0.0% ░░░░░░ seeding
dune        bytes_out hour             -5            10  -50.0% ░░░░░░ ok

limit events, as a subscriber reads them
event 3
event 4
event 5
event 6
event 7
event 8
event 9
event 10
event 11

up 0s · 0 counted · 0/s · lag 0 · 0 transactions/s · 0 limit events · 0 dupli…
curl http://a/1
curl http://a/2
`
	require.Equal(t, strings.TrimPrefix(want, "\n"), text(compose(someView(), someEvents(12), 78, 40)))
}

func TestComposeWithLittleRoom(t *testing.T) {
	want := `
meterd demo

CLIENT      METER     PER           USAGE         LIMIT    USED        STATE
ember       api_calls day              20            10  200.0% ██████ over
acme        api_calls hour          3,378         3,378  100.0% ██████ blocked

limit events, as a subscriber reads them
event 9
event 10
event 11

up 0s · 0 counted · 0/s · lag 0 · 0 transactions/s · 0 limit events · 0 dupli…
curl http://a/1
`
	require.Equal(t, strings.TrimPrefix(want, "\n"), text(compose(someView(), someEvents(12), 78, 13)))
}

func TestComposeNeverLeavesTheTerminal(t *testing.T) {
	for _, events := range []int{0, 1, 50} {
		for width := 19; width < 130; width += 3 {
			for height := 4; height < 60; height++ {
				lines := compose(someView(), someEvents(events), width, height)
				require.LessOrEqual(t, len(lines), height)
				for _, l := range lines {
					require.LessOrEqual(t, utf8.RuneCountInString(l.text), width, l.text)
				}
			}
		}
	}
}

func TestTerminalDrawsInPlace(t *testing.T) {
	var out bytes.Buffer
	width, height := 80, 30
	s := newScreen(&Config{Size: func() (int, int) { return width, height }, Color: true}, &out)
	s.Say("starting")
	require.Equal(t, "\rstarting\x1b[K\r\n", out.String())

	out.Reset()
	s.Event(line{text: "first", tone: warn})
	s.Show(someView())
	drawn := strings.Count(out.String(), "\r\n")
	require.True(t, strings.HasPrefix(out.String(), hideCursor+"\x1b[1mmeterd demo\x1b[0m\x1b[K\r\n"), out.String())
	require.Contains(t, out.String(), "\x1b[33mfirst\x1b[0m\x1b[K\r\n")
	require.True(t, strings.HasSuffix(out.String(), clearBelow))

	out.Reset()
	s.Show(someView())
	require.True(t, strings.HasPrefix(out.String(), fmt.Sprintf("\x1b[%dA\r", drawn)), "over what was drawn")
	require.Equal(t, drawn, strings.Count(out.String(), "\r\n"))

	out.Reset()
	width = 60
	s.Show(someView())
	require.True(t, strings.HasPrefix(out.String(), clearAll), "another size is a new start")

	out.Reset()
	s.Say("the end")
	s.Close()
	require.Equal(t, "\rthe end\x1b[K\r\n"+showCursor, out.String())
}

// A small terminal has all addresses above what is drawn, and one in it.
func TestSmallTerminalTellsAddresses(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&Config{Size: func() (int, int) { return 80, 14 }}, &out)
	s.Show(someView())
	require.True(t, strings.HasPrefix(out.String(), "\rcurl http://a/1\x1b[K\r\n\rcurl http://a/2\x1b[K\r\n"+hideCursor), out.String())
	require.Equal(t, 2, strings.Count(out.String(), "curl http://a/1"))

	out.Reset()
	s.Show(someView())
	require.Equal(t, 1, strings.Count(out.String(), "curl http://a/1"), "drawn in place")
	require.NotContains(t, out.String(), "curl http://a/2")
}

func TestTerminalWithoutColors(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&Config{Size: func() (int, int) { return 0, 0 }}, &out)
	s.Show(someView())
	require.NotContains(t, out.String(), "\x1b[1m")
	require.Contains(t, out.String(), "meterd demo")
	s.Close()

	out.Reset()
	newScreen(&Config{Size: func() (int, int) { return 80, 24 }}, &out).Close()
	require.Empty(t, out.String(), "nothing was changed, nothing is restored")
}

func TestPaper(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&Config{}, &out)
	s.Event(line{text: "first", tone: warn})
	s.Show(someView())
	s.Show(someView())
	s.Close()
	shown := out.String()
	require.True(t, strings.HasPrefix(shown, "first\nmeterd demo\ncurl http://a/1\ncurl http://a/2\n\nCLIENT "), shown)
	require.Equal(t, 1, strings.Count(shown, "curl http://a/2"), "addresses are told once")
	require.Equal(t, 2, strings.Count(shown, "\nacme  "))
	require.NotContains(t, shown, "\x1b")
}

func TestOnlyWarningsAreShown(t *testing.T) {
	var out bytes.Buffer
	log := newLog(newScreen(&Config{}, &out)).Named("kafka")
	log.Info("of no interest")
	log.Warn("connection lost", zap.Int("broker", 1))
	require.Regexp(t, `^\d\d:\d\d:\d\d\.\d{3} warn kafka connection lost \{"broker": 1\}\n$`, out.String())
}

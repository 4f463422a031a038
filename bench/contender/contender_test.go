package contender_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/bench/contender"
	"github.com/meterd/meterd/bench/load"
	"github.com/meterd/meterd/internal/config"
)

// program is a contender that is any command.
type program struct {
	contender.Meterd
	args []string
}

func (p *program) Command(contender.Work) (args, env []string) { return p.args, []string{"WORD=here"} }

func TestProcess(t *testing.T) {
	t.Parallel()

	w := contender.Work{Dir: filepath.Join(t.TempDir(), "state"), Core: -1}
	p, err := contender.Start(&program{args: []string{"sh", "-c", "echo $WORD; exec sleep 600"}}, w)
	require.NoError(t, err)
	require.NoError(t, p.Ended())
	require.NoError(t, p.Stop())
	require.ErrorContains(t, p.Ended(), "ended early")

	p, err = contender.Start(&program{args: []string{"sh", "-c", "echo $WORD; exit 3"}}, w)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return p.Ended() != nil }, 10*time.Second, 10*time.Millisecond)
	require.ErrorContains(t, p.Ended(), "exit status 3")
	require.ErrorContains(t, p.Ended(), "here", "the end of what it has printed")

	_, err = contender.Start(&program{args: []string{"/no/such/program"}}, w)
	require.Error(t, err)
}

func TestKafkaStreamsResults(t *testing.T) {
	t.Parallel()

	l := load.NewLedger(load.Shape{Events: 1, Clients: 1, Meters: 1, Partitions: 1, Clean: true})
	k := &contender.KafkaStreams{}
	require.Equal(t, "Kafka Streams", k.Name())
	value := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 7), 1)
	require.NoError(t, k.Total(l.NewSeen(), []byte(l.Client(0)+"|"+load.Names[0]), append(value, 0)))
	require.Error(t, k.Total(l.NewSeen(), []byte("no meter"), value))
	require.Error(t, k.Total(l.NewSeen(), []byte("a|b"), value[:9]))
	require.Equal(t, []string{"a b 80"}, crossed(t, k, `{"client_id":"a","meter":"b","threshold":80,"limit":10}`))
	require.Error(t, k.Crossed([]byte("{"), func(string, string, string) {}))
	require.Len(t, (&contender.KafkaStreams{Dedupe: true}).Topics(contender.Work{Group: "g"}).Changelogs, 2)
}

func TestMeterdResults(t *testing.T) {
	t.Parallel()

	m := &contender.Meterd{}
	require.Equal(t, []string{"a b 50%", "a b 80%"},
		crossed(t, m, `{"kind":"crossed","client":"a","meter":"b","thresholds":[{"threshold":"50%"},{"threshold":"80%"}],"contract":"c"}`))
	require.Error(t, m.Crossed([]byte(`{"kind":"cleared"}`), func(string, string, string) {}))
}

// TestMeterdConfiguration shows that meterd takes what is written for it, and
// that dedupe is on unless it is not to be.
func TestMeterdConfiguration(t *testing.T) {
	t.Parallel()

	for _, without := range []bool{false, true} {
		dir := t.TempDir()
		w := contender.Work{
			Brokers: "127.0.0.1:1", Registry: "http://127.0.0.1:2", Usage: "usage", Contracts: "contracts", Meters: 8, Group: "g",
			Dir: filepath.Join(dir, "g"), HTTP: "127.0.0.1:3",
		}
		m := &contender.Meterd{Binary: "true", NoDedupe: without}
		require.NoError(t, m.Prepare(t.Context(), w))
		content, err := os.ReadFile(filepath.Join(dir, "g.yaml"))
		require.NoError(t, err)
		cfg, err := config.Load(filepath.Join(dir, "g.yaml"), nil, nil)
		require.NoError(t, err, "%s", content)
		require.NoError(t, cfg.Validate())
		require.Equal(t, without, cfg.Usage.DedupeWindow.Duration() == 0)
		require.Equal(t, !without, m.Once())
	}
}

func crossed(t *testing.T, c contender.Contender, value string) (list []string) {
	t.Helper()

	require.NoError(t, c.Crossed([]byte(value), func(client, meter, threshold string) {
		list = append(list, strings.Join([]string{client, meter, threshold}, " "))
	}))
	return list
}

package host

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseStat(t *testing.T) {
	t.Parallel()

	s, ok := parseStat([]byte("1234 (a) name) S 1 77 77 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1 1 1\n"))
	require.True(t, ok)
	require.Equal(t, stat{group: 77, cpu: 3 * time.Second}, s)
	_, ok = parseStat([]byte("1234 (gone) Z 1 77 77 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1 1 1\n"))
	require.False(t, ok, "what is dead uses nothing")
	_, ok = parseStat(nil)
	require.False(t, ok)
}

func TestParseMachine(t *testing.T) {
	t.Parallel()

	m := parseMachine([]byte("cpu  100 10 50 10000 500 4 6 30 0 0\ncpu0 1 1 1 1\n"))
	require.Equal(t, Machine{Busy: 1700 * time.Millisecond, Stolen: 300 * time.Millisecond}, m)
	require.Zero(t, parseMachine(nil))
}

func TestDescriptions(t *testing.T) {
	t.Parallel()

	require.Equal(t, "Fast: 3 GHz", model([]byte("processor\t: 0\nmodel name\t: Fast: 3 GHz\n")))
	require.Equal(t, "an unnamed processor", model(nil))
	require.Equal(t, int64(1234), kibibytes([]byte("Name:\tx\nVmHWM:\t    1234 kB\n"), "VmHWM:"))
	require.Zero(t, kibibytes([]byte("VmHWM:\n"), "VmHWM:"))
}

func TestSelf(t *testing.T) {
	t.Parallel()

	require.Positive(t, Memory())
	require.Positive(t, Now().Busy)
	require.Positive(t, peak(os.Getpid()))
	require.Positive(t, Speed())
	require.Zero(t, CPU(-1))
}

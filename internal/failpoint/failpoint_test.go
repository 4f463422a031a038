//go:build failpoints

package failpoint_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/failpoint"
)

// A process dies at the point that is named, at the time that is named, once.
func TestDeathAtAPoint(t *testing.T) {
	if os.Getenv("FAILPOINTS") != "" { // we are the process
		for range 2 {
			failpoint.Hit("other")
			failpoint.Hit("here")
		}
		if _, err := os.Stat(os.Getenv("FAILPOINTS")); err == nil {
			failpoint.Hit("here")
		}
		return
	}
	path := filepath.Join(t.TempDir(), "points")
	run := func() error {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", t.Name())
		cmd.Env = append(os.Environ(), "FAILPOINTS="+path)
		return cmd.Run()
	}
	require.NoError(t, run(), "nothing is armed")
	require.NoError(t, os.WriteFile(path, []byte("here kill 3\n"), 0o600))
	var died *exec.ExitError
	require.ErrorAs(t, run(), &died)
	require.Equal(t, syscall.SIGKILL, died.Sys().(syscall.WaitStatus).Signal())
	require.NoFileExists(t, path)
	require.NoError(t, run(), "once")
}

func TestNowIsTheTime(t *testing.T) {
	require.WithinDuration(t, time.Now(), failpoint.Now(), time.Minute)
}

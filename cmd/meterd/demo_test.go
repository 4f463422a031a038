package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// runDemo runs the command alone, and returns its error and what was printed.
func runDemo(t *testing.T, args ...string) (printed string, err error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newDemoCommand(&environment{stdout: &out, stderr: &out})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestDemoRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	_, err := runDemo(t, "--rate=0")
	var exit exitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, exitUsage, exit.code)
	require.EqualError(t, err, "rate: 0 is not between 1 and 50000")
}

func TestDemoWritesLinesWhereThereIsNoTerminal(t *testing.T) {
	t.Parallel()
	printed, err := runDemo(t, "--duration=500ms", "--rate=200", "--clients=20")
	require.NoError(t, err, printed)
	require.Contains(t, printed, "checked: all ")
	require.NotContains(t, printed, "\x1b")
}

func TestTerminalSize(t *testing.T) {
	t.Parallel()
	file, err := os.Create(t.TempDir() + "/out")
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	require.Nil(t, terminalSize(file, "xterm"), "a file is no terminal")
	require.Nil(t, terminalSize(&bytes.Buffer{}, "xterm"))
	require.Nil(t, terminalSize(os.Stdout, "dumb"))
}

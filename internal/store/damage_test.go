package store_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/store"
)

// TestMain lets the test binary be the process that is to die.
func TestMain(m *testing.M) {
	switch dir := os.Getenv("METERD_TEST_STORE"); os.Getenv("METERD_TEST_CHILD") {
	case "inspect":
		inspectAll(dir)
	case "apply":
		applyForEver(dir)
	default:
		os.Exit(m.Run())
	}
}

// child is this binary in another role, on dir.
func child(t *testing.T, role, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "METERD_TEST_CHILD="+role, "METERD_TEST_STORE="+dir)
	return cmd
}

const damagedPartitions = 3

// TestDamage changes one file of a store at random, many times, and demands
// that what is read then is either a state that was once written, under its own
// marker, or ErrCorrupt; and that no damage outlives two openings and Destroy.
func TestDamage(t *testing.T) {
	t.Parallel()

	seeds := 100
	if s := os.Getenv("METERD_TEST_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		seeds = n
	}
	closed, killed := t.TempDir(), t.TempDir()
	history := writeHistory(t, closed, killed)
	work := t.TempDir()
	what := make([]string, seeds)
	for i := range seeds {
		random := rand.New(rand.NewPCG(uint64(i), 7))
		from := []string{closed, killed}[i%2]
		dir := filepath.Join(work, fmt.Sprintf("%05d", i))
		require.NoError(t, os.CopyFS(dir, os.DirFS(from)))
		what[i] = damage(t, random, dir)
	}
	outcomes := map[string]int{}
	for i, answers := range inspect(t, work, seeds) {
		for partition, answer := range answers {
			outcomes[verdict(t, history, partition, answer, fmt.Sprintf("seed %d, %s", i, what[i]))]++
		}
	}
	t.Logf("%d damaged stores, partitions by outcome: %v", seeds, outcomes)
	require.Positive(t, outcomes["corrupt"])
	require.Positive(t, outcomes["written"])
}

// writeHistory fills a store in closed and leaves in killed a copy from before
// it was closed. It returns every state a partition was in, by its marker.
func writeHistory(t *testing.T, closed, killed string) map[string]string {
	t.Helper()
	s, err := store.OpenSmall(store.Config{Dir: closed}, identity(), 100)
	require.NoError(t, err)
	history, state := map[string]string{}, make([]map[string]string, damagedPartitions)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 120 {
		if round%40 == 39 { // what was in logs goes into tables
			require.NoError(t, s.Close())
			s, err = store.OpenSmall(store.Config{Dir: closed}, identity(), 100)
			require.NoError(t, err)
		}
		partition := round % damagedPartitions
		if state[partition] == nil {
			state[partition] = map[string]string{}
		}
		var entries []store.Entry
		for range 300 {
			e := store.Entry{Key: strconv.Itoa(random.IntN(2000))}
			if random.IntN(10) > 0 {
				e.Value = fmt.Appendf(nil, "%d-%0*d", round, 20+random.IntN(80), random.Int64())
				state[partition][e.Key] = string(e.Value)
			} else {
				delete(state[partition], e.Key)
			}
			entries = append(entries, e)
		}
		m := store.Marker{Changelog: int64(round), Position: int64(round) * 10}
		require.NoError(t, s.Apply(int32(partition), entries, m))
		history[fmt.Sprintf("%d %d", partition, m.Changelog)] = rendered(state[partition])
	}
	copyLive(t, killed, closed)
	require.NoError(t, s.Close())
	return history
}

// copyLive copies the files of an open store as a kill would leave them, the
// manifest first: tables that come later are then removed as if unfinished.
func copyLive(t *testing.T, to, from string) {
	t.Helper()
	require.Eventually(t, func() bool {
		require.NoError(t, os.RemoveAll(to))
		before, err := os.ReadFile(filepath.Join(from, "counters", "MANIFEST"))
		require.NoError(t, err)
		err = os.CopyFS(to, os.DirFS(from))
		after, readErr := os.ReadFile(filepath.Join(from, "counters", "MANIFEST"))
		require.NoError(t, readErr)
		return err == nil && bytes.Equal(before, after) // else a compaction got between
	}, time.Minute, 10*time.Millisecond)
}

// damage does one of the things that happen to files, and says which.
func damage(t *testing.T, random *rand.Rand, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "counters", "*"))
	require.NoError(t, err)
	names = append(names, filepath.Join(dir, "meterd.store"))
	name := names[random.IntN(len(names))]
	content, err := os.ReadFile(name)
	require.NoError(t, err)
	used := max(1, len(bytes.TrimRight(content, "\x00"))) // logs are mostly holes
	at := random.IntN(min(used+20, max(1, len(content))))
	how := random.IntN(5)
	text := fmt.Sprintf("%s of %d (%d) bytes, damage %d at %d", filepath.Base(name), len(content), used, how, at)
	switch {
	case how == 0:
		require.NoError(t, os.Remove(name))
		return text
	case len(content) == 0:
		content = []byte{1}
	case how == 1:
		content = content[:at]
	case how == 2:
		for i := at; i < min(at+512, len(content)); i++ {
			content[i] = 0
		}
	case how == 3:
		for i := at; i < min(at+16, len(content)); i++ {
			content[i] = byte(random.Uint32())
		}
	default:
		content[at] ^= 1 << random.IntN(8)
	}
	require.NoError(t, os.WriteFile(name, content, 0o600))
	return text
}

// inspect opens each store below work in another process, again when that dies
// of it, and returns what it said of each partition.
func inspect(t *testing.T, work string, stores int) [][]string {
	t.Helper()
	answers, deaths := make([][]string, 0, stores), map[int]int{}
	for len(answers) < stores {
		before := len(answers)
		cmd := child(t, "inspect", work)
		cmd.Env = append(cmd.Env, "METERD_TEST_FIRST="+strconv.Itoa(before))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		lines := bufio.NewScanner(bytes.NewReader(out))
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			if answer, ok := strings.CutSuffix(lines.Text(), "\t."); ok {
				answers = append(answers, strings.Split(answer, "\t"))
			}
		}
		require.NoError(t, lines.Err())
		if err == nil {
			require.Len(t, answers, stores)
			break
		}
		deaths[len(answers)]++
		t.Logf("store %d: the process died (%d): %v\n%.600s", len(answers), deaths[len(answers)], err, stderr.String())
		require.LessOrEqual(t, deaths[len(answers)], 2, "a store that kills every process that opens it")
	}
	return answers
}

// inspectAll prints a line for each store below work, from the first one asked
// for on, and makes sure that it can be made anew.
func inspectAll(work string) {
	dirs, err := os.ReadDir(work)
	first, atoiErr := strconv.Atoi(os.Getenv("METERD_TEST_FIRST"))
	if err := errors.Join(err, atoiErr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, dir := range dirs[first:] {
		dir := filepath.Join(work, dir.Name())
		answer := inspectOne(dir)
		if err := errors.Join(store.Destroy(dir), usable(dir), os.RemoveAll(filepath.Join(dir, "counters"))); err != nil {
			answer = "cannot be made anew: " + err.Error()
		}
		fmt.Println(answer + "\t.")
	}
}

func inspectOne(dir string) string {
	s, err := store.OpenSmall(store.Config{Dir: dir}, identity(), 100)
	if errors.Is(err, store.ErrCorrupt) {
		return strings.Repeat("corrupt\t", damagedPartitions-1) + "corrupt"
	}
	if err != nil {
		return "open: " + err.Error()
	}
	var answers []string
	for partition := range int32(damagedPartitions) {
		found := map[string]string{}
		m, ok, err := s.Load(partition, func(key string, value []byte) error {
			found[key] = string(value)
			return nil
		})
		switch {
		case errors.Is(err, store.ErrCorrupt):
			answers = append(answers, "corrupt")
			err = errors.Join(s.Wipe(partition), s.Apply(partition, numbered(50, 1), store.Marker{Changelog: 1}))
			if n, loadErr := count(s, partition); err != nil || loadErr != nil || n != 50 {
				answers[partition] = fmt.Sprintf("of no use after a wipe: %d, %v, %v", n, err, loadErr)
			}
		case err != nil:
			answers = append(answers, "load: "+err.Error())
		case !ok:
			answers = append(answers, "nothing")
		default:
			answers = append(answers, fmt.Sprintf("%d %d=%s", partition, m.Changelog, rendered(found)))
		}
	}
	if err := s.Close(); err != nil {
		return "close: " + err.Error()
	}
	return strings.Join(answers, "\t")
}

func usable(dir string) error {
	s, err := store.OpenSmall(store.Config{Dir: dir}, identity(), 100)
	if err != nil {
		return err
	}
	err = s.Apply(0, numbered(50, 1), store.Marker{Changelog: 1})
	n, loadErr := count(s, 0)
	if n != 50 {
		loadErr = errors.Join(loadErr, fmt.Errorf("%d entries instead of 50", n))
	}
	return errors.Join(err, loadErr, s.Close())
}

func count(s *store.Store, partition int32) (n int, err error) {
	_, _, err = s.Load(partition, func(string, []byte) error { n++; return nil })
	return n, err
}

// verdict fails the test on an answer that must not be, and names the others.
func verdict(t *testing.T, history map[string]string, partition int, answer, what string) string {
	t.Helper()
	if answer == "corrupt" || answer == "nothing" {
		return answer
	}
	marker, found, ok := strings.Cut(answer, "=")
	require.True(t, ok, "%s: %.300s", what, answer)
	require.True(t, strings.HasPrefix(marker, strconv.Itoa(partition)+" "), what)
	require.Equal(t, history[marker], found, what)
	return "written"
}

func rendered(state map[string]string) string {
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(state)) {
		fmt.Fprintf(&text, "%s:%s,", key, state[key])
	}
	return text.String()
}

// TestKill kills a process that applies batches of several transactions, at
// random, many times over, and demands that each entry is at least as new as
// the marker and that nothing is taken for damaged.
func TestKill(t *testing.T) { // not parallel: a child holds the locks of others between fork and exec

	dir, random := t.TempDir(), rand.New(rand.NewPCG(3, 4))
	reached := int64(-1)
	for range 8 {
		cmd := child(t, "apply", dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewReader(out)
		for range 1 + random.IntN(6) {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			round, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
			require.NoError(t, err)
			reached = round
		}
		require.NoError(t, cmd.Process.Kill())
		rest, err := io.ReadAll(lines)
		require.NoError(t, err)
		if said := strings.Fields(string(rest)); len(said) > 0 && bytes.HasSuffix(rest, []byte("\n")) {
			reached, err = strconv.ParseInt(said[len(said)-1], 10, 64)
			require.NoError(t, err)
		}
		require.Error(t, cmd.Wait())

		s, err := store.OpenSmall(store.Config{Dir: dir}, identity(), 1000)
		require.NoError(t, err)
		found, m, ok := contents(t, s, 0)
		require.True(t, ok)
		require.GreaterOrEqual(t, m.Changelog, reached, "what Apply has returned from is kept")
		require.LessOrEqual(t, m.Changelog, reached+1)
		require.Len(t, found, killEntries)
		for key, value := range found {
			round, err := strconv.ParseInt(strings.TrimRight(value, "x"), 10, 64)
			require.NoError(t, err)
			require.GreaterOrEqual(t, round, m.Changelog, key)
		}
		require.NoError(t, s.Close())
	}
}

const killEntries = 5000 // some transactions of a small store

// applyForEver writes a round of entries after the other and prints each that
// is done.
func applyForEver(dir string) {
	s, err := store.OpenSmall(store.Config{Dir: dir}, identity(), 1000)
	var m store.Marker
	if err == nil {
		m, _, err = s.Load(0, func(string, []byte) error { return nil })
	}
	for round := m.Changelog + 1; err == nil; round++ {
		err = s.Apply(0, numbered(killEntries, int(round)), store.Marker{Changelog: round})
		fmt.Println(round)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

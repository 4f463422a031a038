package druid_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/druid"
	"github.com/meterd/meterd/internal/usage"
)

// Two answers of a topic with gaps in its offsets, below boundary 10: all eight
// rows, and two of them missing.
const (
	gaps = `[[null,"m",7,0,9,31,7,5,6,0,7,7.0,1,1],["a","m",1,3,3,3,1,5,5,0,4,4.0,4,4]]`
	less = `[[null,"m",5,0,9,21,5,5,6,0,5,5.0,1,1],["a","m",1,3,3,3,1,5,5,0,4,4.0,4,4]]`
	many = `[[null,"m",10,0,9,31,10,5,6,0,10,10.0,1,1],["a","m",1,3,3,3,1,5,5,0,4,4.0,4,4]]`

	published = `{"payload":{"dataSource":"usage","state":"RUNNING","activeTasks":[{"id":"t1","startingOffsets":{"0":12,"1":3}}],"publishingTasks":[{"id":"t0","startingOffsets":{"0":10}}]}}`
	available = `{"usage":0}`
)

func gapped() druid.Question {
	return druid.Question{Boundary: 10, Start: usage.MinTime, End: usage.MaxTime, Clients: []string{"a"}}
}

// stage is a Druid whose answer and state the test changes as it goes.
type stage struct {
	fake
	body atomic.Value // string
	now  time.Time
}

func newStage(t *testing.T, change func(*druid.Config)) (*stage, *druid.Seeder) {
	t.Helper()
	st := &stage{now: time.Unix(1795328000, 0)}
	st.t, st.supervisor, st.unavailable = t, published, available
	st.body.Store(gaps)
	st.groupBy = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, st.body.Load().(string)) }
	s := newSeeder(t, "http://druid", through(&st.fake), func() time.Time { return st.now }, func(c *druid.Config) {
		c.Supervisor = "usage"
		if change != nil {
			change(c)
		}
	})
	return st, s
}

func TestGapsAreProvenByTwoEqualReadings(t *testing.T) {
	t.Parallel()

	st, s := newStage(t, nil)
	incomplete := func(says string) {
		t.Helper()
		totals, err := s.Ask(t.Context(), gapped())
		require.ErrorIs(t, err, druid.ErrIncomplete)
		require.ErrorContains(t, err, says)
		require.Empty(t, totals)
	}
	exact := func() {
		t.Helper()
		totals, err := s.Ask(t.Context(), gapped())
		require.NoError(t, err)
		require.Equal(t, usage.DecimalOf(4), totals[0].Quantity)
	}
	incomplete("nobody looked beforehand")
	incomplete("a second equal reading is needed")
	incomplete("15s after the first")
	st.now = st.now.Add(15 * time.Second)
	exact()

	paths := len(st.paths)
	exact()
	require.Len(t, st.paths, paths+1, "what is proven needs no status pages")

	st.body.Store(less)
	incomplete("6 rows")
	st.supervisor = ""
	st.body.Store(gaps)
	exact()
}

func TestGapsAreNotProvenByReadingsThatDiffer(t *testing.T) {
	t.Parallel()

	st, s := newStage(t, nil)
	for _, body := range []string{gaps, gaps, less, gaps, less} {
		st.body.Store(body)
		_, err := s.Ask(t.Context(), gapped())
		require.ErrorIs(t, err, druid.ErrIncomplete)
		st.now = st.now.Add(time.Minute)
	}
}

func TestRetentionIsProvenAnew(t *testing.T) {
	t.Parallel()

	st, s := newStage(t, nil)
	ask := func() error {
		_, err := s.Ask(t.Context(), gapped())
		st.now = st.now.Add(time.Minute)
		return err
	}
	require.Error(t, ask())
	require.Error(t, ask())
	require.NoError(t, ask())
	st.body.Store(less)
	require.Error(t, ask())
	require.Error(t, ask())
	require.NoError(t, ask())
}

func TestGapsAreNotProvenWhileDruidIsUnsettled(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		change func(*stage)
		says   string
	}{
		"unpublished rows of an active task": {func(s *stage) { s.supervisor = strings.Replace(published, `"0":12`, `"0":9`, 1) }, "task t1 holds rows from offset 9"},
		"a task that still publishes":        {func(s *stage) { s.supervisor = strings.Replace(published, `"0":10`, `"0":4`, 1) }, "task t0 holds rows from offset 4"},
		"no task reads the partition":        {func(s *stage) { s.supervisor = strings.ReplaceAll(published, `"0":`, `"2":`) }, "no task reads partition 0"},
		"several topics":                     {func(s *stage) { s.supervisor = strings.ReplaceAll(published, `"0":`, `"usage:0":`) }, "no task reads partition 0"},
		"no tasks":                           {func(s *stage) { s.supervisor = `{"payload":{"dataSource":"usage","state":"RUNNING"}}` }, "no task reads partition 0"},
		"a supervisor that does not run":     {func(s *stage) { s.supervisor = strings.Replace(published, "RUNNING", "UNHEALTHY_TASKS", 1) }, `supervisor is "UNHEALTHY_TASKS"`},
		"another datasource's supervisor":    {func(s *stage) { s.supervisor = strings.Replace(published, `"usage"`, `"other"`, 1) }, `fills datasource "other"`},
		"no such supervisor":                 {func(s *stage) { s.supervisor = "" }, "ask supervisor: druid: status 404"},
		"a supervisor's HTML page":           {func(s *stage) { s.supervisor = "<html>" }, "ask supervisor: read answer"},
		"unavailable segments":               {func(s *stage) { s.unavailable = `{"usage":9}` }, "9 segments are not available"},
		"a datasource nobody knows":          {func(s *stage) { s.unavailable = `{}` }, "no load status"},
		"no coordinator":                     {func(s *stage) { s.unavailable = "" }, "ask coordinator: druid: status 404"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			st, s := newStage(t, nil)
			tt.change(st)
			for range 5 {
				_, err := s.Ask(t.Context(), gapped())
				require.ErrorIs(t, err, druid.ErrIncomplete)
				st.now = st.now.Add(time.Minute)
			}
			_, err := s.Ask(t.Context(), gapped())
			require.ErrorContains(t, err, tt.says)
		})
	}
}

func TestAnUnsettledMomentStartsTheProofAgain(t *testing.T) {
	t.Parallel()

	st, s := newStage(t, nil)
	ask := func() error {
		_, err := s.Ask(t.Context(), gapped())
		st.now = st.now.Add(time.Minute)
		return err
	}
	require.Error(t, ask())
	require.Error(t, ask(), "the first reading")
	st.unavailable = `{"usage":1}`
	require.Error(t, ask(), "forgets it")
	st.unavailable = available
	require.Error(t, ask(), "the first reading again")
	require.NoError(t, ask())
}

func TestGapsAreNeverProven(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		body   string
		change func(*druid.Config)
		says   string
	}{
		"without a supervisor":              {gaps, func(c *druid.Config) { c.Supervisor = "" }, "no supervisor is configured"},
		"where there are more than offsets": {many, nil, "in history twice"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			st, s := newStage(t, tt.change)
			st.body.Store(tt.body)
			for range 5 {
				_, err := s.Ask(t.Context(), gapped())
				require.ErrorIs(t, err, druid.ErrIncomplete)
				require.ErrorContains(t, err, tt.says)
				st.now = st.now.Add(time.Minute)
			}
		})
	}
}

func TestRunProvesGapsByItself(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		f := &fake{t: t, supervisor: published, unavailable: available, groupBy: says(200, gaps, "true")}
		s := newSeeder(t, "http://druid", through(f), time.Now, func(c *druid.Config) { c.Supervisor = "usage" })
		sub := run(t, s)
		begin := time.Now()
		r := druid.Request{Boundary: 10, Start: usage.MinTime, End: usage.MaxTime, Client: "a"}
		require.Equal(t, 1, sub.Submit(r))
		got := until(sub, druid.Exact, 1)
		require.Equal(t, usage.DecimalOf(4), got[r].Totals[0].Quantity)
		require.GreaterOrEqual(t, time.Since(begin), 15*time.Second)
		require.Less(t, time.Since(begin), 2*time.Minute)
	})
}

func TestRecordedStatusProvesWhatItSays(t *testing.T) {
	t.Parallel()

	st, s := newStage(t, nil)
	st.supervisor, st.unavailable = recorded(t, "supervisor.json"), recorded(t, "loadstatus.json")
	ask := func() error {
		_, err := s.Ask(t.Context(), gapped())
		st.now = st.now.Add(time.Minute)
		return err
	}
	require.Error(t, ask())
	require.Error(t, ask())
	require.NoError(t, ask())
	st.unavailable = recorded(t, "loadstatus-lost.json")
	st.body.Store(less)
	require.Error(t, ask())
	require.ErrorContains(t, errors.Join(ask()), "8 segments are not available")
}

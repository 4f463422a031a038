package model_test

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/model"
	"github.com/meterd/meterd/internal/usage"
)

// TestRestartsChangeNothing demands of the model, and so of what TestHistories
// holds against it, that a life tells the same where meterd starts again after
// each of its inputs. It is about life without history: what is asked of that
// depends on restarts. Nor is it about limits on what lies beyond the bound of
// combinations: in a period that is cut, none counts that.
func TestRestartsChangeNothing(t *testing.T) {
	text := seedFlag().Value.String()
	base, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err)
	defer func() { require.NoError(t, seedFlag().Value.Set(text)) }()
	var sowing sync.Mutex
	for i := range max(1, histories(t)/checks(t)/20) {
		check(t, &sowing, base+uint64(i)*apart, restartless)
	}
}

func restartless(t *rapid.T) {
	h := &history{T: t}
	h.setUp()
	h.world.cfg.History = false
	list := h.transactions()
	for i, tx := range list {
		tx.restart, tx.fails, tx.again = i == 0, none, len(tx.inputs)
	}
	t.Log(story{h.world, list})
	for _, tx := range list {
		for _, v := range revisionsOf(tx) {
			if strings.Contains(string(v.value), usage.OverflowValue) {
				t.SkipNow()
			}
		}
	}
	var once, again []model.Input
	for _, in := range plan(list) {
		once, again = append(once, in), append(again, in, model.Input{At: in.At, Start: []model.Revision{}})
	}
	cfg := h.world.model(list[0].clock)
	events, results := whole(model.Replay(cfg, once))
	eventsAgain, resultsAgain := whole(model.Replay(cfg, again))
	require.Equal(t, events, eventsAgain)
	require.Equal(t, results, resultsAgain)
}

func revisionsOf(tx *transaction) []*revision {
	list := slices.Clone(tx.offline)
	for _, in := range tx.inputs {
		if in.revision != nil {
			list = append(list, in.revision)
		}
	}
	return list
}

// whole is what came of a life, whenever it was committed.
func whole(commits []model.Commit) (events []alerts.Event, results []model.Result) {
	for i := range commits {
		events, results = append(events, commits[i].Events...), append(results, commits[i].Results...)
	}
	return events, results
}

package model_test

import (
	"flag"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/model"
)

// TestHistories is the proof of the rules: whatever happens, what is committed
// is what the model says, and neither rollbacks nor restarts nor crashes make a
// difference. METERD_HISTORIES is how many lives are lived; a life that goes
// wrong is made shorter, and told with the seed that brings it back.
func TestHistories(t *testing.T) {
	t.Parallel()

	each := checks(t)
	for i := range (histories(t) + each - 1) / each {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, live)
		})
	}
}

// histories returns how many lives are to be lived.
func histories(t *testing.T) int {
	if text := os.Getenv("METERD_HISTORIES"); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err, "METERD_HISTORIES")
		return n
	}
	if testing.Short() || raceEnabled {
		return 3_000
	}
	return 100_000
}

// checks returns how many of them one rapid.Check lives: rapid's own flag, of
// which it takes a fifth in short runs.
func checks(t *testing.T) int {
	n, err := strconv.Atoi(flag.Lookup("rapid.checks").Value.String())
	require.NoError(t, err)
	if testing.Short() {
		n = max(1, n/5)
	}
	return n
}

func live(t *rapid.T) {
	h := &history{T: t}
	h.setUp()
	list := h.transactions()
	t.Log(story{h.world, list})
	commits := model.Replay(h.world.model(list[0].clock), plan(list))
	r := newRig(t, h.world.cfg, list[0].clock)
	for i, tx := range list {
		r.live(tx, i == 0)
		r.compare(&commits[i])
	}
}

// plan is the inputs of a life, as they come to count.
func plan(list []*transaction) (inputs []model.Input) {
	for _, tx := range list {
		first := tx.offline
		if tx.fails != none {
			for _, in := range tx.inputs {
				if in.revision != nil {
					first = append(first[:len(first):len(first)], in.revision)
				}
			}
		}
		if tx.restart || tx.fails == crashed {
			inputs = append(inputs, model.Input{At: tx.clock, Start: latest(first)})
		} else {
			for _, v := range first {
				inputs = revise(inputs, v, tx)
			}
		}
		for _, in := range tx.inputs[:tx.again] {
			switch {
			case in.revision == nil:
				inputs = append(inputs, in.Input)
			case tx.fails == none:
				inputs = revise(inputs, in.revision, tx)
			}
		}
		inputs = append(inputs, model.Input{At: tx.clock, Commit: true})
	}
	return inputs
}

func revise(inputs []model.Input, v *revision, tx *transaction) []model.Input {
	if v.bad {
		return inputs
	}
	return append(inputs, model.Input{At: tx.clock, Revision: &model.Revision{ID: v.id, Contract: v.parsed, Offset: v.offset}})
}

// latest is the last good revision of each contract.
func latest(list []*revision) []model.Revision {
	found := []model.Revision{}
	for i, v := range list {
		superseded := false
		for _, later := range list[i+1:] {
			superseded = superseded || later.id == v.id && !later.bad
		}
		if !superseded && !v.bad {
			found = append(found, model.Revision{ID: v.id, Contract: v.parsed, Offset: v.offset})
		}
	}
	return found
}

// live drives the State through a transaction, up to its commit.
func (r *rig) live(tx *transaction, first bool) {
	r.clock = tx.clock
	for _, v := range tx.offline {
		r.revise(v)
	}
	if tx.restart && !first {
		r.restart()
	}
	r.nothing() // the table as a whole, where it was restored
	for _, in := range tx.inputs {
		r.take(in)
	}
	if tx.fails != none {
		r.nothing()
		r.state.Changes(r.clock)
		switch tx.fails {
		case rolledBack:
			r.rollback()
		case crashed:
			r.restart()
		}
		for _, in := range tx.inputs[:tx.again] {
			if in.revision == nil {
				r.take(in)
			}
		}
	}
	r.commit()
}

package model_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/model"
)

// TestMain sets which lives are lived: the same ones on each run, so that a run
// that fails is somebody's change.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := sow(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// sow sets rapid's seed, unless its own flag has. METERD_SEED goes before the
// one that every run has.
func sow() error {
	if given() {
		return nil
	}
	text := os.Getenv("METERD_SEED")
	switch {
	case text == "random":
		text = strconv.FormatUint(rand.Uint64()|1, 10)
	case text == "" && seedFlag().DefValue != "0": // RAPID_SEED
		text = seedFlag().DefValue
	case text == "":
		text = "20261122"
	}
	if err := seedFlag().Value.Set(text); err != nil || seedFlag().Value.String() == "0" {
		return fmt.Errorf("METERD_SEED=%s: must be \"random\" or a number above 0", text)
	}
	return nil
}

func seedFlag() *flag.Flag { return flag.Lookup("rapid.seed") }

// given tells whether -rapid.seed is among the arguments.
func given() (yes bool) {
	flag.Visit(func(f *flag.Flag) { yes = yes || f.Name == "rapid.seed" && f.Value.String() != "0" })
	return yes
}

// TestHistories is the proof of the rules: whatever happens, what is committed
// is what the model says, and neither rollbacks nor restarts nor crashes make a
// difference. METERD_HISTORIES is how many lives are lived, 100,000 if it is not
// set. They are the same on each run. METERD_SEED=random draws others, and
// METERD_SEED with a number those of the run that told it. A life that goes
// wrong is made shorter, and told with the arguments that bring it back: with
// -rapid.seed, each subtest begins with the life of that seed.
func TestHistories(t *testing.T) {
	t.Parallel()

	text, step := seedFlag().Value.String(), uint64(apart)
	if given() {
		step = 0
	}
	base, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err)
	t.Logf("METERD_SEED=%s", text)
	t.Cleanup(func() { require.NoError(t, seedFlag().Value.Set(text)) })
	each := checks(t)
	var sowing sync.Mutex
	for i := range (histories(t) + each - 1) / each {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			check(t, &sowing, base+uint64(i)*step, live)
		})
	}
}

// apart is how far the seeds of two subtests lie from each other. Within one,
// rapid adds up small steps.
const apart = 1 << 40

// check is rapid.Check with a seed of its own. rapid reads its flag before the
// first life only; sowing is held until then.
func check(t *testing.T, sowing *sync.Mutex, seed uint64, live func(*rapid.T)) {
	t.Helper()
	sowing.Lock()
	read := sync.OnceFunc(sowing.Unlock)
	defer read()
	require.NoError(t, seedFlag().Value.Set(strconv.FormatUint(max(seed, 1), 10)))
	rapid.Check(t, func(r *rapid.T) {
		read()
		live(r)
	})
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
					first = append(slices.Clip(first), in.revision)
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

package aggregate_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/contracts"
)

// A preview says what the change then does, and does nothing itself.
func TestPreviewIsWhatHappens(t *testing.T) {
	r := newTestRig(t)
	r.put("c", "acme", "", limit("m", "100", ""))
	r.use(ev{qty: "85"})
	r.commit()
	r.use(ev{qty: "100"}) // not committed: of no interest

	next := `{"id":"c","client":"acme","starts_at":"2026-01-01T00:00:00Z","limits":[` + limit("m", "200", "") + `,` + limit("n", "10", `"period":"lifetime"`) + `]}`
	contract, err := contracts.Parse([]byte("c"), []byte(next), r.revision, r.cfg.Catalog)
	require.NoError(t, err)
	got, err := r.state.Preview("acme", "c", contract, r.revision, r.clock)
	require.NoError(t, err)
	require.False(t, got.Pending)
	lines := linesOf(got.Events)
	require.Equal(t, []string{"cleared c/m 2026-11 #2 [50%=50 80%=80] 85..85 [] contract"}, lines)

	r.state.Rollback()
	require.NoError(t, r.table.Apply([]byte("c"), []byte(next), r.revision))
	require.Equal(t, lines, r.commit())

	got, err = r.state.Preview("acme", "c", nil, r.revision+1, r.clock)
	require.NoError(t, err)
	require.Empty(t, got.Events, "nothing stands")
	other, err := r.state.Preview("nobody", "c", contract, r.revision+1, r.clock)
	require.NoError(t, err)
	require.Empty(t, other.Events)
}

// A contract that moves goes on with its numbers, and so does what is told of it
// beforehand.
func TestPreviewOfAMoveIsWhatHappens(t *testing.T) {
	r := newTestRig(t)
	r.put("c", "acme", "", limit("m", "100", ""))
	r.use(ev{qty: "60"})
	r.use(ev{client: "bolt", qty: "85"})
	r.commit()

	next := `{"id":"c","client":"bolt","starts_at":"2026-01-01T00:00:00Z","limits":[` + limit("m", "100", "") + `]}`
	contract, err := contracts.Parse([]byte("c"), []byte(next), r.revision, r.cfg.Catalog)
	require.NoError(t, err)
	var told []string
	for _, client := range []string{"acme", "bolt"} {
		got, err := r.state.Preview(client, "c", contract, r.revision, r.clock)
		require.NoError(t, err)
		told = append(told, linesOf(got.Events)...)
	}
	require.Equal(t, []string{
		"cleared c/m 2026-11 #2 [50%=50] 60..60 [] contract",
		"bolt crossed c/m 2026-11 #3 [50%=50 80%=80] 85..85 [50% 80%] contract",
	}, told)

	require.NoError(t, r.table.Apply([]byte("c"), []byte(next), r.revision))
	require.Equal(t, told, r.commit())
}

package contracts_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/meterd/meterd/internal/contracts"
)

// put is a contract of client that has one limit.
func put(id, client, limit string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"client":%q,"starts_at":"2026-01-01T00:00:00Z","ends_at":"2027-01-01T00:00:00Z",
		"limits":[{"id":"l","meter":"bytes_out","limit":%q}]}`, id, client, limit)
}

func table(t *testing.T) *contracts.Table {
	t.Helper()
	return contracts.NewTable(catalog(t))
}

func idsOf(list []*contracts.Contract) []string {
	ids := []string{}
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return ids
}

// step is a Change without its contracts' insides.
type step struct {
	client, id string
	ids        []string
	revision   int64
}

func stepsSince(t *testing.T, table *contracts.Table, version int64) []step {
	t.Helper()
	changes, ok := table.ChangesSince(version)
	require.True(t, ok)
	steps := []step{}
	for i, c := range changes {
		require.Equal(t, version+int64(i)+1, c.Version, "versions have no gaps")
		steps = append(steps, step{c.Client, c.ID, idsOf(c.Contracts), c.Revision})
	}
	return steps
}

func TestTableKeepsWhatIsInForce(t *testing.T) {
	t.Parallel()

	table := table(t)
	require.NoError(t, table.Apply([]byte("b"), put("b", "acme", "1"), 3))
	require.NoError(t, table.Apply([]byte("a"), put("a", "acme", "2"), 5))
	require.NoError(t, table.Apply([]byte("c"), put("c", "bolt", "3"), 6))

	require.Equal(t, []string{"a", "b"}, idsOf(table.Of("acme")))
	require.Equal(t, []string{"c"}, idsOf(table.Of("bolt")))
	require.Empty(t, table.Of("nobody"))
	clients, version, position := table.All()
	require.Equal(t, map[string][]*contracts.Contract{"acme": table.Of("acme"), "bolt": table.Of("bolt")}, clients)
	require.Equal(t, int64(7), position)
	require.Equal(t, int64(3), version)
	require.Equal(t, version, table.Version())
	require.Equal(t, int64(7), table.Position())
	require.Equal(t, []step{
		{"acme", "b", []string{"b"}, 3}, {"acme", "a", []string{"a", "b"}, 5}, {"bolt", "c", []string{"c"}, 6},
	}, stepsSince(t, table, 0))
	require.Equal(t, []step{{"bolt", "c", []string{"c"}, 6}}, stepsSince(t, table, 2))
	require.Empty(t, stepsSince(t, table, 3))
}

func TestTableReplacesARevision(t *testing.T) {
	t.Parallel()

	table := table(t)
	require.NoError(t, table.Apply([]byte("a"), put("a", "acme", "1"), 0))
	before := table.Of("acme")
	require.NoError(t, table.Apply([]byte("a"), put("a", "acme", "2"), 1))

	require.Len(t, table.Of("acme"), 1)
	require.EqualValues(t, 2, table.Of("acme")[0].Limits[0].Value)
	require.EqualValues(t, 1, table.Of("acme")[0].Revision)
	require.EqualValues(t, 1, before[0].Limits[0].Value, "what was handed out does not change")
	require.Equal(t, []step{{"acme", "a", []string{"a"}, 0}, {"acme", "a", []string{"a"}, 1}}, stepsSince(t, table, 0))
}

func TestTableKeepsTheLastGoodRevision(t *testing.T) {
	t.Parallel()

	table := table(t)
	require.NoError(t, table.Apply([]byte("a"), put("a", "acme", "1"), 0))
	bad := put("a", "acme", "0")
	err := table.Apply([]byte("a"), bad, 1)
	require.ErrorIs(t, err, contracts.ErrInvalid)

	require.EqualValues(t, 1, table.Of("acme")[0].Limits[0].Value)
	require.Len(t, stepsSince(t, table, 0), 1, "a bad revision changes nothing")
	require.Equal(t, int64(2), table.Position(), "but it was read")
	entry, ok := table.Entry("a")
	require.True(t, ok)
	require.Equal(t, contracts.Rejected, entry.State(instant(t, "2026-06-01T00:00:00Z")))
	require.EqualValues(t, 1, entry.Revision)
	require.EqualValues(t, 0, entry.Contract.Revision)
	require.Equal(t, bad, []byte(entry.Raw))
	require.Contains(t, entry.Reason, `limit: "0" is not greater than 0`)
	require.NotContains(t, entry.Reason, contracts.ErrInvalid.Error())

	require.NoError(t, table.Apply([]byte("a"), put("a", "acme", "5"), 2))
	entry, _ = table.Entry("a")
	require.Equal(t, contracts.Active, entry.State(instant(t, "2026-06-01T00:00:00Z")))
	require.Empty(t, entry.Reason)
	require.Nil(t, entry.Raw)
}

func TestTableListsWhatWasNeverGood(t *testing.T) {
	t.Parallel()

	table := table(t)
	require.Error(t, table.Apply([]byte("bad"), []byte(`{}`), 0))
	require.Error(t, table.Apply([]byte("empty"), []byte{}, 1))
	require.NoError(t, table.Apply([]byte("good"), put("good", "acme", "1"), 2))

	entries := table.Entries()
	require.Len(t, entries, 3)
	require.Equal(t, "bad", entries[0].ID)
	require.Nil(t, entries[0].Contract)
	require.Equal(t, contracts.Rejected, entries[0].State(0))
	require.Equal(t, "empty", entries[1].ID, "an empty value is a bad one and does not remove")
	require.Equal(t, "good", entries[2].ID)

	require.NoError(t, table.Apply([]byte("bad"), nil, 3))
	_, ok := table.Entry("bad")
	require.False(t, ok, "a null follows: no longer listed")
	require.Len(t, stepsSince(t, table, 0), 1)
}

func TestTableNullRemoves(t *testing.T) {
	t.Parallel()

	table := table(t)
	require.NoError(t, table.Apply([]byte("a"), put("a", "acme", "1"), 0))
	require.Error(t, table.Apply([]byte("a"), put("a", "acme", "0"), 1))
	require.NoError(t, table.Apply([]byte("a"), nil, 2))

	require.Empty(t, table.Of("acme"))
	clients, _, _ := table.All()
	require.Empty(t, clients)
	_, ok := table.Entry("a")
	require.False(t, ok)
	revision, ok := table.Removed("a")
	require.True(t, ok)
	require.EqualValues(t, 2, revision)
	require.Equal(t, []step{{"acme", "a", []string{"a"}, 0}, {"acme", "a", []string{}, 2}}, stepsSince(t, table, 0))

	require.NoError(t, table.Apply([]byte("a"), put("a", "acme", "1"), 3))
	_, ok = table.Removed("a")
	require.False(t, ok, "it is there again")
}

func TestTableMovesAContractInTwoSteps(t *testing.T) {
	t.Parallel()

	table := table(t)
	require.NoError(t, table.Apply([]byte("a"), put("a", "acme", "1"), 0))
	require.NoError(t, table.Apply([]byte("b"), put("b", "acme", "1"), 1))
	require.NoError(t, table.Apply([]byte("a"), put("a", "bolt", "1"), 2))

	require.Equal(t, []string{"b"}, idsOf(table.Of("acme")))
	require.Equal(t, []string{"a"}, idsOf(table.Of("bolt")))
	require.Equal(t, []step{{"acme", "a", []string{"b"}, 2}, {"bolt", "a", []string{"a"}, 2}}, stepsSince(t, table, 2))
}

func TestTableForgetsOldChanges(t *testing.T) {
	t.Parallel()

	const changes = 200_001 // one more than is ever kept
	table := table(t)
	value := []byte(`{"id":"a","client":"acme","starts_at":"2026-01-01T00:00:00Z"}`)
	for i := range int64(changes) {
		if i%2 == 0 {
			require.NoError(t, table.Apply([]byte("a"), value, i))
		} else {
			require.NoError(t, table.Apply([]byte("a"), nil, i))
		}
	}
	_, ok := table.ChangesSince(0)
	require.False(t, ok, "who is this far behind must start again from the whole")
	require.Len(t, stepsSince(t, table, changes-10), 10)
	require.EqualValues(t, changes, table.Version())
}

func TestContractStates(t *testing.T) {
	t.Parallel()

	c, err := contracts.Parse([]byte("a"), put("a", "acme", "1"), 0, catalog(t))
	require.NoError(t, err)
	for at, want := range map[string]contracts.State{
		"2025-12-31T23:59:59.999Z": contracts.Future,
		"2026-01-01T00:00:00Z":     contracts.Active,
		"2026-12-31T23:59:59.999Z": contracts.Active,
		"2027-01-01T00:00:00Z":     contracts.Ended,
	} {
		require.Equal(t, want, c.State(instant(t, at)), at)
	}
}

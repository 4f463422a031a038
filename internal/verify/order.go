package verify

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/meterd/meterd/internal/alerts"
	"github.com/meterd/meterd/internal/usage"
)

// ofRecord tells whether an event's cause is a record of the usage topic.
func ofRecord(e *alerts.Event) bool {
	return e.Cause.Kind == alerts.ByUsage || e.Cause.Kind == alerts.ByVoid
}

// place is where a limit event stands in the order of its client's.
type place struct {
	cause    string // what it has in common with all events of one cause
	offset   int64  // of the usage record; -1: of something else
	contract string
	limit    int // in the contract; -1: not known
	gone     bool
	values   string
	limitID  string
	kind     alerts.EventKind
}

// placeOf returns where an event stands.
func (a *audit) placeOf(e *alerts.Event) place {
	at := place{
		cause: string(e.Cause.Kind), offset: -1, contract: e.Contract, limit: -1, limitID: e.LimitID, kind: e.Kind,
		values: string(usage.AppendCanonicalMap(nil, e.Dimensions)),
	}
	if e.Cause.Offset != nil {
		at.cause = fmt.Sprintf("%s of offset %d", e.Cause.Kind, *e.Cause.Offset)
	}
	switch {
	case ofRecord(e) && e.Cause.Offset != nil:
		at.offset = *e.Cause.Offset
	case e.Cause.Kind == alerts.ByPeriodEnd:
		at.cause = fmt.Sprintf("%s at %s", e.Cause.Kind, e.Period.End)
	case e.Cause.Kind == alerts.BySeed:
		at.cause = "" // several seeds look alike
	}
	at.limit, at.gone = a.deals.place(e)
	return at
}

// place returns where the limit of an event stands in its contract. A limit
// that is gone from the contract has the place that it had last.
func (d *deals) place(e *alerts.Event) (place int, gone bool) {
	list := d.revisions[e.Contract]
	for _, rev := range slices.Backward(list) {
		if rev.offset > e.ContractRevision || rev.contract == nil {
			continue
		}
		for n := range rev.contract.Limits {
			if rev.contract.Limits[n].ID == e.LimitID {
				return n, rev.offset != e.ContractRevision
			}
		}
		if d.lost[e.Contract] {
			break
		}
	}
	return -1, false
}

// inOrder demands that events stand in the order of their causes, and those of
// one cause in the order of contracts, of limits in the contract and of the
// values that limits count apart.
func (a *audit) inOrder(last map[string]place, e *alerts.Event) string {
	at := a.placeOf(e)
	before, ok := last[e.Client]
	if at.offset >= 0 || !ok || before.offset < 0 {
		last[e.Client] = at
	} else {
		kept := at
		kept.offset = before.offset // what comes next must not fall behind it
		last[e.Client] = kept
	}
	switch {
	case !ok || at.offset > before.offset && at.offset >= 0:
		return ""
	case at.offset >= 0 && at.offset < before.offset:
		return fmt.Sprintf("it stands after an event whose cause is offset %d", before.offset)
	case at.cause == "" || at.cause != before.cause || e.Cause.Kind == alerts.ByContract && at.kind != before.kind:
		return ""
	case before.follows(&at):
		return "it stands after an event of the same cause that must come later"
	}
	return ""
}

// follows tells whether b must come before p, both of one cause.
func (p *place) follows(b *place) bool {
	if c := cmp.Compare(p.contract, b.contract); c != 0 {
		return c > 0
	}
	if p.limit < 0 || b.limit < 0 {
		return false
	}
	if c := cmp.Compare(p.limit, b.limit); c != 0 {
		return c > 0
	}
	if p.limitID != b.limitID {
		return b.gone && !p.gone
	}
	return p.values > b.values || p.values == b.values && p.kind == alerts.Crossed && b.kind == alerts.Cleared
}

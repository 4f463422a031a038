package load

import "github.com/meterd/meterd/internal/loadgen"

// Generated returns a shape as the generator has it.
func Generated(s Shape) loadgen.Load { return s.events() }

// Limit returns a client's limit on a meter; 0: none.
func (l *Ledger) Limit(client, meter string) int64 {
	k, _ := l.find(client, meter)
	return l.limits[k]
}

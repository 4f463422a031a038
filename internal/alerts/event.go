package alerts

import (
	"crypto/sha1" //nolint:gosec // RFC 9562 section 5.5 names it; nothing is secured by it
	"encoding/hex"
	"strconv"

	"github.com/meterd/meterd/internal/contracts"
	"github.com/meterd/meterd/internal/usage"
)

// EventKind is what a limit event tells.
type EventKind string

// The kinds of limit events.
const (
	Crossed EventKind = "crossed" // the total has reached thresholds
	Cleared EventKind = "cleared" // it is below thresholds that stood
	Reset   EventKind = "reset"   // the period has ended with thresholds standing
)

// CauseKind is what made a limit event.
type CauseKind string

// The causes of limit events.
const (
	ByUsage     CauseKind = "usage"
	ByVoid      CauseKind = "void"
	ByContract  CauseKind = "contract"
	BySeed      CauseKind = "seed"
	ByPeriodEnd CauseKind = "period_end"
)

// Cause is the one thing that made a limit event. Topic, Partition and Offset
// name a record where the cause was one: a usage record, a void, a contract.
// Event id and time are those of a usage record.
type Cause struct {
	Kind      CauseKind   `json:"kind"`
	Topic     *string     `json:"topic"`
	Partition *int32      `json:"partition"`
	Offset    *int64      `json:"offset"`
	EventID   *string     `json:"event_id"`
	EventTime *usage.Time `json:"event_time"`
}

// PassedThreshold is a threshold as limit events show it.
type PassedThreshold struct {
	Threshold string `json:"threshold"`
	Value     string `json:"value"`
}

// PeriodInfo is a period as meterd shows it. A start or end that is not there
// is usage.MinTime or usage.MaxTime, and null in JSON.
type PeriodInfo struct {
	ID       string     `json:"id"`
	Start    usage.Time `json:"start"`
	End      usage.Time `json:"end"`
	Timezone string     `json:"timezone"`
}

// Event is a limit event as it stands in the topic. Decimals are in the
// shortest plain form. Slices and maps are never nil.
type Event struct {
	ID               string                `json:"id"`
	Kind             EventKind             `json:"kind"`
	Client           string                `json:"client"`
	Meter            string                `json:"meter"`
	Dimensions       map[string]string     `json:"dimensions"`
	Contract         string                `json:"contract"`
	ContractRevision int64                 `json:"contract_revision"`
	LimitID          string                `json:"limit_id"`
	Limit            string                `json:"limit"`
	Enforcement      contracts.Enforcement `json:"enforcement"`
	Thresholds       []PassedThreshold     `json:"thresholds"`
	Highest          string                `json:"highest"`
	Standing         []string              `json:"standing"`
	UsageBefore      string                `json:"usage_before"`
	UsageAfter       string                `json:"usage_after"`
	Utilization      string                `json:"utilization"`
	Period           PeriodInfo            `json:"period"`
	Cause            Cause                 `json:"cause"`
	Late             bool                  `json:"late"`
	Seeded           bool                  `json:"seeded"`
	Sequence         int64                 `json:"sequence"`
	DecidedAt        usage.Time            `json:"decided_at"`
}

// Show returns thresholds as limit events show them, of a meter with the given
// decimals.
func Show(thresholds []contracts.Threshold, decimals int) []PassedThreshold {
	shown := make([]PassedThreshold, 0, len(thresholds))
	for _, t := range thresholds {
		shown = append(shown, PassedThreshold{Threshold: t.Label, Value: t.Value.Format(decimals)})
	}
	return shown
}

// namespace is 8e314bec-7be6-49b5-80a1-57612ed76f79, the name space of the ids
// of limit events.
var namespace = [16]byte{0x8e, 0x31, 0x4b, 0xec, 0x7b, 0xe6, 0x49, 0xb5, 0x80, 0xa1, 0x57, 0x61, 0x2e, 0xd7, 0x6f, 0x79}

// Identity is what makes a limit event the one it is: the tuple whose events
// are numbered, and the number.
type Identity struct {
	ApplicationID string
	Contract      string
	Limit         string
	Dimensions    map[string]string
	Period        string
	Sequence      int64
}

// ID returns the version-5 UUID (RFC 9562 section 5.5) of the identity written
// as a JSON array in the form of RFC 8785, so that a replay yields the same.
func (i Identity) ID() string {
	name := append(make([]byte, 0, 160), '[')
	name = append(usage.AppendCanonicalString(name, i.ApplicationID), ',')
	name = append(usage.AppendCanonicalString(name, i.Contract), ',')
	name = append(usage.AppendCanonicalString(name, i.Limit), ',')
	name = append(usage.AppendCanonicalMap(name, i.Dimensions), ',')
	name = append(usage.AppendCanonicalString(name, i.Period), ',')
	name = append(strconv.AppendInt(name, i.Sequence, 10), ']')

	h := sha1.New() //nolint:gosec // as above
	h.Write(namespace[:])
	h.Write(name)
	sum := h.Sum(nil)[:16]
	sum[6] = sum[6]&0x0f | 0x50
	sum[8] = sum[8]&0x3f | 0x80
	out := make([]byte, 0, 36)
	for n, part := range [][]byte{sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:]} {
		if n > 0 {
			out = append(out, '-')
		}
		out = hex.AppendEncode(out, part)
	}
	return string(out)
}

// StateKey returns the key of the limit-state topic for a limit:
// ["contract","limit",{per values}] in the form of RFC 8785.
func StateKey(contract, limit string, dimensions map[string]string) string {
	key := append(make([]byte, 0, 64), '[')
	key = append(usage.AppendCanonicalString(key, contract), ',')
	key = append(usage.AppendCanonicalString(key, limit), ',')
	key = usage.AppendCanonicalMap(key, dimensions)
	return string(append(key, ']'))
}

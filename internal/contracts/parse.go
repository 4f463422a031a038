package contracts

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/meterd/meterd/internal/usage"
)

// ErrInvalid is returned when a contract cannot come into force. The text
// that wraps it names the key and says what is wrong.
var ErrInvalid = errors.New("invalid contract")

// MaxBytes bounds the JSON of one contract.
const MaxBytes = 1 << 20

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Parse reads the contract in value, which stands under key at offset revision
// of the contracts topic, and checks it against catalog. Every error is an
// ErrInvalid whose text is for the contract's author.
func Parse(key, value []byte, revision int64, catalog *usage.Catalog) (*Contract, error) {
	if len(value) > MaxBytes {
		return nil, invalid("%d bytes, more than %d", len(value), MaxBytes)
	}
	if !utf8.Valid(value) {
		return nil, invalid("not UTF-8")
	}
	o, err := document(value, "contract", "id", "client", "starts_at", "ends_at", "timezone", "limits")
	if err != nil {
		return nil, err
	}
	c := &Contract{Revision: revision, EndsAt: usage.MaxTime, Raw: bytes.Clone(value)}
	zone := catalog.Schedule.Zone.String()
	var limits [][]byte
	if err := errors.Join(
		o.id("id", &c.ID),
		o.id("client", &c.Client),
		o.time("starts_at", true, &c.StartsAt),
		o.time("ends_at", false, &c.EndsAt),
		text(o, "timezone", &zone),
		o.elements("limits", &limits),
	); err != nil {
		return nil, firstOf(err)
	}
	if string(key) != c.ID {
		return nil, invalid("id %q is not the record's key %q", c.ID, key)
	}
	if c.EndsAt <= c.StartsAt {
		return nil, invalid("ends_at %s is not after starts_at %s", c.EndsAt, c.StartsAt)
	}
	if _, err := scheduleOf(usage.Day, zone); err != nil {
		return nil, err
	}
	for i, raw := range limits {
		l, err := parseLimit(raw, c, zone, catalog)
		if err != nil {
			return nil, fmt.Errorf("%w (limits[%d])", err, i)
		}
		if slices.ContainsFunc(c.Limits, func(other Limit) bool { return other.ID == l.ID }) {
			return nil, invalid("limits[%d].id: %q is there twice", i, l.ID)
		}
		c.Limits = append(c.Limits, l)
	}
	return c, nil
}

// firstOf keeps a joined error to one line: the first thing to mend.
func firstOf(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()[0]
	}
	return err
}

func parseLimit(raw []byte, c *Contract, zone string, catalog *usage.Catalog) (Limit, error) {
	o, err := readObject(raw, "limit", "id", "meter", "period", "timezone", "limit", "thresholds", "enforcement", "where", "per")
	if err != nil {
		return Limit{}, err
	}
	l := Limit{Enforcement: Hard}
	kind, value := catalog.Schedule.Kind, ""
	var labels []string
	if err := errors.Join(
		o.id("id", &l.ID),
		o.id("meter", &l.MeterName),
		text(o, "period", &kind),
		text(o, "timezone", &zone),
		o.required("limit", &value),
		o.texts("thresholds", &labels),
		text(o, "enforcement", &l.Enforcement),
	); err != nil {
		return Limit{}, firstOf(err)
	}
	if l.Meter = catalog.Find(l.MeterName); l.Meter < 0 {
		return Limit{}, invalid("meter: %q is not configured", l.MeterName)
	}
	l.Decimals = catalog.Meters[l.Meter].Decimals
	if l.Schedule, err = scheduleOf(kind, zone); err != nil {
		return Limit{}, err
	}
	if kind == usage.Anniversary {
		l.Schedule.Anchor = c.StartsAt
	}
	if l.Enforcement != Hard && l.Enforcement != Soft {
		return Limit{}, invalid("enforcement: %q is neither hard nor soft", l.Enforcement)
	}
	if err := o.dimensions(&l, catalog.Meters[l.Meter].Dimensions); err != nil {
		return Limit{}, err
	}
	if l.Value, err = positive("limit", value, l.Decimals); err != nil {
		return Limit{}, err
	}
	if labels == nil {
		labels = []string{"100%"}
	}
	l.Thresholds, err = parseThresholds(labels, l.Value, l.Decimals)
	return l, err
}

// dimensions reads where and per, whose names must be dimensions of l's meter
// and, all together, different ones. Per is put in order. Where nothing is named
// they are nil, as when their keys are not there.
func (o object) dimensions(l *Limit, of []usage.Dimension) error {
	var err error
	if l.Where, err = o.where(); err != nil {
		return err
	}
	known := func(name string) bool {
		return slices.ContainsFunc(of, func(d usage.Dimension) bool { return d.Name == name })
	}
	for _, name := range slices.Sorted(maps.Keys(l.Where)) {
		switch value := l.Where[name]; {
		case !known(name):
			return invalid("where: %q is not a dimension of meter %q", name, l.MeterName)
		case len(value) > usage.MaxIDBytes:
			return invalid("where: the value of %q has %d bytes, more than %d", name, len(value), usage.MaxIDBytes)
		}
	}
	if err := o.texts("per", &l.Per); err != nil {
		return err
	}
	for i, name := range l.Per {
		_, required := l.Where[name]
		switch {
		case !known(name):
			return invalid("per: %q is not a dimension of meter %q", name, l.MeterName)
		case required:
			return invalid("per: %q is in where already", name)
		case slices.Contains(l.Per[:i], name):
			return invalid("per: %q is there twice", name)
		}
	}
	slices.Sort(l.Per)
	if len(l.Per) == 0 {
		l.Per = nil
	}
	return nil
}

// where reads the values that where asks for, each under a name of its own.
func (o object) where() (map[string]string, error) {
	raw, ok := o.find("where")
	if !ok {
		return nil, nil
	}
	if string(raw) == "null" {
		return nil, invalid("where: null; leave the key out")
	}
	members, ok := membersOf(raw)
	if !ok {
		return nil, invalid("where: wrong type")
	}
	var pairs map[string]string
	for _, m := range members {
		if _, twice := pairs[m.key]; twice {
			return nil, invalid("where: %q is there twice", m.key)
		}
		if m.value[0] != '"' {
			return nil, invalid("where: the value of %q is not a string", m.key)
		}
		if pairs == nil {
			pairs = map[string]string{}
		}
		pairs[m.key] = stringOf(m.value)
	}
	return pairs, nil
}

// scheduleOf is usage.NewSchedule for authors of contracts: a zone that is
// written down but empty is a mistake, not UTC.
func scheduleOf(kind usage.Kind, zone string) (usage.Schedule, error) {
	if _, err := usage.NewSchedule(kind, "UTC"); err != nil {
		return usage.Schedule{}, invalid("period: %q is not a kind of period", kind)
	}
	schedule, err := usage.NewSchedule(kind, zone)
	if err != nil || zone == "" {
		return usage.Schedule{}, invalid("timezone: %q is not an IANA time zone", zone)
	}
	return schedule, nil
}

func parseThresholds(labels []string, limit usage.Quantity, decimals int) ([]Threshold, error) {
	thresholds := make([]Threshold, 0, len(labels))
	seen := make(map[string]bool, len(labels))
	for _, label := range labels {
		if seen[label] {
			return nil, invalid("thresholds: %q is there twice", label)
		}
		seen[label] = true
		value, err := thresholdValue(label, limit, decimals)
		if err != nil {
			return nil, err
		}
		thresholds = append(thresholds, Threshold{Label: label, Value: value})
	}
	slices.SortStableFunc(thresholds, func(a, b Threshold) int {
		switch {
		case a.Value < b.Value:
			return -1
		case a.Value > b.Value:
			return 1
		}
		return 0
	})
	return thresholds, nil
}

// percentDecimals is how fine a percentage may be.
const percentDecimals = 6

// thresholdValue returns the value of a label: an absolute decimal, or a
// percentage of limit rounded up to the smallest unit.
func thresholdValue(label string, limit usage.Quantity, decimals int) (usage.Quantity, error) {
	text, percentage := strings.CutSuffix(label, "%")
	if !percentage {
		return positive("thresholds", label, decimals)
	}
	percent, err := positive("thresholds", text, percentDecimals)
	if err != nil {
		return 0, err
	}
	// limit × percent / 10^6 / 100, rounded up.
	n := new(big.Int).Mul(big.NewInt(int64(limit)), big.NewInt(int64(percent)))
	n, rest := n.QuoRem(n, big.NewInt(100_000_000), new(big.Int))
	if rest.Sign() > 0 {
		n.Add(n, big.NewInt(1))
	}
	if !n.IsInt64() {
		return 0, invalid("thresholds: %q of the limit is more than any counter can hold", label)
	}
	return usage.Quantity(n.Int64()), nil
}

// positive reads a decimal > 0 in plain form that fits the given decimals.
func positive(key, text string, decimals int) (usage.Quantity, error) {
	d, err := usage.ParseDecimal(text)
	if err != nil || strings.ContainsAny(text, "eE") {
		return 0, invalid("%s: %q is not a decimal number", key, text)
	}
	q, ok := d.Quantity(decimals)
	switch {
	case !ok:
		return 0, invalid("%s: %q does not fit %d decimals", key, text, decimals)
	case q <= 0:
		return 0, invalid("%s: %q is not greater than 0", key, text)
	}
	return q, nil
}

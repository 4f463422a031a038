package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration as it is written in the configuration: "72h",
// "1m30s", "500ms", or 0.
type Duration time.Duration

func of(d time.Duration) Duration { return Duration(d) }

// Duration returns d as the standard library has it.
func (d Duration) Duration() time.Duration { return time.Duration(d) }

// String returns d in its shortest form: "72h" and not "72h0m0s".
func (d Duration) String() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText returns String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration with its unit; a number alone is only good
// as 0.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 500ms, 30s, 5m or 72h", text)
	}
	*d = Duration(parsed)
	return nil
}

// Bytes is a size as it is written in the configuration: "1MiB", "500MB" or a
// number of bytes.
type Bytes int64

// The sizes that are written most.
const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// unit is a suffix of sizes.
type unit struct {
	suffix string
	size   Bytes
}

// units returns the suffixes, the largest binary ones first and B last, so that
// the first that fits is the right one.
func units() []unit {
	return []unit{
		{"TiB", TiB},
		{"GiB", GiB},
		{"MiB", MiB},
		{"KiB", KiB},
		{"TB", 1e12},
		{"GB", 1e9},
		{"MB", 1e6},
		{"kB", 1e3},
		{"KB", 1e3},
		{"B", 1},
	}
}

// String returns b in the largest binary unit that leaves no fraction.
func (b Bytes) String() string {
	for _, u := range units()[:4] {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText returns String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads a whole number with or without a unit.
func (b *Bytes) UnmarshalText(text []byte) error {
	number, size := string(text), Bytes(1)
	for _, u := range units() {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, size = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/int64(size) {
		return fmt.Errorf("%q is not a size such as 65536, 512KiB, 1MiB, 2GiB or 500MB", text)
	}
	*b = Bytes(n) * size
	return nil
}

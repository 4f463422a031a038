//go:build !failpoints

package failpoint

import "time"

// Enabled tells whether this is a build for tests of faults.
const Enabled = false

// Hit is called at a point.
func Hit(string) {}

// Now is the time.
func Now() time.Time { return time.Now() }

package aggregate_test

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

var statMu sync.Mutex
var stats = map[string]int{}

func stat(k string) { statMu.Lock(); stats[k]++; statMu.Unlock() }

func TestMain(m *testing.M) {
	c := m.Run()
	fmt.Fprintln(os.Stderr, stats)
	os.Exit(c)
}

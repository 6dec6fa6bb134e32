//go:build kernel

package packetfilter

import (
	"flag"
	"os"
	"testing"
)

// TestMain lowers the number of random histories unless -rapid.checks is given: each takes a second in User Mode Linux.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
	flag.Parse()
	os.Exit(m.Run())
}

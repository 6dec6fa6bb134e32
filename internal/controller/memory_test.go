package controller

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
)

func TestContainerLimitBoundsMemory(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	t.Cleanup(func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	})
	for _, tc := range []struct {
		name, text  string
		environment map[string]string
		percent     int
		limit       int64
	}{
		{name: "1 GiB", text: "1073741824\n", percent: gcPercent, limit: 966367638},
		{name: "no limit", text: "max\n", percent: gcPercent, limit: math.MaxInt64},
		{name: "no control group", percent: gcPercent, limit: math.MaxInt64},
		{name: "the environment", text: "1073741824\n", environment: map[string]string{"GOGC": "100", "GOMEMLIMIT": "2GiB"}, percent: 100, limit: math.MaxInt64},
	} {
		t.Run(tc.name, func(t *testing.T) {
			debug.SetGCPercent(100)
			debug.SetMemoryLimit(math.MaxInt64)
			file := filepath.Join(t.TempDir(), "memory.max")
			if tc.text != "" {
				if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			boundMemory(func(key string) string { return tc.environment[key] }, file)
			if got := debug.SetGCPercent(100); got != tc.percent {
				t.Errorf("GOGC is %d, want %d", got, tc.percent)
			}
			if got := debug.SetMemoryLimit(-1); got != tc.limit {
				t.Errorf("the limit is %d bytes, want %d", got, tc.limit)
			}
		})
	}
}

package controller

import (
	"bytes"
	"math"
	"os"
	"runtime/debug"
	"strconv"
)

const (
	// gcPercent is the percentage of garbage in the heap (GOGC). The caches are large and rarely change, so a low
	// percentage costs little time.
	gcPercent = 50
	// cgroupLimit is the memory limit of the container, as it sees it (control groups v2).
	cgroupLimit = "/sys/fs/cgroup/memory.max"
)

// boundMemory makes the garbage collector work more and, near the limit of the container, as much as it takes: with the
// garbage of the first lists, a large cluster would otherwise exceed it. GOGC and GOMEMLIMIT, if set, come first.
func boundMemory(getenv func(string) string, limitFile string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if getenv("GOMEMLIMIT") == "" {
		if text, err := os.ReadFile(limitFile); err == nil {
			debug.SetMemoryLimit(softLimit(text))
		}
	}
}

// softLimit returns nine tenths of the limit in the text, which is a number of bytes or "max" for none. The rest is for
// memory that Go does not count.
func softLimit(text []byte) int64 {
	limit, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil || limit <= 0 {
		return math.MaxInt64
	}
	return limit / 10 * 9
}

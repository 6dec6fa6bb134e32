package kubetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sync/errgroup"
)

// Each calls f with 0 to n-1, sixteen calls at a time. The first error fails the test.
func Each(tb testing.TB, n int, f func(ctx context.Context, i int) error) {
	tb.Helper()
	group, ctx := errgroup.WithContext(tb.Context())
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error {
			if err := f(ctx, i); err != nil {
				return fmt.Errorf("%d: %w", i, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		tb.Fatal(err)
	}
}

// Program builds a program of cmd and returns its path.
func Program(tb testing.TB, name string) string {
	tb.Helper()
	program := filepath.Join(tb.TempDir(), name)
	build := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", program, "spiderpool.dev/spiderpool/cmd/"+name)
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("build: %v\n%s", err, out)
	}
	return program
}

// Memory returns a line of /proc/PID/status about memory, in bytes: VmRSS is the
// resident memory now, VmHWM its peak.
func Memory(tb testing.TB, pid int, line string) int64 {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		tb.Fatal(err)
	}
	match := regexp.MustCompile(line + `:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		tb.Fatalf("there is no %s of process %d", line, pid)
	}
	kib, err := strconv.ParseInt(string(match[1]), 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return kib << 10
}

package kubetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// Program builds a program of cmd and returns its path.
func Program(tb testing.TB, name string) string {
	tb.Helper()
	program := filepath.Join(tb.TempDir(), name)
	build := exec.Command("go", "build", "-o", program, "spiderpool.dev/spiderpool/cmd/"+name)
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("build: %v\n%s", err, out)
	}
	return program
}

// Memory returns, in bytes, a line of /proc/PID/status that counts memory: VmRSS
// for what is resident now, VmHWM for the most that ever was.
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

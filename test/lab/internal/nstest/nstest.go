// Package nstest runs a test binary in its own mount namespace with an empty netns.Dir. Its tests neither see a lab on
// the machine nor leave a network namespace behind, even after a crash. It is for tests only.
package nstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/netns"
)

// inside marks the second run of the test binary.
const inside = "LAB_TEST_IN_OWN_MOUNTS"

// Main runs the tests and returns the exit code for TestMain. It needs root.
func Main(m *testing.M) int {
	if os.Getenv(inside) == "" {
		return again()
	}
	if err := ownMounts(); err != nil {
		fmt.Fprintln(os.Stderr, "create a mount namespace for the tests (needs root):", err)
		return 1
	}
	return m.Run()
}

// again runs this binary in a new mount namespace.
func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func ownMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := os.MkdirAll(netns.Dir, 0o755); err != nil {
		return err
	}
	return unix.Mount("netns", netns.Dir, "tmpfs", 0, "")
}

//go:build kernel

package vpc

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/netns"
)

// inOwnMounts marks the second run of the test binary.
const inOwnMounts = "LAB_TEST_IN_OWN_MOUNTS"

// TestMain runs the tests in a mount namespace of their own with an empty netns.Dir, so that they neither see a lab on
// the machine nor leave a namespace behind, whatever becomes of them.
func TestMain(m *testing.M) {
	if os.Getenv(inOwnMounts) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inOwnMounts+"=1")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := ownMounts(); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
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

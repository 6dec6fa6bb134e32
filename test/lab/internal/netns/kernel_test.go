//go:build kernel

package netns_test

import (
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

func ensure(t *testing.T, name string) {
	t.Helper()
	if err := netns.Ensure(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(name); err != nil {
			t.Error(err)
		}
	})
}

func inode(t *testing.T, name string) (link string) {
	t.Helper()
	if err := netns.Do(name, func() (err error) {
		link, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return link
}

func TestEnsureReplacesOnlyStaleMountPoints(t *testing.T) {
	if err := os.WriteFile(netns.Path("stale"), nil, 0o444); err != nil { // as after a crash
		t.Fatal(err)
	}
	ensure(t, "stale")
	first := inode(t, "stale")
	ensure(t, "stale")
	if second := inode(t, "stale"); second != first {
		t.Errorf("the namespace was replaced: %s, then %s", first, second)
	}
	if own, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || own == first {
		t.Errorf("the test itself runs in %s (%v)", own, err)
	}
}

func TestDeleteOfMissingNamespaceSucceeds(t *testing.T) {
	ensure(t, "gone")
	for range 2 {
		if err := netns.Delete("gone"); err != nil {
			t.Error(err)
		}
	}
	if left, err := netns.List("gone"); err != nil || len(left) > 0 {
		t.Errorf("remaining namespaces %q (%v)", left, err)
	}
}

func TestNewNamespaceHasLoopbackUp(t *testing.T) {
	ensure(t, "loop")
	if err := netns.Netlink("loop", func(handle *netlink.Handle) error {
		link, err := handle.LinkByName("lo")
		if err == nil && link.Attrs().Flags&1 == 0 {
			t.Errorf("lo is %v", link.Attrs().Flags)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestRunReturnsOutputAndError(t *testing.T) {
	ensure(t, "run")
	output, err := netns.Run(t.Context(), "run", "hello", "cat")
	if err != nil || output != "hello" {
		t.Errorf("got %q, %v", output, err)
	}
	_, err = netns.Run(t.Context(), "run", "", "ip", "link", "show", "nothing0")
	if err == nil || !strings.Contains(err.Error(), "namespace run: ip link show nothing0") ||
		!strings.Contains(err.Error(), "nothing0\" does not exist") {
		t.Errorf("got %v", err)
	}
}

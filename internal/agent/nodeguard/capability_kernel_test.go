//go:build kernel

package nodeguard

import (
	"bytes"
	"log/slog"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux"
)

// withCapabilities runs f on a thread with these capabilities only.
func withCapabilities(t *testing.T, capabilities []int, f func()) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // until the goroutine ends, and the thread with it
		defer close(failed)
		var sets [2]unix.CapUserData
		for _, c := range capabilities {
			sets[c/32].Effective |= 1 << (c % 32)
			sets[c/32].Permitted |= 1 << (c % 32)
		}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &sets[0]); err != nil {
			failed <- err
			return
		}
		f()
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// The chart gives the agent two capabilities. Without one of them, the maintenance of the
// node fails; with both, it does not.
func TestNodeNeedsTwoCapabilities(t *testing.T) {
	for name, test := range map[string]struct {
		capabilities []int
		want         string // in the log
	}{
		"both":      {[]int{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}, ""},
		"NET_ADMIN": {[]int{unix.CAP_NET_ADMIN}, "operation not permitted"},
		"SYS_ADMIN": {[]int{unix.CAP_SYS_ADMIN}, "operation not permitted"},
	} {
		t.Run(name, func(t *testing.T) {
			node, _, host, guard := underlayNode(t)
			pod := underlayPod(t, node, host, guard.PodNamespaces, "a", settings(), "172.31.28.17/20", "2406:da1e:c4:ed01:c57d::1/64")
			for address := range virtual {
				node.Addr("ens5", address)
			}
			node.Must("", "sh", "-c", "nft flush ruleset; ip rule del priority 1000; sysctl -qw net.ipv4.ip_forward=0")
			guard.Tune = true
			guard.missingKinds = []string{"vlan"} // needs a new namespace
			var log bytes.Buffer
			guard.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			withCapabilities(t, test.capabilities, func() {
				host, err := linux.Open(node.Path())
				if err != nil {
					guard.Log.Warn("cannot open the node", "err", err)
					return
				}
				defer host.Close()
				guard.preflight(t.Context(), host)
				guard.runOnce(t.Context(), host)
			})
			if got := log.String(); test.want == "" && strings.Contains(got, "err=") || !strings.Contains(got, test.want) {
				t.Errorf("log:\n%s", got)
			}
			routes := pod.Must("", "ip", "route", "get", "172.31.16.50")
			if followed := strings.Contains(routes, "dev veth0"); followed != (test.want == "") {
				t.Errorf("route to the new address of the node: %s", routes)
			}
		})
	}
}

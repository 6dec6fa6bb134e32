//go:build kernel

package linux

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
)

func open(t *testing.T, m *linuxtest.Machine) *Namespace {
	t.Helper()
	ns, err := Open(m.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	return ns
}

func parse(t *testing.T, text string) netplan.State {
	t.Helper()
	st, err := netplan.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// read returns the state to compare with want.
func read(t *testing.T, ns *Namespace, want netplan.State) netplan.State {
	t.Helper()
	st, err := ns.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	named, err := ns.ReadNamed(want)
	if err != nil {
		t.Fatal(err)
	}
	return append(st, named...)
}

// The agent's container has /proc/sys/net of the node at another path.
func TestMountedSysctlsBelongToThread(t *testing.T) {
	m := linuxtest.NewMachine(t, "node")
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "net"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/sys/net", filepath.Join(dir, "net"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(filepath.Join(dir, "net"), 0); err != nil {
			t.Error(err)
		}
	})
	const path = "net/ipv4/conf/default/rp_filter"
	outside, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"1", "2"} { // one of them differs from the value outside
		err := m.Do(func() error {
			ns, err := CurrentWith(dir)
			if err != nil {
				return err
			}
			defer ns.Close()
			return ns.Apply(netplan.Changes{{New: netplan.Sysctl{Path: path, Value: value}}}, nil)
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := open(t, m).Sysctl(path); err != nil || got != value {
			t.Errorf("inside: %q, %v, want %s", got, err, value)
		}
		if got, err := os.ReadFile("/proc/sys/" + path); err != nil || string(got) != string(outside) {
			t.Errorf("outside: %q, %v, want %q", got, err, outside)
		}
	}
}

const wanted = `
link eth0 mtu 1400 txqueuelen 700
addr 10.0.0.2/24 dev eth0
addr 169.254.7.7/32 dev eth0
addr fd00::2/64 dev eth0
neighbor 169.254.0.1 mac 02:00:00:00:00:01 dev eth0
neighbor fe80::1 mac 02:00:00:00:00:01 dev eth0
route 10.0.0.0/24 dev eth0 src 10.0.0.2 table 100 proto 83
route 0.0.0.0/0 via 10.0.0.1 dev eth0 table 100 proto 83
route 10.96.0.0/16 via 169.254.0.1 dev eth0 src 10.0.0.2 onlink proto 83
route 192.0.2.0/24 via 10.0.0.1 dev eth0 table 500 metric 50 proto 83
route fd00:10:96::/112 via fe80::1 dev eth0 src fd00::2 proto 83
route ::/0 via fd00::1 dev eth0 table 100 metric 2048 proto 83
route fd00::9/128 dev eth0 table 500 proto 83
rule ip 2000 from 10.0.0.2/32 lookup 100 proto 83
rule ip6 2000 from fd00::2/128 lookup 100 proto 83
rule ip 1000 from all lookup 500 proto 83
rule ip6 1500 from all fwmark 0x40000000 lookup 99 proto 83
sysctl net/ipv4/conf/eth0/rp_filter = 2
sysctl net/ipv6/conf/eth0/accept_ra = 0
masquerade ip links spv
masquerade ip6 links spv
replymark ip dev eth0 mark 0x40000000
replymark ip6 dev eth0 mark 0x40000000
`

func machine(t *testing.T) (*linuxtest.Machine, *Namespace) {
	t.Helper()
	m := linuxtest.NewMachine(t, "m")
	linuxtest.Wire(m, "eth0", linuxtest.NewMachine(t, "peer"), "x")
	return m, open(t, m)
}

func TestAppliedStateReadsBack(t *testing.T) {
	_, ns := machine(t)
	want := parse(t, wanted)
	before := read(t, ns, want).String()
	changes := netplan.Diff(read(t, ns, want), want, netplan.Owned)
	if err := ns.Apply(changes, nil); err != nil {
		t.Fatal(err)
	}
	after := read(t, ns, want)
	if again := netplan.Diff(after, want, netplan.Owned); len(again) != 0 {
		t.Errorf("changes left:\n%sof\n%s", again, after)
	}
	if err := ns.Apply(changes, nil); err != nil {
		t.Errorf("applied again: %v", err)
	}
	if twice := read(t, ns, want).String(); twice != after.String() {
		t.Errorf("second Apply: state\n%s\nwant\n%s", twice, after)
	}
	for range 2 {
		if err := ns.Apply(changes.Inverse(), nil); err != nil {
			t.Errorf("undo: %v", err)
		}
	}
	// Replaced items are restored and new ones gone; sysctls stay.
	if back := read(t, ns, nil).String(); strings.Contains(back, "proto 83") || strings.Contains(back, "masquerade") || strings.Contains(back, "10.0.0.2") {
		t.Errorf("after undo: state\n%s\nwant\n%s", back, before)
	}
}

func TestReplyMarkNeedsNoRouteLookup(t *testing.T) {
	_, ns := machine(t)
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		mark := netplan.ReplyMark{Family: f, Dev: "eth0", Mark: 0x40000000}
		if err := ns.writeReplyMark(mark, false); err != nil {
			t.Errorf("%s: %v", mark, err)
		}
		if have := read(t, ns, netplan.State{mark}).String(); !strings.Contains(have, mark.String()) {
			t.Errorf("no %s in\n%s", mark, have)
		}
	}
}

// TestRulesOfFormerReleaseAreReplaced: a node may run with rules of version 1 until the
// agent of this release starts.
func TestRulesOfFormerReleaseAreReplaced(t *testing.T) {
	m, ns := machine(t)
	m.Must(`table ip spiderpool {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    iifname "spv*" counter masquerade fully-random comment "v1: forwarded from pods on spv*: the answer must come back here"
    oifname "spv*" ct status dnat counter masquerade fully-random comment "v1: translated on the way to pods on spv*: the answer must come back here"
  }
}
`, "nft", "-f", "-")
	want := parse(t, "masquerade ip links spv\n")
	for range 2 {
		if err := ns.Apply(netplan.Diff(read(t, ns, want), want, netplan.Owned), nil); err != nil {
			t.Fatal(err)
		}
		rules := m.Must("", "nft", "list", "chain", "ip", "spiderpool", "postrouting")
		if n := strings.Count(rules, "v2: "); n != 4 || strings.Contains(rules, "v1: ") {
			t.Errorf("%d rules of version 2, want 4 and no other:\n%s", n, rules)
		}
	}
}

func TestFailedChangeUndoesEarlierOnes(t *testing.T) {
	_, ns := machine(t)
	before := read(t, ns, nil).String()
	want := parse(t, `
link eth0 mtu 1400
addr 10.0.0.2/24 dev eth0
route 10.7.0.0/16 dev eth0 table 100 proto 83
route 10.8.0.0/16 via 192.0.2.1 dev eth0 proto 83
`)
	err := ns.Apply(netplan.Diff(read(t, ns, want), want, netplan.Owned), nil)
	if err == nil || !strings.Contains(err.Error(), "+ route 10.8.0.0/16 via 192.0.2.1 dev eth0") {
		t.Errorf("got %v, want an error naming the route", err)
	}
	if after := read(t, ns, nil).String(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestDefaultRouteIsReplacedInPlace(t *testing.T) {
	m, ns := machine(t)
	linuxtest.Wire(m, "net1", linuxtest.NewMachine(t, "peer1"), "x")
	m.Addr("eth0", "10.0.0.2/24", "fd00::2/64")
	m.Addr("net1", "10.1.0.2/24", "fd01::2/64")
	m.Route("default", "10.0.0.1", "eth0")
	m.Route("default", "fd00::1", "eth0")
	want := parse(t, "route 0.0.0.0/0 via 10.1.0.1 dev net1 proto 83\nroute ::/0 via fd01::1 dev net1 proto 83\n")
	changes := netplan.Diff(read(t, ns, want), want, netplan.Owned)
	if len(changes) != 2 || changes[0].Old == nil || changes[1].Old == nil {
		t.Fatalf("changes:\n%s", changes)
	}
	if err := ns.Apply(changes, nil); err != nil {
		t.Fatal(err)
	}
	var defaults []string
	for _, it := range read(t, ns, nil) {
		if r, ok := it.(netplan.Route); ok && r.IsDefault() {
			defaults = append(defaults, r.String())
		}
	}
	if len(defaults) != 2 || !strings.Contains(strings.Join(defaults, ";"), "via 10.1.0.1 dev net1") || !strings.Contains(strings.Join(defaults, ";"), "via fd01::1 dev net1") {
		t.Errorf("default routes: %q", defaults)
	}
}

func TestVethPairNeedsPeerNamespace(t *testing.T) {
	_, ns := machine(t)
	if err := ns.Apply(netplan.Changes{{New: netplan.Link{Name: "v", Kind: "veth", Peer: "w"}}}, nil); err == nil {
		t.Error("made a pair without a peer namespace")
	}
}

func TestPlainFileIsNoNamespace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cni-gone") // container runtimes leave such files behind
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + ".missing", os.DevNull} {
		if _, err := Open(path); !errors.Is(err, ErrNoNamespace) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

func TestNodeAddrsAreGlobalAndUp(t *testing.T) {
	m, ns := machine(t)
	peer := linuxtest.NewMachine(t, "pod")
	linuxtest.Wire(m, "spv012345678901", peer, "veth0")
	m.Addr("spv012345678901", "10.99.0.1/32")
	m.Addr("eth0", "10.0.0.2/24", "fd00::2/64", "fe80::99/64", "169.254.7.7/32")
	m.Addr("lo", "192.0.2.1/32")
	got, err := ns.NodeAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, p := range got {
		texts = append(texts, p.String())
	}
	if text := strings.Join(texts, " "); text != "192.0.2.1/32 10.0.0.2/24 169.254.7.7/32 fd00::2/64" {
		t.Errorf("got %s", text)
	}
}

func TestAddressesOfNodeAreFollowed(t *testing.T) {
	m := linuxtest.NewMachine(t, "node")
	m.Bridge("br0")
	m.Addr("br0", "10.0.0.1/24")
	ns := open(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan []netip.Prefix), make(chan error, 1)
	go func() {
		ended <- ns.FollowAddrs(ctx, func(addrs []netip.Prefix) {
			select {
			case seen <- addrs:
			case <-ctx.Done():
			}
		})
	}()
	if got := <-seen; !slices.Contains(got, netip.MustParsePrefix("10.0.0.1/24")) {
		t.Errorf("at first: %v", got)
	}
	m.Addr("br0", "10.0.0.9/32")
	for got := range seen {
		if slices.Contains(got, netip.MustParsePrefix("10.0.0.9/32")) {
			break
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

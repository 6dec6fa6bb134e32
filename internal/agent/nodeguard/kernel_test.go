//go:build kernel

package nodeguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/test/docblocks"
)

func newMaintainer(t *testing.T) (*linuxtest.Machine, *linux.Namespace, *Maintainer) {
	t.Helper()
	m := linuxtest.NewMachine(t, "node")
	host, err := linux.Open(m.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	return m, host, &Maintainer{
		HostRuleTable: func(context.Context) (int, bool) { return 500, true },
		Sandboxes:     func(context.Context) (map[string]string, error) { return nil, nil },
		Unleased:      func([]netip.Addr) ([]netip.Addr, error) { return nil, nil },
		Masters:       func(context.Context) ([]netplan.Master, error) { return nil, nil },
		AntiSpoof:     func(context.Context) bool { return true },
		Warn:          func(string) {},
		MinAge:        5 * time.Minute,
		Now:           time.Now,
		Log:           slog.New(slog.DiscardHandler),
	}
}

// pair makes the veth pair of a container.
func pair(t *testing.T, node *linuxtest.Machine, id string) string {
	t.Helper()
	name := netplan.VethPairOf(id).Host
	linuxtest.Wire(node, name, linuxtest.NewMachine(t, "pod"), "veth0")
	return name
}

func TestFlushedStateIsRestored(t *testing.T) {
	m, host, guard := newMaintainer(t)
	guard.Sandboxes = func(context.Context) (map[string]string, error) { return map[string]string{"a": "uid"}, nil }
	name := pair(t, m, "a")
	m.Must("", "ip", "route", "add", "10.0.0.2/32", "dev", name, "table", "500", "proto", "83")
	m.Must("", "ip", "route", "add", "fd00::2/128", "dev", name, "table", "500", "proto", "83")
	guard.runOnce(t.Context(), host)
	for _, flush := range [][]string{
		{"ip", "rule", "del", "priority", "1000"},
		{"ip", "-6", "rule", "del", "priority", "1000"},
		{"sh", "-c", "nft flush ruleset; iptables-legacy -t nat -F; ip6tables-legacy -t nat -F"},
		{"sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"},
	} {
		m.Must("", flush[0], flush[1:]...)
		if changes, err := host.CompareNode(500, []inet.Family{inet.IPv4, inet.IPv6}); err != nil || len(changes) == 0 {
			t.Errorf("%v: the flush removed nothing (%v)", flush, err)
		}
		guard.runOnce(t.Context(), host)
		if changes, err := host.CompareNode(500, []inet.Family{inet.IPv4, inet.IPv6}); err != nil || len(changes) != 0 {
			t.Errorf("%v: still missing (%v):\n%s", flush, err, changes)
		}
	}
}

func TestNodeWithoutPodsStaysUnchanged(t *testing.T) {
	m, host, guard := newMaintainer(t)
	m.Must("", "ip", "route", "add", "10.0.0.2/32", "dev", "lo", "table", "500")
	guard.runOnce(t.Context(), host)
	if rules := m.Must("", "ip", "rule"); strings.Contains(rules, "500") {
		t.Errorf("rules:\n%s", rules)
	}
}

// clock is the time of a Maintainer under test.
type clock struct{ now time.Time }

func (c *clock) pass(d time.Duration) { c.now = c.now.Add(d) }

func timed(guard *Maintainer) *clock {
	c := &clock{now: time.Unix(1_000_000, 0)}
	guard.Now = func() time.Time { return c.now }
	return c
}

func TestOldOrphanPairsAreRemoved(t *testing.T) {
	m, host, guard := newMaintainer(t)
	time := timed(guard)
	ids := map[string]string{"alive": "uid"}
	var doubt error
	guard.Sandboxes = func(context.Context) (map[string]string, error) { return ids, doubt }
	alive, gone := pair(t, m, "alive"), pair(t, m, "gone")
	both := []string{alive, gone}
	slices.Sort(both)
	expect := func(when string, want ...string) {
		t.Helper()
		guard.runOnce(t.Context(), host)
		names, err := host.Pairs()
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		if !slices.Equal(names, want) {
			t.Errorf("%s: %v is left, want %v", when, names, want)
		}
	}
	expect("seen first", both...)
	time.pass(Interval)
	expect("the pod may still be starting", both...)
	time.pass(guard.MinAge)
	doubt = errors.New("the runtime does not answer")
	expect("in doubt", both...)
	doubt = nil
	expect("seen first after the doubt", both...)
	time.pass(guard.MinAge)
	expect("old", alive)
}

func TestOldOrphanRoutesAreRemoved(t *testing.T) {
	m, host, guard := newMaintainer(t)
	time := timed(guard)
	m.Bridge("cni0")
	for _, a := range []string{"10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"} {
		m.Must("", "ip", "route", "add", a, "dev", "cni0", "table", "500", "proto", "83")
		m.Must("", "ip", "neigh", "add", a, "lladdr", "02:00:00:00:00:01", "dev", "cni0", "nud", "permanent")
	}
	m.Must("", "ip", "route", "add", "10.0.0.3", "dev", "cni0", "table", "500") // not ours
	var doubt error
	guard.Unleased = func(addrs []netip.Addr) ([]netip.Addr, error) {
		if len(addrs) != 4 {
			t.Errorf("asked for %v", addrs)
		}
		return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, doubt
	}
	count := func() int {
		guard.runOnce(t.Context(), host)
		return strings.Count(m.Must("", "sh", "-c", "ip -4 route show table 500; ip -6 route show table 500; ip neigh show dev cni0 nud permanent"), "\n")
	}
	if n := count(); n != 9 {
		t.Errorf("seen first, %d routes and neighbors are left of 9", n)
	}
	time.pass(guard.MinAge)
	doubt = errors.New("leases are not read yet")
	if n := count(); n != 9 {
		t.Errorf("in doubt, %d routes and neighbors are left of 9", n)
	}
	doubt = nil
	count()
	time.pass(guard.MinAge)
	if n := count(); n != 5 {
		t.Errorf("old, %d routes and neighbors are left, want 5", n)
	}
}

func TestFactsCoverUnknownLinkKinds(t *testing.T) {
	_, host, _ := newMaintainer(t)
	facts, err := host.Facts(append(netplan.LinkKinds, "nonsense")...)
	if err != nil || facts.Kinds["nonsense"] || len(facts.Kinds) != len(netplan.LinkKinds)+1 {
		t.Errorf("got %v (%v)", facts.Kinds, err)
	}
}

func TestPreflightWarnsAboutUnmetRequirements(t *testing.T) {
	m, host, guard := newMaintainer(t)
	m.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
	m.Must("", "nft", "add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }")
	m.Must("", "nft", "add chain inet filter input { type filter hook input priority 0; policy drop; }")
	guard.IPv6 = true
	var message string
	guard.Warn = func(findings string) { message = findings }
	linuxtest.Wire(m, "ens5", linuxtest.NewMachine(t, "peer"), "ens5")
	m.Must("", "ip", "link", "set", "ens5", "mtu", "1400")
	guard.Masters = func(context.Context) ([]netplan.Master, error) {
		return []netplan.Master{{Attachment: "kube-system/a", Name: "ens5", MTU: 1400}, {Attachment: "kube-system/b", Name: "ens5", MTU: 1500},
			{Attachment: "kube-system/c", Name: "ens9"}}, nil
	}
	guard.preflight(t.Context(), host)
	if !strings.Contains(message, "sysctl net/ipv6/conf/all/disable_ipv6 is 1, want 0") {
		t.Errorf("got %s", message)
	}
	if !strings.Contains(message, "policy of chain inet filter forward is drop") || strings.Contains(message, "input") {
		t.Errorf("the finding does not name exactly the chain forward: %s", message)
	}
	for _, want := range []string{"MTU of interface ens5 is 1400, want 1500 or more: it is the master of network attachment kube-system/b", "interface ens9 is missing"} {
		if !strings.Contains(message, want) {
			t.Errorf("%q is not in %s", want, message)
		}
	}
	if strings.Contains(message, "kube-system/a") {
		t.Errorf("the finding names a fitting attachment: %s", message)
	}
	event := observe.NodeNotPrepared(message)
	if err := docblocks.Shows("node-not-prepared", fmt.Sprintf("%s %s %s", event.Type, event.Reason, event.Text)); err != nil {
		t.Error(err)
	}
	for _, kind := range []string{"ipvlan", "macvlan"} {
		if lacks := strings.Contains(message, "link kind "+kind+" "); lacks == linuxtest.HasKind(t, kind) {
			t.Errorf("kind %s, supported: %v, message: %s", kind, !lacks, message)
		}
	}
}

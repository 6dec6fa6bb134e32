//go:build kernel

package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
)

func upkeep(t *testing.T) (*linuxtest.Machine, *linux.Namespace, *Upkeep) {
	t.Helper()
	m := linuxtest.NewMachine(t, "node")
	host, err := linux.Open(m.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	return m, host, &Upkeep{
		HostRuleTable: func(context.Context) (int, bool) { return 500, true },
		Sandboxes:     func(context.Context) (map[string]bool, error) { return nil, nil },
		Warn:          func(string, string) {},
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

func TestWhatWasFlushedIsPutBack(t *testing.T) {
	m, host, u := upkeep(t)
	u.Sandboxes = func(context.Context) (map[string]bool, error) { return map[string]bool{"a": true}, nil }
	name := pair(t, m, "a")
	m.Must("", "ip", "route", "add", "10.0.0.2/32", "dev", name, "table", "500", "proto", "83")
	u.round(t.Context(), host)
	for _, flush := range [][]string{
		{"ip", "rule", "del", "priority", "1000"},
		{"ip", "-6", "rule", "del", "priority", "1000"},
		{"sh", "-c", "nft flush ruleset; iptables-legacy -t nat -F; ip6tables-legacy -t nat -F"},
		{"sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"},
	} {
		m.Must("", flush[0], flush[1:]...)
		if changes, err := host.CompareNode(500); err != nil || len(changes) == 0 {
			t.Errorf("%v: nothing is missing (%v)", flush, err)
		}
		u.round(t.Context(), host)
		if changes, err := host.CompareNode(500); err != nil || len(changes) != 0 {
			t.Errorf("%v: still missing (%v):\n%s", flush, err, changes)
		}
	}
}

func TestNodeWithoutPodsIsLeftAlone(t *testing.T) {
	m, host, u := upkeep(t)
	m.Must("", "ip", "route", "add", "10.0.0.2/32", "dev", "lo", "table", "500")
	u.round(t.Context(), host)
	if rules := m.Must("", "ip", "rule"); strings.Contains(rules, "500") {
		t.Errorf("rules:\n%s", rules)
	}
}

func TestPairsOfPodsThatAreGoneAreRemovedInTheSecondRound(t *testing.T) {
	m, host, u := upkeep(t)
	ids := map[string]bool{"alive": true}
	var doubt error
	u.Sandboxes = func(context.Context) (map[string]bool, error) { return ids, doubt }
	alive, gone := pair(t, m, "alive"), pair(t, m, "gone")
	present := func() []string {
		names, err := host.Pairs()
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		return names
	}
	both := []string{alive, gone}
	slices.Sort(both)
	u.round(t.Context(), host)
	doubt = errors.New("the runtime does not answer")
	u.round(t.Context(), host)
	doubt = nil
	u.round(t.Context(), host)
	if got := present(); !slices.Equal(got, both) {
		t.Fatalf("a pair was removed on doubt: %v is left", got)
	}
	u.round(t.Context(), host)
	if got := present(); !slices.Equal(got, []string{alive}) {
		t.Errorf("%v is left, want %s", got, alive)
	}
}

func TestPreflightTellsTheClusterWhatTheNodeLacks(t *testing.T) {
	m, host, u := upkeep(t)
	m.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
	u.IPv6 = true
	var reason, message string
	u.Warn = func(r, m string) { reason, message = r, m }
	u.preflight(host)
	if reason != "NodeNotPrepared" || !strings.Contains(message, "sysctl net/ipv6/conf/all/disable_ipv6 is 1, want 0") {
		t.Errorf("got %s: %s", reason, message)
	}
	for _, kind := range []string{"ipvlan", "macvlan"} {
		if lacks := strings.Contains(message, "link kind "+kind+" "); lacks == linuxtest.HasKind(t, kind) {
			t.Errorf("kind %s: the kernel has it: %v; the message: %s", kind, !lacks, message)
		}
	}
}

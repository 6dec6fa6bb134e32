//go:build kernel

package linux

import (
	"slices"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
)

func TestLeftoversOfNodeAreRemoved(t *testing.T) {
	m, ns := machine(t)
	m.Addr("eth0", "10.0.0.2/24", "fd00::2/64")
	m.Must("", "ip", "rule", "add", "priority", "1000", "lookup", "777") // another program's
	m.Must("", "ip", "route", "add", "192.0.2.0/24", "dev", "eth0")
	before, err := ns.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	ours := parse(t, `
route 10.0.0.9/32 dev eth0 table 500 proto 83
route fd00::9/128 dev eth0 table 500 proto 83
rule ip 1000 from all lookup 500 proto 83
rule ip6 1000 from all lookup 500 proto 83
masquerade ip links spv
masquerade ip6 links spv
`)
	if err := ns.Apply(netplan.Diff(nil, ours, nil), nil); err != nil {
		t.Fatal(err)
	}
	m.Must("", "ip", "link", "add", "spv0123456789ab", "type", "veth", "peer", "name", "podend")

	left, err := ns.NodeLeftovers()
	if err != nil {
		t.Fatal(err)
	}
	want := append(netplan.State{netplan.Link{Name: "spv0123456789ab", Kind: "veth"}}, ours...)
	for _, it := range want {
		if !slices.ContainsFunc(left, func(have netplan.Item) bool { return have.Key() == it.Key() }) {
			t.Errorf("not found: %s", it)
		}
	}
	if len(left) != len(want) {
		t.Errorf("found %d items, want %d:\n%s", len(left), len(want), left)
	}
	if err := ns.Delete(left); err != nil {
		t.Fatal(err)
	}
	if again, err := ns.NodeLeftovers(); err != nil || len(again) > 0 {
		t.Errorf("left after the removal: %s, %v", again, err)
	}
	after, err := ns.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if before.String() != after.String() {
		t.Errorf("other programs' state changed from\n%s\nto\n%s", before, after)
	}
}

func TestOnlyOurUnusedMastersAreRemoved(t *testing.T) {
	for _, kind := range []string{"vlan", "bond"} {
		if !linuxtest.HasKind(t, kind) {
			t.Skip("this kernel has no links of kind " + kind)
		}
	}
	m := linuxtest.NewMachine(t, "node")
	other := linuxtest.NewMachine(t, "switch")
	for _, name := range []string{"ens5", "ens6"} {
		linuxtest.Wire(m, name, other, name)
	}
	ns := open(t, m)
	if err := m.VLAN("ens5", 30); err != nil { // the administrator's, adopted below
		t.Fatal(err)
	}
	for _, v := range []VLAN{{"ens5.10", "ens5", 10}, {"ens5.20", "ens5", 20}, {"ens5.30", "ens5", 30}} {
		if err := ns.EnsureVLAN(v); err != nil {
			t.Fatal(err)
		}
	}
	if err := ns.EnsureBond(Bond{Name: "bond7", Mode: 1, Ports: []string{"ens6"}}); err != nil {
		t.Fatal(err)
	}
	if err := ns.EnsureVLAN(VLAN{"bond7.40", "bond7", 40}); err != nil {
		t.Fatal(err)
	}
	m.Addr("ens5.20", "192.0.2.1/24") // the administrator uses it

	removed, kept, err := ns.RemoveMasters()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(removed, " "); got != "ens5.10 bond7.40 bond7" {
		t.Errorf("removed %s, want ens5.10 bond7.40 bond7", got)
	}
	if len(kept) != 1 || kept[0] != "ens5.20 (has the address 192.0.2.1/24)" {
		t.Errorf("kept %q", kept)
	}
	m.Link("ens5.30")
	if port := m.Link("ens6"); port.Attrs().Flags&1 == 0 {
		t.Error("the port of the removed bond is down")
	}
}

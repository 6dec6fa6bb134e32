package netplan

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func guarding() Guarding {
	return Guarding{Dev: "eth0", On: true, WithVeth: true, Addrs: ips("172.31.28.17", "2406:da1e:c4:ed01:c57d::1"),
		LinkLocal: ips("fe80::5"), VethMAC: mac("02:00:00:00:00:0a")}
}

func guardLinks() State {
	return State{Link{Name: "eth0", MAC: mac("02:00:00:00:00:05")}, Link{Name: "net1", MAC: mac("02:00:00:00:00:06")}, Link{Name: PodVeth}}
}

func TestGuardPlans(t *testing.T) {
	first := guarding().Plan(guardLinks())
	golden(t, "guard", first.String())
	later := Guarding{Dev: "net1", On: true, Addrs: ips("10.20.0.17"), VethMAC: mac("02:00:00:00:00:0a"), Exceptions: pfx("10.9.0.0/16")}
	golden(t, "guard-net1", later.Plan(slices.Concat(guardLinks(), first)).String())
}

func TestGuardsFollowSetting(t *testing.T) {
	present := guarding().Plan(guardLinks())
	off := guarding()
	off.On = false
	later := Guarding{Dev: "net1", Addrs: ips("10.20.0.17"), VethMAC: mac("02:00:00:00:00:0a")}
	for name, test := range map[string]struct {
		g    Guarding
		have State
		want []string // changes
	}{
		"repeated":                      {guarding(), present, nil},
		"off":                           {off, nil, nil},
		"turned off":                    {off, present, []string{"- guard veth0", "- guard eth0"}},
		"later interface without":       {later, present, []string{"~ guard veth0"}},
		"later interface, none present": {later, nil, nil},
	} {
		have := slices.Concat(guardLinks(), test.have)
		changes := Diff(have, test.g.Plan(have), test.g.Removable)
		var got []string
		for line := range strings.Lines(changes.String()) {
			got = append(got, strings.Join(strings.Fields(line)[:3], " "))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s:\n%s", name, changes)
		}
	}
}

func TestDetachedInterfaceLosesGuard(t *testing.T) {
	first := guarding().Plan(guardLinks())
	later := Guarding{Dev: "net1", On: true, Addrs: ips("10.20.0.17"), VethMAC: mac("02:00:00:00:00:0a")}
	both := slices.Concat(State{first[0]}, later.Plan(slices.Concat(guardLinks(), first)))
	changes := GuardsWithout(both, "net1", []netip.Addr{netip.MustParseAddr("10.20.0.17")})
	if len(changes) != 2 || !strings.HasPrefix(changes[0].String(), "- guard net1") || changes[1].New != first[1] {
		t.Errorf("got\n%swant the guards\n%s", changes, first)
	}
}

func TestGuardStateIsParsed(t *testing.T) {
	st := append(guarding().Plan(guardLinks()), NewGuard("net1", mac("02:00:00:00:00:06"), nil))
	parsed, err := Parse(st.String())
	if err != nil || parsed.String() != st.String() {
		t.Errorf("%v: got\n%swant\n%s", err, parsed, st)
	}
}

package netplan

import (
	"slices"
	"strings"
	"testing"
)

func links(names ...string) State {
	st := State{Link{Name: "lo", MTU: 65536}}
	for _, name := range names {
		st = append(st, Link{Name: name, MTU: 1500}, Up{Dev: name})
	}
	return st
}

func TestShapePlans(t *testing.T) {
	for name, limit := range map[string]Limit{
		"bandwidth":       {Dev: "eth0", WithVeth: true, Rates: Rates{Ingress: 10_000_000, Egress: 5_000_000}},
		"bandwidth-net1":  {Dev: "net1", Rates: Rates{Egress: 5_000_001}},
		"bandwidth-fixed": {Dev: "eth0", Rates: Rates{Ingress: 1_000}, Fixed: Rates{Ingress: 2_000, Egress: 3_000}},
	} {
		golden(t, name, limit.Shape(links("eth0", "net1", "veth0")).String())
	}
}

func TestMissingInterfaceIsNotShaped(t *testing.T) {
	if st := (Limit{Dev: "net1", Rates: Rates{Ingress: 1_000}}).Shape(links("eth0")); len(st) != 0 {
		t.Errorf("got %s", st)
	}
}

// A full queue of a full bucket bounds the delay: 50 ms at all but the lowest rates.
func TestQueuesAreShort(t *testing.T) {
	const frame = 1518
	for _, test := range []struct {
		rate         uint64
		burst, queue int
	}{
		{1_000, 2 * frame, 10 * frame},
		{1_000_000, 2 * frame, 10 * frame},
		{100_000_000, 62_500, 625_000},
		{1_000_000_000, 625_000, 6_250_000},
		{5_000_000_000, 3_125_000, 16 << 20},
		{1_000_000_000_000_000, 64 << 20, 16 << 20},
	} {
		s := Shaper{Rate: test.rate}
		if burst, queue := s.Burst(1500), s.Queue(1500); burst != test.burst || queue != test.queue {
			t.Errorf("%d bit/s: bucket %d, queue %d; want %d, %d", test.rate, burst, queue, test.burst, test.queue)
		}
	}
}

func TestLongInterfaceNamesGetShaperLinks(t *testing.T) {
	seen := map[string]bool{}
	for _, dev := range []string{"eth0", "net1", "abcdefghijklmno", "abcdefghijklmnp", "abcdefghijkl"} {
		for _, d := range []Direction{Ingress, Egress} {
			name := shaperLink(dev, d)
			if InterfaceNameFault(name) != "" || seen[name] || !IsShaperLink(Link{Name: name, Kind: kindIFB}) {
				t.Errorf("%s %s: %q", dev, d, name)
			}
			seen[name] = true
		}
	}
}

func TestRunningPodFollowsRates(t *testing.T) {
	both := Limit{Dev: "eth0", WithVeth: true, Rates: Rates{Ingress: 10_000_000, Egress: 5_000_000}}
	pod := links("eth0", "net1", "veth0")
	shaped := slices.Concat(pod, both.Shape(pod))
	fixed := slices.Concat(pod, Limit{Dev: "net1", Fixed: Rates{Egress: 3_000}}.Shape(pod))
	for name, test := range map[string]struct {
		have  State
		rates map[string]Rates
		want  []string // changes
	}{
		"unchanged": {shaped, map[string]Rates{"eth0": both.Rates}, nil},
		"unlimited": {pod, nil, nil},
		"new": {pod, map[string]Rates{"net1": {Egress: 8_000}}, []string{
			"+ link out-net1 kind ifb mtu 1500", "+ up out-net1", "+ shaper out-net1 rate 8000", "+ redirect net1 egress to out-net1"}},
		"other rate": {shaped, map[string]Rates{"eth0": {Ingress: 20_000_000, Egress: 5_000_000}},
			[]string{"~ shaper in-eth0 rate 10000000 => shaper in-eth0 rate 20000000"}},
		"one direction less": {shaped, map[string]Rates{"eth0": {Egress: 5_000_000}}, []string{
			"- redirect veth0 ingress to in-eth0", "- redirect eth0 ingress to in-eth0", "- shaper in-eth0 rate 10000000", "- link in-eth0 kind ifb mtu 1500"}},
		"fixed stays":         {fixed, nil, nil},
		"fixed is replaced":   {fixed, map[string]Rates{"net1": {Egress: 8_000}}, []string{"~ shaper out-net1 rate 3000 fixed => shaper out-net1 rate 8000"}},
		"no such interface":   {pod, map[string]Rates{"net9": {Egress: 8_000}}, nil},
		"without coordinator": {links("eth0"), map[string]Rates{"eth0": {Egress: 8_000}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			changes := FollowRates(test.have, "eth0", test.rates)
			var got []string
			for line := range strings.Lines(changes.String()) {
				got = append(got, strings.TrimSpace(line))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%swant\n%s", changes, strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestShapeStateIsParsed(t *testing.T) {
	st := Limit{Dev: "eth0", WithVeth: true, Rates: Rates{Ingress: 10_000_000}, Fixed: Rates{Egress: 1 << 40}}.Shape(links("eth0", "veth0"))
	parsed, err := Parse(st.String())
	if err != nil || parsed.String() != st.String() {
		t.Errorf("%v: got\n%swant\n%s", err, parsed, st)
	}
}

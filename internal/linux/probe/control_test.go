package probe

import (
	"net/netip"
	"testing"
)

func TestControlIsNoAddressOfMachine(t *testing.T) {
	for near, want := range map[string][]string{
		"10.1.2.3/24":        {"203.0.113.0/24", "10.1.2.0/32"},
		"203.0.113.7/25":     {"198.51.100.0/24", "203.0.113.0/32"},
		"10.1.2.3/32":        {"203.0.113.0/24"},
		"fd00:1::5/64":       {"fd00:1::/64", "3fff::/20"},
		"fd00:1:2:3::5/128":  {"fd00:1:2:3::/64", "3fff::/20"},
		"2001:db8:0:1::5/48": {"2001:db8:0:1::/64", "3fff::/20"},
	} {
		got := impossible(netip.MustParsePrefix(near))
		if len(got) != len(want) {
			t.Errorf("%s: got %v, want one of each of %v", near, got, want)
			continue
		}
		for i, network := range want {
			if !netip.MustParsePrefix(network).Contains(got[i]) {
				t.Errorf("%s: %s is outside %s", near, got[i], network)
			}
		}
	}
}

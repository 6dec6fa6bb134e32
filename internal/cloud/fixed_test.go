package cloud

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/inet"
)

// fixedSubnets are subnets of two zones. EC2 does not tell the zone of the third one.
var fixedSubnets = map[string]Subnet{
	"subnet-a": {ID: "subnet-a", Zone: "a", CIDRs: []netip.Prefix{prefix("10.0.1.0/24"), prefix("2001:db8:0:1::/64")}},
	"subnet-b": {ID: "subnet-b", Zone: "b", CIDRs: []netip.Prefix{prefix("10.0.16.0/20")}, Layout: RouterLast},
	"subnet-c": {ID: "subnet-c", CIDRs: []netip.Prefix{prefix("10.0.3.0/24")}},
}

func fixedEntry(name, subnet string, device int, ips string) FixedEntry {
	e := FixedEntry{Name: name, Subnet: subnet, Device: device}
	for text := range strings.SplitSeq(ips, ", ") { // of both families
		e.IPs = inet.Union(e.IPs, mustSet(text))
	}
	return e
}

// fixedText describes the pools and the issues.
func fixedText(wanted []FixedWanted, issues []Issue) string {
	var lines []string
	for _, w := range wanted {
		lines = append(lines, fmt.Sprintf("%s device %d zone %q %s via %s: %s", w.Name, w.Device, w.Zone, w.Subnet, w.Gateway, w.IPs))
	}
	for _, i := range issues {
		lines = append(lines, string(i.Reason)+" "+i.Text)
	}
	return strings.Join(lines, "\n")
}

func TestRangesWithoutReservationAreNamed(t *testing.T) {
	explicit := func(cidr string) Reservation { return Reservation{CIDR: prefix(cidr)} }
	for _, tc := range []struct {
		name, ips, command string
		reserved           []Reservation
		want               string // all but the beginning
	}{
		{"none", "10.0.1.192-10.0.1.254", "reserve", nil, "10.0.1.192-10.0.1.254, so the cloud may give them to others, e.g. in a prefix; run reserve 10.0.1.192/26"},
		{"all", "10.0.1.192-10.0.1.254", "reserve", []Reservation{explicit("10.0.1.192/26")}, ""},
		{"a part", "10.0.1.192-10.0.1.254", "reserve", []Reservation{explicit("10.0.1.192/29")},
			"10.0.1.200-10.0.1.254, so the cloud may give them to others, e.g. in a prefix; run reserve 10.0.1.200/29, and the same for 10.0.1.208/28, and the same for 10.0.1.224/27"},
		{"for prefixes", "10.0.1.192-10.0.1.199", "reserve", []Reservation{{CIDR: prefix("10.0.1.128/25"), Prefixes: true}},
			"10.0.1.192-10.0.1.199, so the cloud may give them to others, e.g. in a prefix; delete the reservation 10.0.1.128/25 for prefixes, or take its addresses out of spec.interfaces[].fixedAddresses[].ips; then run reserve 10.0.1.192/28"},
		{"IPv6", "2001:db8:0:1::20-2001:db8:0:1::2f", "reserve", []Reservation{explicit("10.0.1.192/26")},
			"2001:db8:0:1::20-2001:db8:0:1::2f, so the cloud may give them to others, e.g. in a prefix; run reserve 2001:db8:0:1::20/124"},
		{"cloud without reservations", "10.0.1.192", "", nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			subnet := fixedSubnets["subnet-a"]
			subnet.ReserveCommand, subnet.Reserved = tc.command, tc.reserved
			d := Discovery{Now: start, Network: "aws", Subnets: map[string]Subnet{"subnet-a": subnet}, Managed: true}
			wanted, issues := FixPools(d, []FixedEntry{fixedEntry("db", "subnet-a", 0, tc.ips)}, nil, nil)
			if len(wanted) != 1 || wanted[0].Unreserved.IsEmpty() != (tc.want == "") || wanted[0].SubnetID != "subnet-a" {
				t.Fatalf("the pools are %+v", wanted)
			}
			want := ""
			if tc.want != "" {
				want = "RangeNotReserved fixedAddresses db of device 0: subnet subnet-a has no explicit reservation for " + tc.want
			}
			if diff := cmp.Diff(want, fixedText(nil, issues)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

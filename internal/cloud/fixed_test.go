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

func TestFixPools(t *testing.T) {
	const db4, db6 = `aws-db-fixed-v4 device 0 zone "a" 10.0.1.0/24 via 10.0.1.1: `, `aws-db-fixed-v6 device 0 zone "a" 2001:db8:0:1::/64 via 2001:db8:0:1::1: `
	mine := func(ips string) func(*Discovery) {
		return func(d *Discovery) { d.Others = mustSet(ips) }
	}
	for _, tc := range []struct {
		name    string
		entries []FixedEntry
		have    map[string]inet.Set
		change  func(*Discovery)
		want    []string // beginnings of lines
	}{
		{"no entry", nil, nil, nil, nil},
		{"IPv4", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.20-10.0.1.30")}, nil, nil, []string{db4 + "10.0.1.20-10.0.1.30"}},
		{"both families", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.20, 2001:db8:0:1::20-2001:db8:0:1::2f")}, nil, nil,
			[]string{db4 + "10.0.1.20", db6 + "2001:db8:0:1::20-2001:db8:0:1::2f"}},
		{"two zones", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.20"), fixedEntry("db-b", "subnet-b", 1, "10.0.16.20")}, nil, nil,
			[]string{db4 + "10.0.1.20", `aws-db-b-fixed-v4 device 1 zone "b" 10.0.16.0/20 via 10.0.31.253: 10.0.16.20`}},
		{"unknown subnet", []FixedEntry{fixedEntry("db", "subnet-x", 0, "10.0.1.20")}, nil, nil,
			[]string{"SubnetUnknown fixedAddresses db of device 0: no interface of the nodes is in subnet subnet-x; "}},
		{"unknown zone", []FixedEntry{fixedEntry("db", "subnet-c", 0, "10.0.3.20")}, nil, nil,
			[]string{"SubnetUnknown fixedAddresses db of device 0: the cloud does not tell the zone of subnet subnet-c"}},
		{"one name twice", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.20"), fixedEntry("db", "subnet-b", 1, "10.0.16.20")}, nil, nil,
			[]string{db4 + "10.0.1.20", "FixedInvalid fixedAddresses db of device 1: another interface has fixedAddresses of this name; "}},
		{"outside", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.250-10.0.2.3")}, nil, nil,
			[]string{db4 + "10.0.1.250-10.0.1.254", "Overlap fixedAddresses db of device 0: other pools, the cloud or interfaces of nodes have 10.0.1.255; ",
				"FixedInvalid fixedAddresses db of device 0: 10.0.2.0-10.0.2.3 are outside of subnet subnet-a, which has [10.0.1.0/24 2001:db8:0:1::/64]; "}},
		{"only outside", []FixedEntry{fixedEntry("db", "subnet-b", 0, "10.0.1.20, 2001:db8::1")}, nil, nil,
			[]string{"FixedInvalid fixedAddresses db of device 0: 10.0.1.20, 2001:db8::1 are outside of subnet subnet-b"}},
		{"too many of one family", []FixedEntry{fixedEntry("db", "subnet-b", 0, "10.0.17.0-10.0.18.0")}, nil, nil,
			[]string{"FixedInvalid fixedAddresses db of device 0: 257 IPv4 addresses are more than 256; "}},
		{"as many as possible", []FixedEntry{fixedEntry("db", "subnet-b", 0, "10.0.17.0-10.0.17.255")}, nil, nil,
			[]string{`aws-db-fixed-v4 device 0 zone "b" 10.0.16.0/20 via 10.0.31.253: 10.0.17.0-10.0.17.255`}},
		{"too many of the other family", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.20, 2001:db8:0:1::100-2001:db8:0:1::200")}, nil, nil,
			[]string{db4 + "10.0.1.20", "FixedInvalid fixedAddresses db of device 0: 257 IPv6 addresses are more than 256; "}},
		{"addresses of the cloud only", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.0-10.0.1.3")}, nil, nil,
			[]string{"Overlap fixedAddresses db of device 0: other pools, the cloud or interfaces of nodes have 10.0.1.0-10.0.1.3; "}},
		{"entries overlap", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.20-10.0.1.30"), fixedEntry("web", "subnet-a", 0, "10.0.1.25-10.0.1.35")}, nil, nil,
			[]string{db4 + "10.0.1.20-10.0.1.30", `aws-web-fixed-v4 device 0 zone "a" 10.0.1.0/24 via 10.0.1.1: 10.0.1.31-10.0.1.35`,
				"Overlap fixedAddresses web of device 0: other pools, the cloud or interfaces of nodes have 10.0.1.25-10.0.1.30; "}},
		{"an entry within another", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.20-10.0.1.30"), fixedEntry("web", "subnet-a", 0, "10.0.1.25")}, nil, nil,
			[]string{db4 + "10.0.1.20-10.0.1.30", "Overlap fixedAddresses web of device 0: "}},
		{"pool of a user", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.20-10.0.1.30")}, nil, mine("10.0.1.30"),
			[]string{db4 + "10.0.1.20-10.0.1.29", "Overlap fixedAddresses db of device 0: other pools, the cloud or interfaces of nodes have 10.0.1.30; "}},
		{"its own pool", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.20-10.0.1.30")}, map[string]inet.Set{"aws-db-fixed-v4": mustSet("10.0.1.20-10.0.1.25")}, mine("10.0.1.20-10.0.1.25"),
			[]string{db4 + "10.0.1.20-10.0.1.30"}},
		{"pool of a node", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.20-10.0.1.40")}, nil, func(d *Discovery) {
			d.Pools = []ExistingPool{{Pool: Pool{Name: "aws-worker1-0-v4", IPs: mustSet("10.0.1.32-10.0.1.47")}}}
		}, []string{db4 + "10.0.1.20-10.0.1.31", "Overlap fixedAddresses db of device 0: "}},
		{"address of a node", []FixedEntry{fixedEntry("db", "subnet-a", 0, "10.0.1.20-10.0.1.22")}, nil, func(d *Discovery) {
			i := Interface{ID: "eni-1", Subnet: "subnet-a", Primary: []netip.Addr{netip.MustParseAddr("10.0.1.21")}}
			d.Members = []Member{{Node: "worker1", Answers: History{}.Add(Answer{At: start, Instance: &Instance{Interfaces: []Interface{i}}})}, {Node: "unknown"}}
		}, []string{db4 + "10.0.1.20, 10.0.1.22", "Overlap fixedAddresses db of device 0: other pools, the cloud or interfaces of nodes have 10.0.1.21; "}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := Discovery{Now: start, Network: "aws", Subnets: fixedSubnets, Managed: true}
			if tc.change != nil {
				tc.change(&d)
			}
			got := strings.Split(fixedText(FixPools(d, tc.entries, tc.have, nil)), "\n")
			for i, want := range tc.want {
				if i < len(got) && strings.HasPrefix(got[i], want) {
					got[i] = want
				}
			}
			if diff := cmp.Diff(strings.Join(tc.want, "\n"), strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
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

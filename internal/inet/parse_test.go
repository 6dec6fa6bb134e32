package inet

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestParseRefusesWithReasonAndWayOut(t *testing.T) {
	t.Parallel()
	subnet := netip.MustParsePrefix("172.31.16.0/20")
	for _, tc := range []struct {
		name  string
		entry string
		in    Bounds
		want  string // part of the message
	}{
		{"inverted", "10.0.0.9-10.0.0.1", Bounds{}, "write 10.0.0.1-10.0.0.9"},
		{"mixed", "10.0.0.1-fd00::1", Bounds{}, "10.0.0.1 is IPv4 and fd00::1 is IPv6"},
		{"no address", "10.0.0.256", Bounds{}, `"10.0.0.256" is not an IP address`},
		{"empty", "", Bounds{}, `"" is not an IP address`},
		{"no end", "10.0.0.1-", Bounds{}, `"" is not an IP address`},
		{"three parts", "10.0.0.1-10.0.0.2-10.0.0.3", Bounds{}, `"10.0.0.2-10.0.0.3" is not an IP address`},
		{"leading zero", "10.0.0.01", Bounds{}, "is not an IP address"},
		{"CIDR", "172.31.28.16/28", Bounds{}, "write the range 172.31.28.16-172.31.28.31"},
		{"zone", "fe80::1%eth0", Bounds{}, "write fe80::1"},
		{"mapped", "::ffff:10.0.0.1", Bounds{}, "write 10.0.0.1"},
		{"spaces", "10.0.0.1 - 10.0.0.2", Bounds{}, "remove them"},
		{"other version", "fd00::1", Bounds{Family: 4}, "is IPv6, but this list is for IPv4"},
		{"version of the subnet", "fd00::1", Bounds{Subnet: subnet}, "is IPv6, but this list is for IPv4"},
		{"begins outside", "172.31.15.255-172.31.16.5", Bounds{Subnet: subnet},
			"172.31.15.255 is outside the subnet 172.31.16.0/20 (172.31.16.0-172.31.31.255)"},
		{"ends outside", "172.31.31.255-172.31.32.0", Bounds{Subnet: subnet}, "172.31.32.0 is outside the subnet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			set, err := Parse([]string{tc.entry}, tc.in)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Parse(%q) = %v, want an error with %q", tc.entry, err, tc.want)
			}
			var rangeErr *RangeError
			if !errors.As(err, &rangeErr) || rangeErr.Index != 0 || rangeErr.Value != tc.entry {
				t.Errorf("the error is %#v, want index 0 and the value", err)
			}
			if !set.IsEmpty() {
				t.Errorf("the set is %s, want it empty", set)
			}
		})
	}
}

func TestParseReportsEveryBadEntry(t *testing.T) {
	t.Parallel()
	set, err := Parse([]string{"x", "10.0.0.1", "fd00::1", "y"}, Bounds{})
	var errs RangeErrors
	if !errors.As(err, &errs) || len(errs) != 3 || errs[0].Index != 0 || errs[1].Index != 2 || errs[2].Index != 3 {
		t.Fatalf("errors are %v, want those of entries 0, 2 and 3", err)
	}
	if set.String() != "10.0.0.1" {
		t.Errorf("the set is %s, want the good entry", set)
	}
}

func TestGivenFamilyOutranksSubnet(t *testing.T) {
	_, err := Parse([]string{"fd00::1"}, Bounds{Family: 4, Subnet: netip.MustParsePrefix("fd00::/64")})
	if err == nil || !strings.Contains(err.Error(), "is IPv6, but this list is for IPv4") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "10.0.0.1", "10.0.0.1-10.0.0.9", "10.0.0.9-10.0.0.1", "fd00::1-fd00::f", "fe80::1%eth0", "::ffff:10.0.0.1",
		"172.31.28.16/28", "2406:da1e:c4:ed01:c57d::0-2406:da1e:c4:ed01:c57d::f", "-", "1-2-3", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		set, err := Parse([]string{entry}, Bounds{})
		if err != nil {
			if !set.IsEmpty() {
				t.Fatalf("%q is refused and gives %s", entry, set)
			}
			return
		}
		texts := set.Strings()
		if len(texts) != 1 {
			t.Fatalf("%q gives %q, want one range", entry, texts)
		}
		again, err := Parse(texts, Bounds{})
		if err != nil || !again.Equal(set) {
			t.Fatalf("%q gives %q, which reads as %s, %v", entry, texts, again, err)
		}
		first, _ := set.First()
		if base, ok := set.NthBlock(0); !ok || base != BlockOf(first) {
			t.Fatalf("first block of %s is %s, %t", set, base, ok)
		}
	})
}

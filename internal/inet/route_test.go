package inet

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRouteNamesFaultyKey(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ dst, gw, want string }{
		{"10.0.0.0/8", "192.0.2.1", ""},
		{"10.0.0.7/8", "192.0.2.1", ""},
		{"::/0", "fe80::1", ""},
		{"10.0.0.0", "192.0.2.1", `dst "10.0.0.0": is not a network`},
		{"::ffff:10.0.0.0/104", "192.0.2.1", `dst "::ffff:10.0.0.0/104": is not a network`},
		{"10.0.0.0/8", "router", `gw "router": is not an IP address`},
		{"10.0.0.0/8", "::ffff:192.0.2.1", `gw "::ffff:192.0.2.1": is an IPv4 address in IPv6 form; write 192.0.2.1`},
		{"fd00::/8", "fe80::1%eth0", `gw "fe80::1%eth0": has a zone`},
		{"10.0.0.0/8", "fd00::1", `gw "fd00::1": is IPv6, but dst 10.0.0.0/8 is IPv4`},
		{"10.0.0.0/8", "0.0.0.0", `gw "0.0.0.0": is the unspecified address`},
		{"10.0.0.0/8", "127.0.0.1", `gw "127.0.0.1": is a loopback address`},
		{"fd00::/8", "ff02::1", `gw "ff02::1": is a multicast address`},
		{"10.0.0.0/8", "255.255.255.255", `gw "255.255.255.255": is the broadcast address`},
	} {
		t.Run(tc.dst+" via "+tc.gw, func(t *testing.T) {
			t.Parallel()
			r, err := ParseRoute(tc.dst, tc.gw)
			var fault *RouteError
			switch {
			case tc.want == "" && (err != nil || r.Dst != r.Dst.Masked() || r.Via.String() != tc.gw):
				t.Errorf("got %s, %v", r, err)
			case tc.want != "" && (!errors.As(err, &fault) || !strings.HasPrefix(err.Error(), tc.want)):
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func TestNextHopMustBeHostOfSubnet(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ gw, subnet, want string }{
		{"10.0.0.1", "10.0.0.0/24", ""},
		{"10.0.0.0", "10.0.0.0/31", ""},
		{"10.0.0.1", "10.0.0.0/31", ""},
		{"fd00::", "fd00::/64", ""},
		{"fe80::1", "fd00::/64", ""},
		{"169.254.0.1", "10.0.0.0/24", "is outside the subnet 10.0.0.0/24"},
		{"10.0.1.1", "10.0.0.0/24", "is outside the subnet 10.0.0.0/24"},
		{"10.0.0.0", "10.0.0.0/24", "is the network or the broadcast address of the subnet 10.0.0.0/24"},
		{"10.0.0.255", "10.0.0.0/24", "is the network or the broadcast address of the subnet 10.0.0.0/24"},
		{"10.0.0.3", "10.0.0.0/30", "is the network or the broadcast address"},
		{"10.0.0.1", "10.0.0.1/32", "is the only address of the subnet 10.0.0.1/32"},
		{"fd00::1", "fd00::1/128", "is the only address of the subnet fd00::1/128"},
	} {
		t.Run(tc.gw+" in "+tc.subnet, func(t *testing.T) {
			t.Parallel()
			got := NextHopFault(netip.MustParseAddr(tc.gw), netip.MustParsePrefix(tc.subnet))
			if (got == "") != (tc.want == "") || !strings.HasPrefix(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	both := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.1.0/24")}
	if fault := NextHopFault(netip.MustParseAddr("10.0.1.1"), both...); fault != "" {
		t.Errorf("an address of the second subnet: %s", fault)
	}
	if fault := NextHopFault(netip.MustParseAddr("10.0.2.1"), both...); !strings.Contains(fault, "10.0.0.0/24 or 10.0.1.0/24") {
		t.Errorf("an address of neither subnet: %s", fault)
	}
}

func TestSubnetsOfHostsOnly(t *testing.T) {
	t.Parallel()
	for subnet, want := range map[string]string{
		"10.0.0.0/24": "", "169.254.0.0/16": "", "240.0.0.0/24": "", "fd00::/64": "", "fe80::/64": "", "::2/128": "",
		"127.0.0.0/24": "127.0.0.0/8", "0.0.0.0/24": "0.0.0.0/8", "0.0.0.0/0": "0.0.0.0/8", "224.1.0.0/16": "224.0.0.0/4",
		"ff02::/64": "ff00::/8", "::1/128": "::/127", "::/0": "::/127",
	} {
		if got := SubnetFault(netip.MustParsePrefix(subnet)); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%s: got %q, want a conflict with %q", subnet, got, want)
		}
	}
	for subnet, want := range map[string]bool{"169.254.7.0/24": true, "fe80::/64": true, "169.253.0.0/16": false, "fec0::/64": false} {
		if got := IsLinkLocal(netip.MustParsePrefix(subnet)); got != want {
			t.Errorf("IsLinkLocal(%s) = %t", subnet, got)
		}
	}
}

func routesOf(texts ...string) []Route {
	var routes []Route
	for _, text := range texts {
		dst, via, _ := strings.Cut(text, " via ")
		routes = append(routes, Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via)})
	}
	return routes
}

func TestMergeRoutesKeepsMostSpecificGroup(t *testing.T) {
	t.Parallel()
	gateway := routesOf("0.0.0.0/0 via 10.1.0.1")
	for _, tc := range []struct {
		name      string
		pool, pod []Route
		want      []string
	}{
		{"nothing else", nil, nil, []string{"0.0.0.0/0 via 10.1.0.1"}},
		{"default route again", routesOf("0.0.0.0/0 via 10.1.0.1"), nil, []string{"0.0.0.0/0 via 10.1.0.1"}},
		{"other default route", routesOf("0.0.0.0/0 via 10.1.0.2"), nil, []string{"0.0.0.0/0 via 10.1.0.2"}},
		{"host bits", routesOf("10.9.0.0/16 via 10.1.0.1", "10.9.0.7/16 via 10.1.0.1"), nil,
			[]string{"0.0.0.0/0 via 10.1.0.1", "10.9.0.0/16 via 10.1.0.1"}},
		{"pool and pod", routesOf("10.9.0.0/16 via 10.1.0.1"), routesOf("10.9.0.0/16 via 10.1.0.1", "10.9.0.0/16 via 10.1.0.1"),
			[]string{"0.0.0.0/0 via 10.1.0.1", "10.9.0.0/16 via 10.1.0.1"}},
		{"pod before pool", routesOf("10.9.0.0/16 via 10.1.0.1", "10.8.0.0/16 via 10.1.0.1"), routesOf("10.9.0.0/16 via 10.1.0.2"),
			[]string{"0.0.0.0/0 via 10.1.0.1", "10.8.0.0/16 via 10.1.0.1", "10.9.0.0/16 via 10.1.0.2"}},
		{"several next hops", routesOf("10.9.0.0/16 via 10.1.0.1", "10.9.0.0/16 via 10.1.0.2"), nil,
			[]string{"0.0.0.0/0 via 10.1.0.1", "10.9.0.0/16 via 10.1.0.1", "10.9.0.0/16 via 10.1.0.2"}},
		{"own address", routesOf("10.9.0.0/16 via 10.1.0.5"), nil, []string{"0.0.0.0/0 via 10.1.0.1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, r := range MergeRoutes([]netip.Addr{netip.MustParseAddr("10.1.0.5")}, gateway, tc.pool, tc.pod) {
				got = append(got, r.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Few destinations and next hops, so that many routes collide.
func TestMergedRoutesAreDistinct(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test that repeats itself
	addr := func(last int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(last)}) }
	for range 5000 {
		groups := make([][]Route, 3)
		for i := range groups {
			for range random.IntN(6) {
				groups[i] = append(groups[i], Route{Dst: netip.PrefixFrom(addr(random.IntN(16)), 30), Via: addr(1 + random.IntN(4))})
			}
		}
		own := []netip.Addr{addr(1)}
		merged := MergeRoutes(own, groups...)
		seen, last := map[Route]bool{}, MergeRoutes(own, groups[2])
		for _, r := range merged {
			fromLast := slices.ContainsFunc(last, func(l Route) bool { return l.Dst == r.Dst })
			if seen[r] || r.Via == own[0] || r.Dst != r.Dst.Masked() || fromLast && !slices.Contains(last, r) {
				t.Fatalf("%v\nmerge to %v", groups, merged)
			}
			seen[r] = true
		}
		for _, r := range slices.Concat(groups...) {
			reached := slices.ContainsFunc(merged, func(m Route) bool { return m.Dst == r.Dst.Masked() })
			if r.Via != own[0] && !reached {
				t.Fatalf("%v\nlose %s and become %v", groups, r, merged)
			}
		}
		if again := MergeRoutes(own, merged); !slices.Equal(again, merged) {
			t.Fatalf("merged again, %v become %v", merged, again)
		}
	}
}

func FuzzParseRoute(f *testing.F) {
	for _, seed := range [][2]string{{"10.0.0.0/8", "10.0.0.1"}, {"10.0.0.7/8", "0.0.0.0"}, {"::/0", "fe80::1"}, {"fd00::/8", "::ffff:1.2.3.4"}, {"0.0.0.0/0", "224.0.0.1"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, dst, gw string) {
		r, err := ParseRoute(dst, gw)
		if err != nil {
			return
		}
		if r.Dst != r.Dst.Masked() || FamilyOf(r.Via) != FamilyOf(r.Dst.Addr()) || r.Via.Zone() != "" || r.Via.IsMulticast() || r.Via.IsUnspecified() {
			t.Fatalf("%q via %q became %s", dst, gw, r)
		}
		if again, err := ParseRoute(r.Dst.String(), r.Via.String()); err != nil || again != r {
			t.Fatalf("%s is read as %s, %v", r, again, err)
		}
	})
}

package pool

import (
	"net/netip"
	"slices"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
)

func ranges(t testing.TB, entries ...string) inet.Set {
	t.Helper()
	s, err := inet.Parse(entries, inet.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newPool returns a default IPv4 pool of 10.0.0.0/24 after the changes.
func newPool(t testing.TB, name string, changes ...func(*Pool)) *Pool {
	t.Helper()
	p := &Pool{
		Name:    name,
		Family:  4,
		Subnet:  netip.MustParsePrefix("10.0.0.0/24"),
		IPs:     ranges(t, "10.0.0.10-10.0.0.20"),
		Default: true,
	}
	for _, change := range changes {
		change(p)
	}
	return p
}

func v6(p *Pool) {
	p.Family = 6
	p.Subnet = netip.MustParsePrefix("fd00::/64")
	p.IPs = inet.OfPrefix(netip.MustParsePrefix("fd00::10/124"))
}

func notDefault(p *Pool) { p.Default = false }

func catalog(pools ...*Pool) *Catalog {
	c := NewCatalog()
	for _, p := range pools {
		c.Set(p)
	}
	return c
}

func TestUsableAddresses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		subnet   string
		ips      []string
		exclude  []string
		gateway  string
		reserved []string
		want     string
	}{
		{"all", "10.0.0.0/24", []string{"10.0.0.10-10.0.0.20"}, nil, "", nil, "10.0.0.10-10.0.0.20"},
		{"excluded", "10.0.0.0/24", []string{"10.0.0.10-10.0.0.20"}, []string{"10.0.0.12-10.0.0.14"}, "", nil, "10.0.0.10-10.0.0.11, 10.0.0.15-10.0.0.20"},
		{"gateway", "10.0.0.0/24", []string{"10.0.0.10-10.0.0.20"}, nil, "10.0.0.10", nil, "10.0.0.11-10.0.0.20"},
		{"reserved", "10.0.0.0/24", []string{"10.0.0.10-10.0.0.20"}, nil, "", []string{"10.0.0.20-10.0.0.30"}, "10.0.0.10-10.0.0.19"},
		{"network and broadcast", "10.0.0.0/24", []string{"10.0.0.0-10.0.0.255"}, nil, "", nil, "10.0.0.1-10.0.0.254"},
		{"all of a /31", "10.0.0.0/31", []string{"10.0.0.0-10.0.0.1"}, nil, "", nil, "10.0.0.0-10.0.0.1"},
		{"hosts of a /30", "10.0.0.0/30", []string{"10.0.0.0-10.0.0.3"}, nil, "", nil, "10.0.0.1-10.0.0.2"},
		{"hosts of a /126", "fd00::/126", []string{"fd00::-fd00::3"}, nil, "", nil, "fd00::1-fd00::3"},
		{"anycast", "fd00::/64", []string{"fd00::-fd00::f"}, nil, "", nil, "fd00::1-fd00::f"},
		{"last of IPv6", "fd00::/124", []string{"fd00::8-fd00::f"}, nil, "", nil, "fd00::8-fd00::f"},
		{"all of a /127", "fd00::/127", []string{"fd00::-fd00::1"}, nil, "", nil, "fd00::-fd00::1"},
		{"nothing left", "10.0.0.0/24", []string{"10.0.0.10"}, []string{"10.0.0.10"}, "", nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := Pool{Subnet: netip.MustParsePrefix(tc.subnet), IPs: ranges(t, tc.ips...), Exclude: ranges(t, tc.exclude...)}
			p.Family = inet.FamilyOf(p.Subnet.Addr())
			if tc.gateway != "" {
				p.Gateway = netip.MustParseAddr(tc.gateway)
			}
			if got := p.Usable(ranges(t, tc.reserved...)).String(); got != tc.want {
				t.Errorf("usable is %q, want %q", got, tc.want)
			}
		})
	}
}

func TestReservationsReachEveryPool(t *testing.T) {
	t.Parallel()
	c := catalog(newPool(t, "b"), newPool(t, "a"), newPool(t, "six", v6))
	if changed := c.SetReserved(ranges(t, "10.0.0.10")); !slices.Equal(changed, []string{"a", "b"}) {
		t.Errorf("changed are %v, want a and b", changed)
	}
	c.Set(newPool(t, "c"))
	for _, name := range []string{"a", "c"} {
		if got := c.Usable(name).String(); got != "10.0.0.11-10.0.0.20" {
			t.Errorf("usable of %s is %s", name, got)
		}
	}
	if changed := c.SetReserved(inet.Set{}); !slices.Equal(changed, []string{"a", "b", "c"}) {
		t.Errorf("changed are %v, want a, b and c", changed)
	}
}

func TestCatalogForgetsDeletedPools(t *testing.T) {
	t.Parallel()
	c := catalog(newPool(t, "a"), newPool(t, "b"), newPool(t, "c"))
	c.Delete("b")
	c.Delete("unknown")
	c.Set(newPool(t, "a", notDefault))
	if got := c.Names(); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("names are %v", got)
	}
	s, err := Select(c, &Request{}, 4)
	if err != nil || !slices.Equal(s.Names(), []string{"c"}) {
		t.Errorf("default pools are %v, %v; want c", s.Names(), err)
	}
	if _, ok := c.Get("b"); ok || !c.Usable("b").IsEmpty() {
		t.Error("b is still there")
	}
}

func TestSelectorMatchesLikeKubernetes(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"app": "web", "tier": "front", "empty": ""}
	for _, tc := range []struct {
		name     string
		selector *Selector
		want     bool
	}{
		{"nil", nil, true},
		{"empty", &Selector{}, true},
		{"label", &Selector{MatchLabels: map[string]string{"app": "web"}}, true},
		{"other value", &Selector{MatchLabels: map[string]string{"app": "db"}}, false},
		{"missing label", &Selector{MatchLabels: map[string]string{"zone": ""}}, false},
		{"empty value", &Selector{MatchLabels: map[string]string{"empty": ""}}, true},
		{"one of two labels", &Selector{MatchLabels: map[string]string{"app": "web", "tier": "back"}}, false},
		{"In", expression("app", In, "db", "web"), true},
		{"In, other value", expression("app", In, "db"), false},
		{"In, missing", expression("zone", In, ""), false},
		{"NotIn", expression("app", NotIn, "db"), true},
		{"NotIn, has it", expression("app", NotIn, "db", "web"), false},
		{"NotIn, missing", expression("zone", NotIn, "a"), true},
		{"Exists", expression("app", Exists), true},
		{"Exists, empty value", expression("empty", Exists), true},
		{"Exists, missing", expression("zone", Exists), false},
		{"DoesNotExist", expression("zone", DoesNotExist), true},
		{"DoesNotExist, has it", expression("app", DoesNotExist), false},
		{"unknown operator", expression("app", "Like", "w"), false},
		{"labels and expressions", &Selector{
			MatchLabels:      map[string]string{"app": "web"},
			MatchExpressions: []Requirement{{"tier", Exists, nil}, {"tier", NotIn, []string{"front"}}},
		}, false},
	} {
		if unmet, failed := tc.selector.unmet(lookup(labels)); failed == tc.want {
			t.Errorf("%s: unmet is %q; want a match: %t", tc.name, unmet, tc.want)
		}
	}
}

func expression(key string, operator Operator, values ...string) *Selector {
	return &Selector{MatchExpressions: []Requirement{{key, operator, values}}}
}

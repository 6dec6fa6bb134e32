package cloudtest

import (
	"net/netip"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud"
)

func TestFakeConforms(t *testing.T) {
	Conformance(t, func(*testing.T) (cloud.Provider, World) {
		f := NewFake()
		return f, f
	}, Limits{})
}

func TestFaultsComeAsOrdered(t *testing.T) {
	f := NewFake()
	f.Fail(Fault{Method: "Limits", Kind: cloud.Throttled, Times: 2, After: time.Second})
	f.Fail(Fault{Kind: cloud.Unknown})
	for n, want := range []cloud.Kind{cloud.Throttled, cloud.Throttled, cloud.Unknown, ""} {
		_, err := f.Limits(t.Context(), nil)
		if want == "" {
			must(t, err)
			continue
		}
		if e := wantKind(t, err, want); want == cloud.Throttled && e.After != time.Second {
			t.Errorf("call %d: try again after %s, want 1s", n, e.After)
		}
	}
	if n := f.Calls("Limits"); n != 4 || f.Calls("Assign") != 0 || f.Requests() != 4 {
		t.Errorf("%d calls of Limits, want 4 and none else", n)
	}
}

func TestSpaceGivesBackItsAddresses(t *testing.T) {
	s := newSpace([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("2001:db8::/64")}, cloud.RouterFirst)
	if s.free != 256-5 {
		t.Errorf("%d free addresses in a new /24, want 251", s.free)
	}
	for _, text := range []string{"10.0.0.16/28", "10.0.0.77/32", "2001:db8:0:0:7::/80", "2001:db8::77/128"} {
		p := netip.MustParsePrefix(text)
		before := s.free
		s.take(p)
		if s.isFree(p) || p.Addr().Is4() && s.free == before {
			t.Errorf("%s is free after take", p)
		}
		s.give(p)
		if !s.isFree(p) || s.free != before {
			t.Errorf("%s is taken after give", p)
		}
	}
}

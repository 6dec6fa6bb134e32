package lease

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

func TestOnlyFreeAddressesAreWithheld(t *testing.T) {
	start := time.Date(2026, 11, 30, 5, 0, 0, 0, time.UTC)
	base := netip.MustParseAddr("10.0.0.0")
	addr := inet.BlockAddr(base, 3)
	holder := Holder{Attachment: Attachment{"c", "eth0"}, Pod: PodKey{"default", "p"}, PodUID: "u", Node: "n"}
	for name, test := range map[string]struct {
		leases []Lease
		former []Former
		free   bool
	}{
		"no lease":                 {nil, nil, true},
		"released":                 {[]Lease{{Addr: addr, State: Released, Since: start}}, nil, true},
		"withheld already":         {[]Lease{{Addr: addr, State: Withheld, Pool: "p", WithheldBy: "aws", Since: start}}, nil, true},
		"withheld in the future":   {[]Lease{{Addr: addr, State: Withheld, Pool: "p", WithheldBy: "aws", Since: start.Add(time.Hour)}}, nil, true},
		"withheld by another":      {[]Lease{{Addr: addr, State: Withheld, Pool: "p", WithheldBy: "other", Since: start}}, nil, false},
		"in use":                   {[]Lease{{Addr: addr, State: InUse, Pool: "p", Holder: holder, Since: start}}, nil, false},
		"retained":                 {[]Lease{{Addr: addr, State: Retained, Pool: "p", Holder: holder, Since: start}}, nil, false},
		"quarantined":              {[]Lease{{Addr: addr, State: Quarantined, Pool: "p", Since: start, Until: start}}, nil, false},
		"former sandbox":           {nil, []Former{{addr, holder}}, false},
		"released, former sandbox": {[]Lease{{Addr: addr, State: Released, Since: start}}, []Former{{addr, holder}}, false},
		"neighbor in use":          {[]Lease{{Addr: base, State: InUse, Pool: "p", Holder: holder, Since: start}}, nil, true},
	} {
		before := Block{Base: base, Node: "n", Leases: test.leases, Former: test.former}
		after, holders := before.Withhold(1<<3, "aws", "p", start)
		l, _ := after.Lease(addr)
		was, had := before.Lease(addr)
		switch {
		case !test.free:
			if len(holders) != 1 || !slices.Equal(after.Leases, before.Leases) {
				t.Errorf("%s: got holders %v and leases %v", name, holders, after.Leases)
			}
		case len(holders) > 0 || l.State != Withheld || l.WithheldBy != "aws" || l.Pool != "p":
			t.Errorf("%s: got %+v, held by %v", name, l, holders)
		case had && !l.Since.After(was.Since):
			t.Errorf("%s: the lease began at %s, no later than the former one at %s, so a late write may take one for the other", name, l.Since, was.Since)
		}
		if err := after.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNetworkEndsOnlyItsOwn(t *testing.T) {
	start := time.Date(2026, 11, 30, 5, 0, 0, 0, time.UTC)
	b, _ := Block{Base: netip.MustParseAddr("10.0.0.0")}.Withhold(1<<1|1<<2, "aws", "p", start)
	b, _ = b.Withhold(1<<3, "other", "p", start)
	if _, ok := b.EndWithheld(1<<3|1<<4, "aws", start); ok {
		t.Error("it ended an address of another network, or a free one")
	}
	b, ok := b.EndWithheld(1<<2|1<<3, "aws", start)
	var got []State
	for _, l := range b.Leases {
		got = append(got, l.State)
	}
	if want := []State{Withheld, Released, Withheld}; !ok || !slices.Equal(got, want) {
		t.Errorf("got %v, %t, want %v", got, ok, want)
	}
	if err := b.Validate(); err != nil {
		t.Error(err)
	}
	if b.Removable(nil, start.AddDate(1, 0, 0), 0) {
		t.Error("a block with a withheld address is removable")
	}
}

// An agent grants no withheld address, however full the pool is and however much time passes.
func TestWithheldAddressIsNotGranted(t *testing.T) {
	start := time.Date(2026, 11, 30, 5, 0, 0, 0, time.UTC)
	base := netip.MustParseAddr("10.0.0.0")
	b, _ := Block{Base: base, Version: "1"}.Withhold(1<<1|1<<2|1<<3, "aws", "p", start)
	for _, owner := range []string{"n", "other"} {
		b.Node = owner
		x := NewIndex(Options{Node: "n"})
		x.SetPool("p", inet.OfAddrs(inet.BlockAddr(base, 1), inet.BlockAddr(base, 2), inet.BlockAddr(base, 4)))
		x.Put(b, start)
		if u := x.Usage("p"); u.Free != 1 || u.Withheld != 3 {
			t.Errorf("got %+v", u)
		}
		request := func(container string) Request {
			return Request{Pod: PodKey{"default", container}, PodUID: container, ContainerID: container, Node: "n", Wants: []Want{{"eth0", inet.IPv4, []string{"p"}}}}
		}
		plan := x.Choose(start.AddDate(1, 0, 0), request("c1"), request("c2"))
		if plan.Results[0].Err != nil || plan.Results[0].Grants[0].Addr != inet.BlockAddr(base, 4) || plan.Results[1].Err == nil {
			t.Errorf("got %+v", plan.Results)
		}
		if len(plan.Writes) != 1 || len(plan.Writes[0].Withheld()) != 3 {
			t.Errorf("the agent writes %+v, without the withheld addresses", plan.Writes)
		}
	}
}
func TestWithholdableFitsIntoLeases(t *testing.T) {
	for piece, want := range map[string]string{
		"10.0.0.16/28":       "10.0.0.16-10.0.0.31",
		"10.0.0.7/32":        "10.0.0.7",
		"10.0.0.0/16":        "10.0.0.0-10.0.0.255",
		"fd00:0:0:0:5::/80":  "fd00::5:0:0:0-fd00::5:0:0:ff",
		"fd00::17/128":       "fd00::17",
		"2001:db8:1:2::/64":  "2001:db8:1:2::-2001:db8:1:2::ff",
		"2001:db8::ff00/120": "2001:db8::ff00-2001:db8::ffff",
	} {
		got := Withholdable(netip.MustParsePrefix(piece))
		if got.String() != want || got.Count() > MaxWithheld {
			t.Errorf("%s: got %s with %d addresses, want %s", piece, got, got.Count(), want)
		}
	}
}

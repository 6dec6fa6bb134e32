package cloudtest

import (
	"net/netip"
	"sync"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

func checkAssign(t *testing.T, s scene) {
	var all []netip.Prefix
	for _, want := range []struct {
		family inet.Family
		unit   cloud.Unit
		within netip.Prefix
		bits   int
	}{
		{inet.IPv4, cloud.Prefixes, cidrIPv4, 28},
		{inet.IPv4, cloud.Addresses, cidrIPv4, 32},
		{inet.IPv6, cloud.Prefixes, cidrIPv6, 80},
		{inet.IPv6, cloud.Addresses, cidrIPv6, 128},
	} {
		pieces := s.assign(t, s.eth0.ID, want.family, want.unit, 2)
		if len(pieces) != 2 {
			t.Fatalf("%s %s: %v, want 2", want.family, want.unit, pieces)
		}
		for _, p := range pieces {
			if p.Bits() != want.bits || p != p.Masked() || !want.within.Contains(p.Addr()) {
				t.Errorf("%s %s: %s, want a /%d of %s", want.family, want.unit, p, want.bits, want.within)
			}
		}
		all = append(all, pieces...)
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if a.Overlaps(b) {
				t.Errorf("%s and %s overlap", a, b)
			}
		}
	}
	got := s.describe(t, s.eth0.ID)
	// The cloud may show single IPv6 addresses as the node's own.
	for _, a := range got.Primary {
		if a.Is6() {
			got.Assigned = append(got.Assigned, single(a))
		}
	}
	wantPieces(t, got.Assigned, all...)
}

// exact asks for pieces by name.
func exact(iface string, unit cloud.Unit, pieces ...string) cloud.Assignment {
	a := cloud.Assignment{Interface: iface, Unit: unit}
	for _, text := range pieces {
		a.Exact = append(a.Exact, netip.MustParsePrefix(text))
	}
	a.Family = inet.FamilyOf(a.Exact[0].Addr())
	return a
}

func checkExact(t *testing.T, s scene) {
	ctx := t.Context()
	_, other := s.addNode(t, typeLarge, s.subnet)
	for _, a := range []cloud.Assignment{
		exact(s.eth0.ID, cloud.Addresses, "10.0.1.200/32", "10.0.1.201/32"),
		exact(s.eth0.ID, cloud.Prefixes, "10.0.1.128/28"),
		exact(s.eth0.ID, cloud.Prefixes, "2001:db8:0:1:5::/80"),
		exact(s.eth0.ID, cloud.Addresses, "2001:db8:0:1::200/128"),
	} {
		for range 2 { // a repetition is no error
			wantPieces(t, get(s.Assign(ctx, a))(t), a.Exact...)
		}
		a.Interface = other.ID
		wantKind(t, errorOf(s.Assign(ctx, a)), cloud.Conflict)
	}
	if got := s.describe(t, other.ID); len(got.Assigned) != 0 {
		t.Errorf("the refused assignments left %v", got.Assigned)
	}
	more := exact(s.eth0.ID, cloud.Addresses, "10.0.1.200/32", "10.0.1.203/32") // one of them is there already
	wantPieces(t, get(s.Assign(ctx, more))(t), more.Exact...)
	wantKind(t, errorOf(s.Assign(ctx, exact(s.eth0.ID, cloud.Addresses, "192.0.2.7/32"))), cloud.Invalid)
	wantKind(t, errorOf(s.Assign(ctx, cloud.Assignment{Interface: s.eth0.ID, Family: inet.IPv4, Unit: cloud.Addresses})), cloud.Invalid)
	both := exact(s.eth0.ID, cloud.Addresses, "10.0.1.202/32")
	both.Count = 1
	wantKind(t, errorOf(s.Assign(ctx, both)), cloud.Invalid)
}

func checkMove(t *testing.T, s scene) {
	ctx := t.Context()
	_, other := s.addNode(t, typeLarge, s.subnet)
	a := exact(s.eth0.ID, cloud.Addresses, "10.0.1.200/32")
	must(t, errorOf(s.Assign(ctx, a)))
	a.Interface, a.Move = other.ID, true
	for range 2 {
		wantPieces(t, get(s.Assign(ctx, a))(t), a.Exact...)
	}
	wantPieces(t, s.describe(t, s.eth0.ID).Assigned)
	wantPieces(t, s.describe(t, other.ID).Assigned, a.Exact...)
	for _, refused := range []cloud.Assignment{
		exact(s.eth0.ID, cloud.Prefixes, "10.0.1.128/28"), exact(s.eth0.ID, cloud.Addresses, "2001:db8:0:1::77/128"),
	} {
		refused.Move = true
		must(t, errorOf(s.Assign(ctx, exact(other.ID, refused.Unit, refused.Exact[0].String()))))
		wantKind(t, errorOf(s.Assign(ctx, refused)), cloud.Invalid, cloud.Conflict)
	}
}

func checkNoMove(t *testing.T, s scene) {
	_, other := s.addNode(t, typeLarge, s.subnet)
	a := exact(s.eth0.ID, cloud.Addresses, "10.0.1.200/32")
	must(t, errorOf(s.Assign(t.Context(), a)))
	move := a
	move.Interface, move.Move = other.ID, true
	wantKind(t, errorOf(s.Assign(t.Context(), move)), cloud.Invalid)
	wantPieces(t, s.describe(t, s.eth0.ID).Assigned, a.Exact...)
}

func checkUnassign(t *testing.T, s scene) {
	ctx := t.Context()
	addresses := s.assign(t, s.eth0.ID, inet.IPv4, cloud.Addresses, 3)
	mixed := append(s.assign(t, s.eth0.ID, inet.IPv4, cloud.Prefixes, 1), s.assign(t, s.eth0.ID, inet.IPv6, cloud.Prefixes, 1)...)
	mixed = append(mixed, addresses[0])
	must(t, s.Unassign(ctx, s.eth0.ID, mixed))
	wantPieces(t, s.describe(t, s.eth0.ID).Assigned, addresses[1:]...)
	must(t, s.Unassign(ctx, s.eth0.ID, mixed)) // a repetition
	must(t, s.Unassign(ctx, s.eth0.ID, addresses[:2]))
	wantPieces(t, s.describe(t, s.eth0.ID).Assigned, addresses[2])
	must(t, s.Unassign(ctx, s.eth0.ID, nil))
}

func checkQuota(t *testing.T, s scene) {
	most := limitsLarge.IPv4 - 1 // the primary address counts
	ask := cloud.Assignment{Interface: s.eth0.ID, Family: inet.IPv4, Unit: cloud.Prefixes, Count: most + 1}
	wantKind(t, errorOf(s.Assign(t.Context(), ask)), cloud.Quota)
	wantPieces(t, s.describe(t, s.eth0.ID).Assigned)
	pieces := s.assign(t, s.eth0.ID, inet.IPv4, cloud.Prefixes, most)
	ask.Unit, ask.Count = cloud.Addresses, 1
	wantKind(t, errorOf(s.Assign(t.Context(), ask)), cloud.Quota)
	wantPieces(t, s.describe(t, s.eth0.ID).Assigned, pieces...)
}

func checkNoPrefixes(t *testing.T, s scene) {
	_, old := s.addNode(t, typeOld, s.subnet)
	ask := cloud.Assignment{Interface: old.ID, Family: inet.IPv4, Unit: cloud.Prefixes, Count: 1}
	wantKind(t, errorOf(s.Assign(t.Context(), ask)), cloud.Invalid)
}

func checkFull(t *testing.T, s scene) {
	small := s.AddSubnet("eu-central-1a", nil, netip.MustParsePrefix("10.0.9.0/28"))
	_, eth0 := s.addNode(t, typeLarge, small)
	free := get(s.Subnets(t.Context(), []string{small}, nil))(t)[0].Free
	s.assign(t, eth0.ID, inet.IPv4, cloud.Addresses, min(free, limitsLarge.IPv4-1))
	_, last := s.addNode(t, typeLarge, small)
	if rest := get(s.Subnets(t.Context(), []string{small}, nil))(t)[0].Free; rest > 0 {
		s.assign(t, last.ID, inet.IPv4, cloud.Addresses, rest)
	}
	ask := cloud.Assignment{Interface: last.ID, Family: inet.IPv4, Unit: cloud.Addresses, Count: 1}
	wantKind(t, errorOf(s.Assign(t.Context(), ask)), cloud.NoCapacity)
	ask.Unit = cloud.Prefixes
	wantKind(t, errorOf(s.Assign(t.Context(), ask)), cloud.NoCapacity, cloud.Fragmented)
}

func checkFragmented(t *testing.T, s scene) {
	for block := range 16 {
		at := netip.AddrFrom4([4]byte{10, 0, 1, byte(block*16 + 11)})
		s.Occupy(s.subnet, single(at))
	}
	ask := cloud.Assignment{Interface: s.eth0.ID, Family: inet.IPv4, Unit: cloud.Prefixes, Count: 1}
	wantKind(t, errorOf(s.Assign(t.Context(), ask)), cloud.Fragmented)
	s.assign(t, s.eth0.ID, inet.IPv4, cloud.Addresses, 4)
}

func checkReservation(t *testing.T, s scene) {
	// All but the first 32 addresses are reserved, so that the cloud has little choice.
	for _, cidr := range []string{"10.0.1.32/27", "10.0.1.64/26", "10.0.1.128/25"} {
		s.Reserve(s.subnet, cloud.Reservation{CIDR: netip.MustParsePrefix(cidr)})
	}
	first := netip.MustParsePrefix("10.0.1.0/27")
	for _, p := range s.assign(t, s.eth0.ID, inet.IPv4, cloud.Addresses, 2) {
		if !first.Contains(p.Addr()) {
			t.Errorf("%s lies in an explicit reservation", p)
		}
	}
	ask := cloud.Assignment{Interface: s.eth0.ID, Family: inet.IPv4, Unit: cloud.Prefixes, Count: 3}
	wantKind(t, errorOf(s.Assign(t.Context(), ask)), cloud.Fragmented, cloud.NoCapacity)
	named := exact(s.eth0.ID, cloud.Addresses, "10.0.1.200/32")
	wantPieces(t, get(s.Assign(t.Context(), named))(t), named.Exact...)
}

func checkGone(t *testing.T, s scene) {
	const unknown = "eni-00000000000000bad"
	ask := cloud.Assignment{Interface: unknown, Family: inet.IPv4, Unit: cloud.Addresses, Count: 1}
	wantKind(t, errorOf(s.Assign(t.Context(), ask)), cloud.Gone)
	wantKind(t, s.Unassign(t.Context(), unknown, []netip.Prefix{netip.MustParsePrefix("10.0.1.99/32")}), cloud.Gone)
}

func checkConcurrent(t *testing.T, s scene) {
	_, other := s.addNode(t, typeLarge, s.subnet)
	const each = 4
	results := make(chan netip.Prefix, 2*each)
	var wait sync.WaitGroup
	for range each {
		for _, iface := range []string{s.eth0.ID, other.ID} {
			wait.Go(func() {
				pieces, err := s.Assign(t.Context(), cloud.Assignment{Interface: iface, Family: inet.IPv4, Unit: cloud.Addresses, Count: 1})
				if err != nil || len(pieces) != 1 {
					t.Errorf("%v, %v, want one address", pieces, err)
					return
				}
				results <- pieces[0]
			})
		}
	}
	wait.Wait()
	close(results)
	seen := map[netip.Prefix]bool{}
	for p := range results {
		if seen[p] {
			t.Errorf("%s was assigned twice", p)
		}
		seen[p] = true
	}
}

func checkLostAssign(t *testing.T, s scene) {
	s.Lose("Assign")
	ask := cloud.Assignment{Interface: s.eth0.ID, Family: inet.IPv4, Unit: cloud.Prefixes, Count: 2}
	wantKind(t, errorOf(s.Assign(t.Context(), ask)), cloud.Unknown)
	got := s.describe(t, s.eth0.ID).Assigned
	if len(got) != 2 {
		t.Fatalf("the interface has %v, want what the lost answer said", got)
	}
	again := cloud.Assignment{Interface: s.eth0.ID, Family: inet.IPv4, Unit: cloud.Prefixes, Exact: got}
	wantPieces(t, get(s.Assign(t.Context(), again))(t), got...)
}

func checkLostUnassign(t *testing.T, s scene) {
	pieces := s.assign(t, s.eth0.ID, inet.IPv4, cloud.Prefixes, 2)
	s.Lose("Unassign")
	wantKind(t, s.Unassign(t.Context(), s.eth0.ID, pieces), cloud.Unknown)
	wantPieces(t, s.describe(t, s.eth0.ID).Assigned)
	must(t, s.Unassign(t.Context(), s.eth0.ID, pieces))
}

package ec2test

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// wish asks for addresses or prefixes of one family: a number that the cloud chooses, or exact ones.
type wish struct {
	v4       bool
	prefixes bool
	count    int
	exact    []netip.Prefix
	move     bool // take exact addresses from the interface that has them
}

// wishOf asks for exact addresses.
func wishOf(addresses ...netip.Addr) wish {
	w := wish{v4: len(addresses) > 0 && addresses[0].Is4()}
	for _, a := range addresses {
		w.exact = append(w.exact, netip.PrefixFrom(a, a.BitLen()))
	}
	return w
}

// length returns the length of the wished ranges.
func (w wish) length() int {
	switch {
	case w.prefixes:
		return prefixBits(w.v4)
	case w.v4:
		return 32
	}
	return 128
}

// grant fulfills a wish for an interface, which it changes.
func (x *session) grant(i *Interface, w wish) *Error {
	want := w.count + len(w.exact)
	if want == 0 {
		return nil
	}
	n, err := find(x.subnets, i.Subnet)
	if err != nil {
		return err
	}
	if !n.cidr(w.v4).IsValid() {
		return refuse("InvalidParameterValue", "The subnet %s has no CIDR block of the address family", n.ID)
	}
	if err := x.withinLimits(i, w, want); err != nil {
		return err
	}
	room := x.room(n, w.v4)
	if room, err = x.claim(i, n, w, room); err != nil {
		return err
	}
	chosen, err := choose(n, room, w.v4, w.length(), w.count)
	if err != nil {
		return err
	}
	chosen = append(slices.Clone(w.exact), chosen...)
	switch {
	case w.prefixes:
		i.Prefixes = append(i.Prefixes, chosen...)
	case w.v4:
		i.IPv4 = append(i.IPv4, singles(chosen)...)
	default:
		i.IPv6 = append(i.IPv6, singles(chosen)...)
	}
	return nil
}

// withinLimits checks the limits of the type of the instance that has the interface.
func (x *session) withinLimits(i *Interface, w wish, want int) *Error {
	t, ok := x.limits(i)
	if !ok {
		return nil
	}
	limit := t.IPv6
	if w.v4 {
		limit = t.IPv4
	}
	switch {
	case w.prefixes && t.Xen:
		return refuse("UnsupportedOperation", "Prefixes are not supported on the instance type %s", t.Name)
	case i.slots(w.v4)+want > limit:
		return known("PrivateIpAddressLimitExceeded")
	}
	return nil
}

// claim takes the exact ranges of a wish from the room of a subnet, or from other interfaces if the wish allows it.
func (x *session) claim(i *Interface, n *Subnet, w wish, room *netipx.IPSet) (*netipx.IPSet, *Error) {
	var rest netipx.IPSetBuilder
	rest.AddSet(room)
	for _, p := range w.exact {
		if p.Bits() != w.length() || p != p.Masked() {
			return nil, refuse("InvalidParameterValue", "Value (%s) is not a /%d", p, w.length())
		}
		if !contains(n.cidr(w.v4), p) {
			return nil, refuse("InvalidParameterValue", "Address %s does not fall within the subnet's address range", p.Addr())
		}
		if !room.ContainsPrefix(p) {
			if err := x.take(i, n, p, w.move); err != nil {
				return nil, err
			}
		}
		rest.RemovePrefix(p)
	}
	return built(&rest), nil
}

// take removes a single secondary address from its interface, so that the interface i can have it.
func (x *session) take(i *Interface, n *Subnet, p netip.Prefix, move bool) *Error {
	owner := x.owner(n.ID, p.Addr())
	switch {
	case owner == nil && p.IsSingleIP():
		return refuse("InvalidParameterValue", "Address %s is in subnet's reserved address range", p.Addr())
	case owner == nil:
		return known("InsufficientCidrBlocks")
	case !p.IsSingleIP() || !move:
		return refuse("InvalidParameterValue", "Some of %s are assigned, but move is not allowed.", p)
	}
	loser := i // an interface may get its own address again
	if owner.ID != i.ID {
		loser = owner.clone()
		x.interfaces[loser.ID] = loser
	}
	at := slices.Index(loser.IPv4, p.Addr())
	if at <= 0 {
		return refuse("InvalidParameterValue", "Address %s is a primary address or part of a prefix of %s, and cannot be moved", p.Addr(), owner.ID)
	}
	loser.IPv4 = slices.Delete(loser.IPv4, at, at+1)
	return nil
}

// withdraw removes addresses and prefixes from an interface. The primary address stays.
func withdraw(i *Interface, ranges []netip.Prefix) *Error {
	for _, p := range ranges {
		list := i.ranges()
		at := slices.Index(list, p)
		switch {
		case at < 0:
			return refuse("InvalidParameterValue", "Some of the specified addresses are not assigned to interface %s", i.ID)
		case at == 0 && len(i.IPv4) > 0:
			return refuse("InvalidParameterValue", "The primary address %s of interface %s cannot be unassigned", p.Addr(), i.ID)
		}
		i.IPv4 = slices.DeleteFunc(i.IPv4, func(a netip.Addr) bool { return p.IsSingleIP() && a == p.Addr() })
		i.IPv6 = slices.DeleteFunc(i.IPv6, func(a netip.Addr) bool { return p.IsSingleIP() && a == p.Addr() })
		i.Prefixes = slices.DeleteFunc(i.Prefixes, func(q netip.Prefix) bool { return p == q })
	}
	return nil
}

// edit replaces an interface by a changed copy.
func (x *session) edit(id string, change func(*Interface) *Error) (*Interface, *Error) {
	i, err := find(x.interfaces, id)
	if err != nil {
		return nil, err
	}
	c := i.clone()
	if err := change(c); err != nil {
		return nil, err
	}
	x.interfaces[id] = c
	return c, nil
}

type assignPrivate struct {
	Interface   string         `query:"NetworkInterfaceId,required"`
	Addresses   []netip.Addr   `query:"PrivateIpAddress"`
	Count       *int           `query:"SecondaryPrivateIpAddressCount"`
	Prefixes    []netip.Prefix `query:"Ipv4Prefix"`
	PrefixCount *int           `query:"Ipv4PrefixCount"`
	Move        bool           `query:"AllowReassignment"`
}

type assignPrivateResult struct {
	Interface string            `xml:"networkInterfaceId"`
	Addresses list[assignedXML] `xml:"assignedPrivateIpAddressesSet"`
	Prefixes  list[prefix4XML]  `xml:"assignedIpv4PrefixSet"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssignPrivateIpAddresses.html
func (x *session) assignPrivate(in *assignPrivate) (any, *Error) {
	w, err := oneWish(true, in.Addresses, in.Count, in.Prefixes, in.PrefixCount)
	if err != nil {
		return nil, err
	}
	w.move = in.Move
	var had *Interface
	i, err := x.edit(in.Interface, func(i *Interface) *Error { had = i.clone(); return x.grant(i, w) })
	if err != nil {
		return nil, err
	}
	result := assignPrivateResult{Interface: i.ID}
	for _, a := range i.IPv4 {
		if !slices.Contains(had.IPv4, a) || slices.Contains(in.Addresses, a) {
			result.Addresses.add(assignedXML{a.String()})
		}
	}
	for _, p := range i.prefixes(true) {
		if !slices.Contains(had.Prefixes, p) {
			result.Prefixes.add(prefix4XML{p.String()})
		}
	}
	return result, nil
}

type assignIPv6 struct {
	Interface   string         `query:"NetworkInterfaceId,required"`
	Addresses   []netip.Addr   `query:"Ipv6Addresses"`
	Count       *int           `query:"Ipv6AddressCount"`
	Prefixes    []netip.Prefix `query:"Ipv6Prefix"`
	PrefixCount *int           `query:"Ipv6PrefixCount"`
}

type assignIPv6Result struct {
	Interface string       `xml:"networkInterfaceId"`
	Addresses list[string] `xml:"assignedIpv6Addresses"`
	Prefixes  list[string] `xml:"assignedIpv6PrefixSet"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssignIpv6Addresses.html
func (x *session) assignIPv6(in *assignIPv6) (any, *Error) {
	w, err := oneWish(false, in.Addresses, in.Count, in.Prefixes, in.PrefixCount)
	if err != nil {
		return nil, err
	}
	var had *Interface
	i, err := x.edit(in.Interface, func(i *Interface) *Error { had = i.clone(); return x.grant(i, w) })
	if err != nil {
		return nil, err
	}
	result := assignIPv6Result{Interface: i.ID}
	for _, p := range i.ranges() {
		switch {
		case p.Addr().Is4() || slices.Contains(had.ranges(), p):
		case p.IsSingleIP():
			result.Addresses.add(p.Addr().String())
		default:
			result.Prefixes.add(p.String())
		}
	}
	return result, nil
}

// oneWish returns the wish of an assignment, which has exactly one of its four parameters.
func oneWish(v4 bool, addresses []netip.Addr, n *int, prefixes []netip.Prefix, prefixCount *int) (wish, *Error) {
	var wishes []wish
	if len(addresses) > 0 {
		w := wishOf(addresses...)
		w.v4 = v4
		wishes = append(wishes, w)
	}
	if n != nil {
		wishes = append(wishes, wish{v4: v4, count: *n})
	}
	if len(prefixes) > 0 {
		wishes = append(wishes, wish{v4: v4, prefixes: true, exact: prefixes})
	}
	if prefixCount != nil {
		wishes = append(wishes, wish{v4: v4, prefixes: true, count: *prefixCount})
	}
	switch {
	case len(wishes) == 0:
		return wish{}, refuse("MissingParameter", "Either addresses, an address count, prefixes or a prefix count must be specified")
	case len(wishes) > 1:
		return wish{}, refuse("InvalidParameterCombination", "Only one of addresses, an address count, prefixes and a prefix count can be specified")
	case wishes[0].count < 0 || wishes[0].count+len(wishes[0].exact) == 0:
		return wish{}, refuse("InvalidParameterValue", "Value (%d) for a count is invalid.", wishes[0].count)
	}
	return wishes[0], nil
}

type unassignPrivate struct {
	Interface string         `query:"NetworkInterfaceId,required"`
	Addresses []netip.Addr   `query:"PrivateIpAddress"`
	Prefixes  []netip.Prefix `query:"Ipv4Prefix"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_UnassignPrivateIpAddresses.html
func (x *session) unassignPrivate(in *unassignPrivate) (any, *Error) {
	_, err := x.edit(in.Interface, func(i *Interface) *Error {
		return withdraw(i, append(wishOf(in.Addresses...).exact, in.Prefixes...))
	})
	return done, err
}

type unassignIPv6 struct {
	Interface string         `query:"NetworkInterfaceId,required"`
	Addresses []netip.Addr   `query:"Ipv6Addresses"`
	Prefixes  []netip.Prefix `query:"Ipv6Prefix"`
}

type unassignIPv6Result struct {
	Interface string       `xml:"networkInterfaceId"`
	Addresses list[string] `xml:"unassignedIpv6Addresses"`
	Prefixes  list[string] `xml:"unassignedIpv6PrefixSet"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_UnassignIpv6Addresses.html
func (x *session) unassignIPv6(in *unassignIPv6) (any, *Error) {
	_, err := x.edit(in.Interface, func(i *Interface) *Error {
		return withdraw(i, append(wishOf(in.Addresses...).exact, in.Prefixes...))
	})
	result := unassignIPv6Result{Interface: in.Interface}
	for _, a := range in.Addresses {
		result.Addresses.add(a.String())
	}
	for _, p := range in.Prefixes {
		result.Prefixes.add(p.String())
	}
	return result, err
}

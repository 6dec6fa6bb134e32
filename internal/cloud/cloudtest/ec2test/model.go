package ec2test

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// VPC is a virtual private cloud. It must contain the ranges of its subnets.
type VPC struct {
	ID   string // e.g. vpc-0123456789abcdef0; AddVPC chooses one if it is empty
	IPv4 netip.Prefix
	IPv6 netip.Prefix // optional, e.g. 2406:da1e:c4:ed00::/56
	Tags map[string]string
}

// Subnet is a part of a VPC in one zone. AWS keeps its first four addresses and its last one
// (https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html).
type Subnet struct {
	ID           string
	VPC          string
	Zone         string       // e.g. eu-central-1a
	IPv4         netip.Prefix // e.g. 172.31.16.0/20
	IPv6         netip.Prefix // optional, a /64
	Reservations []Reservation
	Tags         map[string]string
	// Blocked are addresses of Fragment: another service has them, and no describe shows them.
	Blocked []netip.Addr
}

// Kinds of reservations.
const (
	// ReservedForPrefixes is a range that only prefixes come from.
	ReservedForPrefixes = "prefix"
	// ReservedExplicitly is a range with addresses for requests that name them.
	ReservedExplicitly = "explicit"
)

// Reservation is a CIDR reservation of a subnet
// (https://docs.aws.amazon.com/vpc/latest/userguide/subnet-cidr-reservation.html).
type Reservation struct {
	ID   string // e.g. scr-0123456789abcdef0
	CIDR netip.Prefix
	Type string // ReservedForPrefixes or ReservedExplicitly
}

// SecurityGroup is a set of rules; the fake keeps its name only.
type SecurityGroup struct {
	ID, VPC, Name string
	Tags          map[string]string
}

// Interface is an elastic network interface.
type Interface struct {
	ID          string
	Subnet      string
	MAC         string // e.g. 0a:00:00:00:00:01
	Description string
	Groups      []string // IDs of security groups
	IPv4        []netip.Addr
	IPv6        []netip.Addr
	Prefixes    []netip.Prefix // IPv4 /28 and IPv6 /80, in the order of assignment
	Tags        map[string]string
	// Attachment is nil while no instance has the interface.
	Attachment *Attachment
	// Unchecked switches the source/destination check off.
	Unchecked bool
	// Requester is the service that manages the interface, e.g. amazon-elb; empty for interfaces of the account.
	Requester string

	created time.Time
}

// Attachment connects an interface to an instance.
type Attachment struct {
	ID                  string // e.g. eni-attach-0123456789abcdef0
	Instance            string
	Device              int // 0 is the primary interface
	Card                int // index of the network card
	DeleteOnTermination bool

	since time.Time // when the attachment is complete
	until time.Time // when the detachment is complete; zero while it is attached
}

// Instance is a virtual machine.
type Instance struct {
	ID     string
	Type   string // a name of Types, e.g. m5.large
	Subnet string // of the primary interface
	Groups []string
	// MAC is that of the primary interface, e.g. 06:4e:ac:1f:16:e4; AddInstance chooses one if it is empty.
	MAC string
	// Address is the primary IPv4 address; AddInstance chooses one if it is not valid.
	Address netip.Addr
	// Address6 is an IPv6 address of the primary interface; optional.
	Address6 netip.Addr
	// Prefixes are delegated to the primary interface; optional.
	Prefixes []netip.Prefix
	State    string // running (the default), stopped or terminated
	Role     string // the role in the instance profile; empty for none
	Tags     map[string]string

	launched time.Time
}

// Route is a destination that the VPC delivers to an interface of an instance: an address or a prefix.
type Route struct {
	Prefix    netip.Prefix
	Interface string
	Instance  string
	MAC       string
}

// clone returns a copy whose slices and maps can be changed. Entities in a state are never changed, only replaced.
func (i *Interface) clone() *Interface {
	c := *i
	c.Groups, c.IPv4, c.IPv6, c.Prefixes = slices.Clone(i.Groups), slices.Clone(i.IPv4), slices.Clone(i.IPv6), slices.Clone(i.Prefixes)
	c.Tags = maps.Clone(i.Tags)
	if i.Attachment != nil {
		a := *i.Attachment
		c.Attachment = &a
	}
	return &c
}

// slots counts the addresses and prefixes of a family; each takes one of the type's addresses per interface
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-prefix-eni.html).
func (i *Interface) slots(v4 bool) int {
	n := len(i.IPv6)
	if v4 {
		n = len(i.IPv4)
	}
	return n + len(i.prefixes(v4))
}

// prefixes returns the prefixes of a family.
func (i *Interface) prefixes(v4 bool) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(i.Prefixes), func(p netip.Prefix) bool { return p.Addr().Is4() != v4 })
}

// routes returns the destinations of an interface, none while no instance has it or loses it.
func (i *Interface) routes() []Route {
	if i == nil || i.Attachment == nil || !i.Attachment.until.IsZero() {
		return nil
	}
	var routes []Route
	for _, p := range i.ranges() {
		routes = append(routes, Route{Prefix: p, Interface: i.ID, Instance: i.Attachment.Instance, MAC: i.MAC})
	}
	return routes
}

// ranges returns the addresses and prefixes as prefixes.
func (i *Interface) ranges() []netip.Prefix {
	var ranges []netip.Prefix
	for _, a := range slices.Concat(i.IPv4, i.IPv6) {
		ranges = append(ranges, netip.PrefixFrom(a, a.BitLen()))
	}
	return append(ranges, i.Prefixes...)
}

// Package cloud describes a cloud's network as values, and the port that each
// provider implements. It knows no SDK, no Kubernetes and no clock.
//
// A cloud makes pools, never leases: the controller keeps pools equal to the prefixes
// and addresses that the cloud assigned to each node's interfaces.
package cloud

import (
	"context"
	"net/netip"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Instance is a virtual machine of the cloud: a node of the cluster.
type Instance struct {
	ID     string // e.g. i-0123456789abcdef0
	Type   string // e.g. m5.large: key of Provider.Limits
	Zone   string // e.g. eu-central-1a
	VPC    string // network of all its interfaces; empty if the cloud has one
	Subnet string // of the primary interface
	// Interfaces are sorted by device index. An interface that is being detached is
	// absent, and so is one of another network card than the first.
	Interfaces []Interface
}

// Interface is a network interface of an instance, or one that no instance has.
type Interface struct {
	ID     string // e.g. eni-0123456789abcdef0
	MAC    string // e.g. 0a:1b:2c:3d:4e:5f, lower case
	Device int    // position at the instance: 0 for the primary interface, or UnknownDevice
	// Subnet is the ID. The subnet's CIDRs and gateways are values of Subnet.
	Subnet         string
	SecurityGroups []string
	// Primary addresses belong to the node: never to a pod.
	Primary []netip.Addr
	// Assigned are the prefixes and single addresses that pods may have, sorted, e.g.
	// 10.0.1.16/28, 10.0.1.77/32, 2001:db8:1::/80.
	Assigned []netip.Prefix
	// Fixed are the single addresses among those that a pool of fixed addresses has, of this or another network (Discovery.Fixed). No provider sets it.
	Fixed []netip.Prefix
	// Tags are set by Provider.Interfaces and Provider.Create. Provider.Instances may leave
	// them nil: EC2 describes an instance without them.
	Tags map[string]string
	// Attached is the instance's ID, or empty.
	Attached string
	// Survives says that an attached interface is left when its instance ends. Provider.Attach
	// has it deleted with the instance.
	Survives bool
}

// UnknownDevice is the position of an attached interface that the cloud does not tell. Such an
// interface is absent from Instance.Interfaces.
const UnknownDevice = -1

// Subnet is a part of the cloud's network, in one zone.
type Subnet struct {
	ID    string
	Zone  string
	VPC   string         // see Instance.VPC
	CIDRs []netip.Prefix // at most one of each family
	// Layout says which addresses of each CIDR the cloud keeps.
	Layout Layout
	// Free counts the IPv4 addresses that nobody has. A prefix may still find no room,
	// because the free addresses are scattered.
	Free int
	// Reserved are ranges that the cloud gives out only for their purpose
	// (https://docs.aws.amazon.com/vpc/latest/userguide/subnet-cidr-reservation.html).
	Reserved []Reservation
	// ReserveCommand reserves a range for requests that name the address, with the range as a further argument, e.g.
	// "aws ec2 create-subnet-cidr-reservation --subnet-id subnet-1 --reservation-type explicit --cidr". It is empty for a cloud without
	// such reservations.
	ReserveCommand string
	Tags           map[string]string
}

// Gateway returns the router of the subnet in the family, or the zero address.
func (s Subnet) Gateway(f inet.Family) netip.Addr {
	for _, cidr := range s.CIDRs {
		if inet.FamilyOf(cidr.Addr()) == f {
			return s.Layout.gateway(cidr)
		}
	}
	return netip.Addr{}
}

// Reservation is a range of a subnet.
type Reservation struct {
	CIDR netip.Prefix
	// Prefixes says that the range is for prefixes. Otherwise, nothing gets an address
	// from it unless a request names the address.
	Prefixes bool
}

// Limits bound the interfaces of an instance type.
type Limits struct {
	Interfaces int // per instance
	IPv4       int // addresses per interface, the primary one included; a prefix counts as one
	IPv6       int // addresses per interface; a prefix counts as one
	// Prefixes is false for types that take single addresses only, e.g. t2.micro: on AWS,
	// prefixes need a Nitro instance.
	Prefixes bool
}

// Unit is what a cloud assigns in one piece.
type Unit string

const (
	// Prefixes are IPv4 /28 and IPv6 /80 on AWS
	// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-prefix-eni.html).
	Prefixes Unit = "Prefix"
	// Addresses are /32 and /128.
	Addresses Unit = "Address"
)

// Assignment asks for addresses on an interface. Exactly one of Count and Exact is set.
type Assignment struct {
	Interface string
	Family    inet.Family
	Unit      Unit
	Count     int            // pieces that the cloud chooses
	Exact     []netip.Prefix // pieces that the caller chooses
	// Move takes Exact from the interface that has it now. It works within one subnet, for
	// single IPv4 addresses only.
	Move bool
}

// NewInterface describes an interface to create.
type NewInterface struct {
	Subnet         string
	SecurityGroups []string
	// Tags must name the cluster and the instance, so that an interface of a crashed
	// creation is found and deleted.
	Tags        map[string]string
	Description string
	// Token makes a repeated creation return the interface of the first, e.g. a UUID.
	Token string
}

// Query selects interfaces. Set fields must all match. An empty query selects nothing.
type Query struct {
	IDs       []string          // one of them
	Instances []string          // attached to one of them
	Tags      map[string]string // with these tags; an empty value matches any value
}

// Empty reports whether the query sets no field.
func (q Query) Empty() bool { return len(q.IDs) == 0 && len(q.Instances) == 0 && len(q.Tags) == 0 }

// Provider is a cloud. Every method may be called concurrently, blocks until the cloud
// has answered or ctx ends, and retries nothing. Every error is an *Error.
//
// Each method may return Throttled, Permission, Credentials, Invalid and Unknown; its comment
// lists the further kinds. Unless the comment says otherwise, the cloud is as it was before the call
// after every kind but Unknown.
//
// A description may be older than the last change of this process: clouds are eventually
// consistent. A caller must not conclude from one answer that something is gone.
//
// A provider without one of the methods returns Invalid, with a text that says so.
type Provider interface {
	// InstanceID returns the instance of spec.providerID, e.g. i-0123 for
	// aws:///eu-central-1a/i-0123. ok is false for a node of another cloud.
	InstanceID(providerID string) (id string, ok bool)

	// Instances returns the instances that exist, with their interfaces, in any order.
	// An unknown ID is absent from the answer, and no error.
	Instances(ctx context.Context, ids []string) ([]Instance, error)

	// Interfaces returns the interfaces of the query, attached or not, in any order. An
	// unknown ID is absent.
	Interfaces(ctx context.Context, q Query) ([]Interface, error)

	// Subnets returns subnets by ID, or by tags if ids is empty; an empty value matches any
	// value. An unknown ID is absent. On AWS it costs one call and one for each subnet, for
	// its reservations: keep the answer.
	Subnets(ctx context.Context, ids []string, tags map[string]string) ([]Subnet, error)

	// Limits returns the limits of the instance types. An unknown type is absent.
	Limits(ctx context.Context, types []string) (map[string]Limits, error)

	// Assign returns the pieces that the interface got, all or none. Pieces of Exact that
	// the interface already has are among them: a repetition is no error.
	//
	// After a lost answer (Unknown) the interface may have them: ask Interfaces, and not only
	// once.
	//
	// Errors: NoCapacity, Fragmented, Quota, Gone, Conflict.
	Assign(ctx context.Context, a Assignment) ([]netip.Prefix, error)

	// Unassign takes the pieces from the interface. A piece that the interface does not
	// have is no error.
	//
	// Pieces of different families or units take several calls: after an error, some may be
	// gone.
	//
	// Errors: Gone (the interface), Conflict.
	Unassign(ctx context.Context, iface string, pieces []netip.Prefix) error

	// Create makes an interface that no instance has. A repetition with the same Token
	// returns the same interface.
	//
	// Errors: NoCapacity, Quota, Gone (the subnet or a security group).
	Create(ctx context.Context, n NewInterface) (Interface, error)

	// Attach gives the interface to the instance at the device index. The interface is
	// deleted with the instance from then on. A repetition is no error.
	//
	// The two take two calls on AWS: after an error, the interface may be attached without
	// being deleted with the instance. Repeat the call.
	//
	// Errors: Quota, Gone, Conflict (another instance has it, or the index is taken).
	Attach(ctx context.Context, iface, instance string, device int) error

	// Detach takes the interface from its instance. An interface without an instance is
	// no error. The primary interface cannot be detached: Invalid.
	//
	// The detachment may end after the answer. Until then, Delete returns Conflict.
	//
	// Errors: Gone, Conflict.
	Detach(ctx context.Context, iface string) error

	// Delete deletes an interface without an instance. An unknown one is no error.
	//
	// Errors: Conflict (an instance has it).
	Delete(ctx context.Context, iface string) error
}

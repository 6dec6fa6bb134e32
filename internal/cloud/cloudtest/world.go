// Package cloudtest has the contract suite of cloud.Provider, and a provider in memory that
// passes it.
//
// Conformance runs against every provider. Fake is for unit tests of the controller: it has
// no clock and no network, and returns the faults that a test orders.
package cloudtest

import (
	"net/netip"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// World is the cloud beneath a provider: a test builds it, breaks it and counts the calls.
// Methods of cloud.Provider are given by name, e.g. "Assign".
type World interface {
	// AddType makes an instance type.
	AddType(name string, l cloud.Limits)
	// AddSubnet makes a subnet and returns its ID.
	AddSubnet(zone string, tags map[string]string, cidrs ...netip.Prefix) (id string)
	// Reserve makes a CIDR reservation.
	Reserve(subnet string, r cloud.Reservation)
	// SecurityGroup returns the ID of a group that exists.
	SecurityGroup() string
	// AddInstance starts an instance with a primary interface and returns its ID.
	AddInstance(instanceType, subnet string) (id string)
	// ProviderID returns spec.providerID of the instance's node.
	ProviderID(instance string) string
	// Terminate ends an instance, with the interfaces that are deleted with it.
	Terminate(instance string)
	// Occupy gives addresses of the subnet to another user of the cloud.
	Occupy(subnet string, ranges ...netip.Prefix)
	// TakeAway takes pieces from an interface behind the provider's back.
	TakeAway(iface string, pieces ...netip.Prefix)

	// Throttle refuses the next call of the method.
	Throttle(method string)
	// Lose makes the next call of the method succeed, but loses its answer.
	Lose(method string)
	// Deny takes the permission for the method away and returns the cloud's name of the
	// refused action.
	Deny(method string) (action string)
	// Allow gives the permission back.
	Allow(method string)
	// Freeze makes all descriptions stale: they show the cloud as it is now. Thaw ends it.
	Freeze()
	Thaw()

	// Page returns the number of items in one page of an answer.
	Page() int
	// Requests counts the calls that reached the cloud, refused ones included.
	Requests() int
}

package alibaba

import (
	"context"
	"errors"
	"net/netip"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/pieces"
	"spiderpool.dev/spiderpool/internal/inet"
)

// maxPieces is the number of prefixes in one request
// (https://github.com/AliyunContainerService/terway/blob/main/docs/ip-prefix.md).
const maxPieces = 10

// names are the names of actions and parameters in one IP family.
type names struct{ assign, unassign, address, addressCount, prefix, prefixCount string }

var (
	namesIPv4 = names{
		"AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "PrivateIpAddress", "SecondaryPrivateIpAddressCount", "Ipv4Prefix", "Ipv4PrefixCount",
	}
	namesIPv6 = names{"AssignIpv6Addresses", "UnassignIpv6Addresses", "Ipv6Address", "Ipv6AddressCount", "Ipv6Prefix", "Ipv6PrefixCount"}
)

func namesOf(f inet.Family) names {
	if f == inet.IPv6 {
		return namesIPv6
	}
	return namesIPv4
}

// Assign implements cloud.Provider. Alibaba Cloud takes no address from another interface in the same request: Move is Invalid.
func (p *Provider) Assign(ctx context.Context, a cloud.Assignment) ([]netip.Prefix, error) {
	action := namesOf(a.Family).assign
	if err := pieces.Check(a); err != nil {
		return nil, p.ecs.invalid(action, "%w", err)
	}
	switch {
	case a.Move:
		return nil, p.ecs.invalid(action, "Alibaba Cloud moves no address to another interface; unassign %v first", a.Exact)
	case a.Unit == cloud.Prefixes && a.Count+len(a.Exact) > maxPieces:
		return nil, p.ecs.invalid(action, "a request has at most %d prefixes, not %d", maxPieces, a.Count+len(a.Exact))
	}
	return pieces.Assign(ctx, requests{p}, a)
}

// Unassign implements cloud.Provider.
func (p *Provider) Unassign(ctx context.Context, iface string, old []netip.Prefix) error {
	return pieces.Unassign(ctx, requests{p}, iface, old)
}

// requests implements pieces.Requests.
type requests struct{ *Provider }

// IsNotAssigned implements pieces.Requests.
func (requests) IsNotAssigned(err error) bool { return codeOf(err) == notAssigned }

// assigned is the answer of both assigning actions.
type assigned struct {
	AssignedPrivateIPAddressesSet struct {
		PrivateIPSet struct {
			PrivateIPAddress []string `json:"PrivateIpAddress"`
		} `json:"PrivateIpSet"`
		IPv4PrefixSet struct {
			IPv4Prefixes []string `json:"Ipv4Prefixes"`
		} `json:"Ipv4PrefixSet"`
	} `json:"AssignedPrivateIpAddressesSet"`
	IPv6Sets struct {
		IPv6Address []string `json:"Ipv6Address"`
	} `json:"Ipv6Sets"`
	IPv6PrefixSets struct {
		IPv6Prefix []string `json:"Ipv6Prefix"`
	} `json:"Ipv6PrefixSets"`
}

// Assign implements pieces.Requests.
func (p requests) Assign(ctx context.Context, a cloud.Assignment) ([]netip.Prefix, error) {
	n, in := namesOf(a.Family), query{"NetworkInterfaceId": a.Interface}
	if a.Unit == cloud.Prefixes {
		in.number(n.prefixCount, a.Count).list(n.prefix, pieces.Texts(a.Exact))
	} else {
		in.number(n.addressCount, a.Count).list(n.address, pieces.Texts(a.Exact))
	}
	var out assigned
	if err := p.ecs.call(ctx, n.assign, in, &out); err != nil {
		if e, ok := errors.AsType[*cloud.Error](err); ok && e.Kind == cloud.NoCapacity && a.Unit == cloud.Prefixes {
			e.Kind = cloud.Fragmented // one code for both: single addresses may still be free
		}
		return nil, err
	}
	var got pieces.Found
	for _, text := range append(out.AssignedPrivateIPAddressesSet.PrivateIPSet.PrivateIPAddress, out.IPv6Sets.IPv6Address...) {
		got.Address(text, false)
	}
	for _, text := range append(out.AssignedPrivateIPAddressesSet.IPv4PrefixSet.IPv4Prefixes, out.IPv6PrefixSets.IPv6Prefix...) {
		got.Prefix(text)
	}
	if got.Err != nil {
		return nil, cloud.NotUnderstood(p.ecs.name(n.assign), got.Err)
	}
	return got.Assigned, nil
}

// Unassign implements pieces.Requests.
func (p requests) Unassign(ctx context.Context, iface string, old []netip.Prefix) error {
	n := namesOf(inet.FamilyOf(old[0].Addr()))
	parameter := n.prefix
	if old[0].IsSingleIP() {
		parameter = n.address
	}
	return p.ecs.call(ctx, n.unassign, query{"NetworkInterfaceId": iface}.list(parameter, pieces.Texts(old)), &struct{}{})
}

package aws

import (
	"context"
	"net/netip"
	"slices"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/pieces"
	"spiderpool.dev/spiderpool/internal/inet"
)

func assignAction(f inet.Family) string {
	if f == inet.IPv6 {
		return "AssignIpv6Addresses"
	}
	return "AssignPrivateIpAddresses"
}

// Assign implements cloud.Provider.
func (p *Provider) Assign(ctx context.Context, a cloud.Assignment) ([]netip.Prefix, error) {
	if err := pieces.Check(a); err != nil {
		return nil, invalid(assignAction(a.Family), "%w", err)
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
func (requests) IsNotAssigned(err error) bool { return isNotAssigned(err) }

// Interfaces implements pieces.Requests. Mostly an instance has the interface, and DescribeInstances shows it: the policy for Manage
// does not allow DescribeNetworkInterfaces.
func (p requests) Interfaces(ctx context.Context, q cloud.Query) (found []cloud.Interface, err error) {
	instances, err := p.instances(ctx, filter("network-interface.network-interface-id", q.IDs...))
	if err != nil {
		return nil, err
	}
	for _, instance := range instances {
		for _, i := range instance.Interfaces {
			if slices.Contains(q.IDs, i.ID) {
				found = append(found, i)
			}
		}
	}
	if len(found) < len(q.IDs) {
		return p.Provider.Interfaces(ctx, q)
	}
	return found, nil
}

// Assign implements pieces.Requests.
func (p requests) Assign(ctx context.Context, a cloud.Assignment) ([]netip.Prefix, error) {
	var got pieces.Found
	action := assignAction(a.Family)
	if a.Family == inet.IPv6 {
		out, err := request(ctx, p.Provider, action, assignIPv6(a), p.client.AssignIpv6Addresses)
		if err != nil {
			return nil, err
		}
		for _, address := range out.AssignedIpv6Addresses {
			got.Address(address, false)
		}
		for _, prefix := range out.AssignedIpv6Prefixes {
			got.Prefix(prefix)
		}
	} else {
		out, err := request(ctx, p.Provider, action, assignIPv4(a), p.client.AssignPrivateIpAddresses)
		if err != nil {
			return nil, err
		}
		for _, address := range out.AssignedPrivateIpAddresses {
			got.Address(awssdk.ToString(address.PrivateIpAddress), false)
		}
		for _, prefix := range out.AssignedIpv4Prefixes {
			got.Prefix(awssdk.ToString(prefix.Ipv4Prefix))
		}
	}
	if got.Err != nil {
		return nil, cloud.NotUnderstood(service+action, got.Err)
	}
	return got.Assigned, nil
}

func assignIPv4(a cloud.Assignment) *ec2.AssignPrivateIpAddressesInput {
	in := &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &a.Interface}
	if a.Move {
		in.AllowReassignment = awssdk.Bool(true)
	}
	switch count := awssdk.Int32(int32(a.Count)); {
	case a.Unit == cloud.Prefixes && a.Count > 0:
		in.Ipv4PrefixCount = count
	case a.Unit == cloud.Prefixes:
		in.Ipv4Prefixes = pieces.Texts(a.Exact)
	case a.Count > 0:
		in.SecondaryPrivateIpAddressCount = count
	default:
		in.PrivateIpAddresses = pieces.Texts(a.Exact)
	}
	return in
}

func assignIPv6(a cloud.Assignment) *ec2.AssignIpv6AddressesInput {
	in := &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: &a.Interface}
	switch count := awssdk.Int32(int32(a.Count)); {
	case a.Unit == cloud.Prefixes && a.Count > 0:
		in.Ipv6PrefixCount = count
	case a.Unit == cloud.Prefixes:
		in.Ipv6Prefixes = pieces.Texts(a.Exact)
	case a.Count > 0:
		in.Ipv6AddressCount = count
	default:
		in.Ipv6Addresses = pieces.Texts(a.Exact)
	}
	return in
}

// Unassign implements pieces.Requests.
func (p requests) Unassign(ctx context.Context, iface string, old []netip.Prefix) error {
	single, texts := old[0].IsSingleIP(), pieces.Texts(old)
	if old[0].Addr().Is6() {
		in := &ec2.UnassignIpv6AddressesInput{NetworkInterfaceId: &iface}
		if single {
			in.Ipv6Addresses = texts
		} else {
			in.Ipv6Prefixes = texts
		}
		_, err := request(ctx, p.Provider, "UnassignIpv6Addresses", in, p.client.UnassignIpv6Addresses)
		return err
	}
	in := &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &iface}
	if single {
		in.PrivateIpAddresses = texts
	} else {
		in.Ipv4Prefixes = texts
	}
	_, err := request(ctx, p.Provider, "UnassignPrivateIpAddresses", in, p.client.UnassignPrivateIpAddresses)
	return err
}

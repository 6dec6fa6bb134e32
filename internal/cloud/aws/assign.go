package aws

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

// The lengths of prefixes (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-prefix-eni.html).
const (
	prefixIPv4 = 28
	prefixIPv6 = 80
)

func assignAction(f inet.Family) string {
	if f == inet.IPv6 {
		return "AssignIpv6Addresses"
	}
	return "AssignPrivateIpAddresses"
}

// Assign implements cloud.Provider.
//
// EC2 refuses pieces that the interface already has. Only then we look at the interface,
// and ask for the missing ones.
func (p *Provider) Assign(ctx context.Context, a cloud.Assignment) ([]netip.Prefix, error) {
	if err := check(a); err != nil {
		return nil, err
	}
	got, err := p.assign(ctx, a)
	if err == nil || len(a.Exact) == 0 || !slices.Contains([]cloud.Kind{cloud.Conflict, cloud.Invalid}, cloud.KindOf(err)) {
		return got, err
	}
	had, lookErr := p.assigned(ctx, a.Interface)
	if lookErr != nil {
		return nil, err
	}
	rest := a
	rest.Exact = without(a.Exact, had)
	switch len(rest.Exact) {
	case 0:
		return a.Exact, nil
	case len(a.Exact):
		return nil, err
	}
	if _, err := p.assign(ctx, rest); err != nil {
		return nil, err
	}
	return a.Exact, nil
}

// without returns the pieces that are not among others.
func without(pieces, others []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(pieces), func(p netip.Prefix) bool { return slices.Contains(others, p) })
}

// assigned returns the pieces of an interface, the primary addresses included.
func (p *Provider) assigned(ctx context.Context, iface string) ([]netip.Prefix, error) {
	found, err := p.Interfaces(ctx, cloud.Query{IDs: []string{iface}})
	if err != nil {
		return nil, err
	}
	var pieces []netip.Prefix
	for _, i := range found {
		pieces = append(pieces, i.Assigned...)
		for _, address := range i.Primary {
			pieces = append(pieces, netip.PrefixFrom(address, address.BitLen()))
		}
	}
	return pieces, nil
}

// check refuses an assignment that EC2 has no request for.
func check(a cloud.Assignment) error {
	action := assignAction(a.Family)
	switch {
	case a.Family != inet.IPv4 && a.Family != inet.IPv6:
		return invalid(action, "%s is no IP family", a.Family)
	case a.Unit != cloud.Prefixes && a.Unit != cloud.Addresses:
		return invalid(action, "%q is no unit", a.Unit)
	case (a.Count > 0) == (len(a.Exact) > 0):
		return invalid(action, "give either a number of pieces or the pieces, not %d and %v", a.Count, a.Exact)
	case a.Move && (a.Family != inet.IPv4 || a.Unit != cloud.Addresses):
		return invalid(action, "EC2 moves single IPv4 addresses only, not %v", a.Exact)
	}
	for _, piece := range a.Exact {
		if inet.FamilyOf(piece.Addr()) != a.Family || piece.Bits() != lengthOf(a.Family, a.Unit) {
			return invalid(action, "%s is not a /%d of %s", piece, lengthOf(a.Family, a.Unit), a.Family)
		}
	}
	return nil
}

func lengthOf(f inet.Family, unit cloud.Unit) int {
	switch {
	case unit == cloud.Addresses:
		return f.Everything().Addr().BitLen()
	case f == inet.IPv4:
		return prefixIPv4
	default:
		return prefixIPv6
	}
}

// assign sends one request.
func (p *Provider) assign(ctx context.Context, a cloud.Assignment) ([]netip.Prefix, error) {
	var got addresses
	action := assignAction(a.Family)
	if a.Family == inet.IPv6 {
		out, err := request(ctx, p, action, assignIPv6(a), p.client.AssignIpv6Addresses)
		if err != nil {
			return nil, err
		}
		for _, address := range out.AssignedIpv6Addresses {
			got.address(&address, false)
		}
		for _, prefix := range out.AssignedIpv6Prefixes {
			got.prefix(&prefix)
		}
	} else {
		out, err := request(ctx, p, action, assignIPv4(a), p.client.AssignPrivateIpAddresses)
		if err != nil {
			return nil, err
		}
		for _, address := range out.AssignedPrivateIpAddresses {
			got.address(address.PrivateIpAddress, false)
		}
		for _, prefix := range out.AssignedIpv4Prefixes {
			got.prefix(prefix.Ipv4Prefix)
		}
	}
	if got.err != nil {
		return nil, notUnderstood(action, got.err)
	}
	if len(a.Exact) > 0 {
		return a.Exact, nil // a moved address that was here already is not in the answer
	}
	return got.assigned, nil
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
		in.Ipv4Prefixes = prefixTexts(a.Exact)
	case a.Count > 0:
		in.SecondaryPrivateIpAddressCount = count
	default:
		in.PrivateIpAddresses = addressTexts(a.Exact)
	}
	return in
}

func assignIPv6(a cloud.Assignment) *ec2.AssignIpv6AddressesInput {
	in := &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: &a.Interface}
	switch count := awssdk.Int32(int32(a.Count)); {
	case a.Unit == cloud.Prefixes && a.Count > 0:
		in.Ipv6PrefixCount = count
	case a.Unit == cloud.Prefixes:
		in.Ipv6Prefixes = prefixTexts(a.Exact)
	case a.Count > 0:
		in.Ipv6AddressCount = count
	default:
		in.Ipv6Addresses = addressTexts(a.Exact)
	}
	return in
}

func prefixTexts(pieces []netip.Prefix) (texts []string) {
	for _, p := range pieces {
		texts = append(texts, p.String())
	}
	return texts
}

func addressTexts(pieces []netip.Prefix) (texts []string) {
	for _, p := range pieces {
		texts = append(texts, p.Addr().String())
	}
	return texts
}

// Unassign implements cloud.Provider. It sends a request for each family and unit.
func (p *Provider) Unassign(ctx context.Context, iface string, pieces []netip.Prefix) error {
	type kind struct{ family, bits int }
	groups := map[kind][]netip.Prefix{}
	for _, piece := range pieces {
		k := kind{int(inet.FamilyOf(piece.Addr())), piece.Bits()}
		groups[k] = append(groups[k], piece)
	}
	for _, group := range groups {
		if err := p.unassignGroup(ctx, iface, group); err != nil {
			return err
		}
	}
	return nil
}

// unassignGroup takes pieces of one family and unit from an interface. EC2 takes none of them
// if the interface lacks one: we then look, and ask for the others.
func (p *Provider) unassignGroup(ctx context.Context, iface string, pieces []netip.Prefix) error {
	err := p.unassign(ctx, iface, pieces)
	if err == nil || !isNotAssigned(err) {
		return err
	}
	has, err := p.assigned(ctx, iface)
	if err != nil {
		return err
	}
	rest := without(pieces, without(pieces, has))
	if len(rest) == 0 {
		return nil
	}
	err = p.unassign(ctx, iface, rest)
	if e, ok := errors.AsType[*cloud.Error](err); ok && isNotAssigned(err) {
		e.Kind = cloud.Conflict // the description is older than the last change; the next one is newer
	}
	return err
}

// unassign sends one request.
func (p *Provider) unassign(ctx context.Context, iface string, pieces []netip.Prefix) error {
	single := pieces[0].IsSingleIP()
	if pieces[0].Addr().Is6() {
		in := &ec2.UnassignIpv6AddressesInput{NetworkInterfaceId: &iface}
		if single {
			in.Ipv6Addresses = addressTexts(pieces)
		} else {
			in.Ipv6Prefixes = prefixTexts(pieces)
		}
		_, err := request(ctx, p, "UnassignIpv6Addresses", in, p.client.UnassignIpv6Addresses)
		return err
	}
	in := &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &iface}
	if single {
		in.PrivateIpAddresses = addressTexts(pieces)
	} else {
		in.Ipv4Prefixes = prefixTexts(pieces)
	}
	_, err := request(ctx, p, "UnassignPrivateIpAddresses", in, p.client.UnassignPrivateIpAddresses)
	return err
}

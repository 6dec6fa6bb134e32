// Package pieces asks a cloud for addresses and prefixes, one request at a time, and
// tolerates what an earlier request has done. It serves clouds whose prefixes are IPv4 /28
// and IPv6 /80: AWS and Alibaba Cloud.
package pieces

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

// The lengths of prefixes (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-prefix-eni.html,
// https://github.com/AliyunContainerService/terway/blob/main/docs/ip-prefix.md).
const (
	prefixIPv4 = 28
	prefixIPv6 = 80
)

// Requests sends single requests to a cloud. Every error is a *cloud.Error.
type Requests interface {
	// Assign asks for pieces, and returns those of the answer.
	Assign(ctx context.Context, a cloud.Assignment) ([]netip.Prefix, error)
	// Unassign takes pieces of one family and unit from an interface, all or none.
	Unassign(ctx context.Context, iface string, pieces []netip.Prefix) error
	// Interfaces describes interfaces, as cloud.Provider does.
	Interfaces(ctx context.Context, q cloud.Query) ([]cloud.Interface, error)
	// IsNotAssigned reports whether the cloud refused Unassign because the interface does not have
	// one of the pieces.
	IsNotAssigned(err error) bool
}

// Check returns an error for an assignment that no request can express.
func Check(a cloud.Assignment) error {
	switch {
	case a.Family != inet.IPv4 && a.Family != inet.IPv6:
		return fmt.Errorf("%v is no IP family", a.Family)
	case a.Unit != cloud.Prefixes && a.Unit != cloud.Addresses:
		return fmt.Errorf("%q is no unit", a.Unit)
	case (a.Count > 0) == (len(a.Exact) > 0):
		return fmt.Errorf("give either a number of pieces or the pieces, not %d and %v", a.Count, a.Exact)
	case a.Move && (a.Family != inet.IPv4 || a.Unit != cloud.Addresses):
		return fmt.Errorf("only single IPv4 addresses move, not %v", a.Exact)
	}
	for _, piece := range a.Exact {
		if length := lengthOf(a.Family, a.Unit); inet.FamilyOf(piece.Addr()) != a.Family || piece.Bits() != length {
			return fmt.Errorf("%s is not a /%d of %s", piece, length, a.Family)
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

// Assign carries out an assignment that Check accepts.
//
// A cloud refuses pieces that the interface already has. Only then we look at the interface,
// and ask for the missing ones.
func Assign(ctx context.Context, r Requests, a cloud.Assignment) ([]netip.Prefix, error) {
	got, err := r.Assign(ctx, a)
	if err == nil && len(a.Exact) > 0 {
		return a.Exact, nil // a moved address that was here already is not in the answer
	}
	if err == nil || len(a.Exact) == 0 || !slices.Contains([]cloud.Kind{cloud.Conflict, cloud.Invalid}, cloud.KindOf(err)) {
		return got, err
	}
	had, lookErr := assigned(ctx, r, a.Interface)
	if lookErr != nil {
		return nil, lookErr // the pieces may be here, so the refusal may say nothing
	}
	rest := a
	rest.Exact = without(a.Exact, had)
	switch len(rest.Exact) {
	case 0:
		return a.Exact, nil
	case len(a.Exact):
		return nil, err
	}
	if _, err := r.Assign(ctx, rest); err != nil {
		return nil, err
	}
	return a.Exact, nil
}

// without returns the pieces that are not among others.
func without(pieces, others []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(pieces), func(p netip.Prefix) bool { return slices.Contains(others, p) })
}

// assigned returns the pieces of an interface, the primary addresses included.
func assigned(ctx context.Context, r Requests, iface string) ([]netip.Prefix, error) {
	found, err := r.Interfaces(ctx, cloud.Query{IDs: []string{iface}})
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

// Unassign takes pieces from an interface. It sends a request for each family and unit.
func Unassign(ctx context.Context, r Requests, iface string, pieces []netip.Prefix) error {
	type kind struct{ family, bits int }
	groups := map[kind][]netip.Prefix{}
	for _, piece := range pieces {
		k := kind{int(inet.FamilyOf(piece.Addr())), piece.Bits()}
		groups[k] = append(groups[k], piece)
	}
	for _, group := range groups {
		if err := unassignGroup(ctx, r, iface, group); err != nil {
			return err
		}
	}
	return nil
}

// unassignGroup takes pieces of one family and unit from an interface. The cloud takes none of
// them if the interface lacks one: we then ask for each.
func unassignGroup(ctx context.Context, r Requests, iface string, pieces []netip.Prefix) error {
	err := r.Unassign(ctx, iface, pieces)
	if err == nil || !r.IsNotAssigned(err) {
		return err
	}
	if len(pieces) == 1 {
		return nil
	}
	for _, piece := range pieces {
		if err := unassignGroup(ctx, r, iface, []netip.Prefix{piece}); err != nil {
			return err
		}
	}
	return nil
}

// Texts returns pieces as a request names them: "10.0.1.16/28" for prefixes, "10.0.1.77" for
// single addresses.
func Texts(pieces []netip.Prefix) (texts []string) {
	for _, p := range pieces {
		if p.IsSingleIP() {
			texts = append(texts, p.Addr().String())
		} else {
			texts = append(texts, p.String())
		}
	}
	return texts
}

package cloudtest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

// nothing is the answer of a method that returns an error only.
type nothing struct{}

// Assign implements cloud.Provider.
func (f *Fake) Assign(ctx context.Context, a cloud.Assignment) ([]netip.Prefix, error) {
	return call(ctx, f, "Assign", func() ([]netip.Prefix, *failure) {
		i, ok := f.state.ifaces[a.Interface]
		if !ok {
			return nil, fail(cloud.Gone, "no interface %s", a.Interface)
		}
		if (a.Count > 0) == (len(a.Exact) > 0) {
			return nil, fail(cloud.Invalid, "give either Count or Exact")
		}
		if a.Unit == cloud.Prefixes && i.Attached != "" && !f.limits(i).Prefixes {
			return nil, fail(cloud.Invalid, "the instance type takes no prefixes")
		}
		if a.Count > 0 {
			return f.assignCount(i, a)
		}
		return f.assignExact(i, a)
	})
}

func (f *Fake) assignCount(i *cloud.Interface, a cloud.Assignment) ([]netip.Prefix, *failure) {
	if failed := f.checkQuota(i, a.Family, a.Count); failed != nil {
		return nil, failed
	}
	s := f.state.subnets[i.Subnet]
	picked, kind := s.pick(a.Family, a.Unit, a.Count)
	if kind != "" {
		return nil, fail(kind, "no room for %d pieces in %s", a.Count, i.Subnet)
	}
	for _, p := range picked {
		s.take(p)
	}
	i.Assigned = append(i.Assigned, picked...)
	return picked, nil
}

func (f *Fake) assignExact(i *cloud.Interface, a cloud.Assignment) ([]netip.Prefix, *failure) {
	s := f.state.subnets[i.Subnet]
	moved := map[netip.Prefix]*cloud.Interface{} // nil for a free piece
	for _, p := range a.Exact {
		switch owner := f.ownerOf(p); {
		case inet.FamilyOf(p.Addr()) != a.Family || p.Bits() != pieceBits(a.Family, a.Unit) || !s.has(p):
			return nil, fail(cloud.Invalid, "%s is no piece of %s", p, i.Subnet)
		case owner == i:
		case owner == nil && s.isFree(p):
			moved[p] = nil
		case owner == nil || !a.Move || owner.Subnet != i.Subnet:
			return nil, fail(cloud.Conflict, "%s is in use", p)
		case a.Family != inet.IPv4 || a.Unit != cloud.Addresses:
			return nil, fail(cloud.Invalid, "only IPv4 addresses move")
		default:
			moved[p] = owner
		}
	}
	if failed := f.checkQuota(i, a.Family, len(moved)); failed != nil {
		return nil, failed
	}
	for p, owner := range moved {
		if owner != nil {
			f.release(owner, []netip.Prefix{p})
		}
		s.take(p)
		i.Assigned = append(i.Assigned, p)
	}
	return slices.Clone(a.Exact), nil
}

func (f *Fake) ownerOf(p netip.Prefix) *cloud.Interface {
	for _, i := range f.state.ifaces {
		if slices.Contains(i.Assigned, p) {
			return i
		}
	}
	return nil
}

// limits returns the limits of an interface's instance.
func (f *Fake) limits(i *cloud.Interface) cloud.Limits {
	return f.state.types[f.state.instances[i.Attached].Type]
}

// checkQuota refuses more pieces than the instance type allows on one interface.
func (f *Fake) checkQuota(i *cloud.Interface, family inet.Family, more int) *failure {
	if i.Attached == "" {
		return nil
	}
	limit, n := f.limits(i).IPv4, more
	if family == inet.IPv6 {
		limit = f.limits(i).IPv6
	}
	for _, a := range i.Primary {
		if inet.FamilyOf(a) == family {
			n++
		}
	}
	for _, p := range i.Assigned {
		if inet.FamilyOf(p.Addr()) == family {
			n++
		}
	}
	if n > limit {
		return fail(cloud.Quota, "%d %s addresses, the type allows %d", n, family, limit)
	}
	return nil
}

// Unassign implements cloud.Provider.
func (f *Fake) Unassign(ctx context.Context, iface string, pieces []netip.Prefix) error {
	_, err := call(ctx, f, "Unassign", func() (nothing, *failure) {
		i, ok := f.state.ifaces[iface]
		if !ok {
			return nothing{}, fail(cloud.Gone, "no interface %s", iface)
		}
		f.release(i, pieces)
		return nothing{}, nil
	})
	return err
}

// release takes pieces from an interface that has them.
func (f *Fake) release(i *cloud.Interface, pieces []netip.Prefix) {
	for _, p := range pieces {
		if at := slices.Index(i.Assigned, p); at >= 0 {
			i.Assigned = slices.Delete(i.Assigned, at, at+1)
			f.state.subnets[i.Subnet].give(p)
		}
	}
}

// Create implements cloud.Provider.
func (f *Fake) Create(ctx context.Context, n cloud.NewInterface) (cloud.Interface, error) {
	return call(ctx, f, "Create", func() (cloud.Interface, *failure) {
		if i, ok := f.state.ifaces[f.state.tokens[n.Token]]; ok && n.Token != "" {
			return copyOf(*i), nil
		}
		if f.state.subnets[n.Subnet] == nil {
			return cloud.Interface{}, fail(cloud.Gone, "no subnet %s", n.Subnet)
		}
		for _, group := range n.SecurityGroups {
			if group != f.SecurityGroup() {
				return cloud.Interface{}, fail(cloud.Gone, "no security group %s", group)
			}
		}
		i, kind := f.newInterface(n)
		if kind != "" {
			return cloud.Interface{}, fail(kind, "no address in %s", n.Subnet)
		}
		f.state.tokens[n.Token] = i.ID
		return copyOf(*i), nil
	})
}

// newInterface makes an interface with its primary address.
func (f *Fake) newInterface(n cloud.NewInterface) (*cloud.Interface, cloud.Kind) {
	s := f.state.subnets[n.Subnet]
	primary, kind := s.pick(inet.IPv4, cloud.Addresses, 1)
	if kind != "" {
		return nil, kind
	}
	s.take(primary[0])
	id := f.newID("eni")
	f.state.ifaces[id] = &cloud.Interface{
		ID: id, MAC: fmt.Sprintf("02:fa:ce:%02x:%02x:%02x", byte(f.lastID>>16), byte(f.lastID>>8), byte(f.lastID)),
		Subnet: n.Subnet, SecurityGroups: slices.Clone(n.SecurityGroups), Primary: []netip.Addr{primary[0].Addr()}, Tags: maps.Clone(n.Tags),
	}
	return f.state.ifaces[id], ""
}

// Attach implements cloud.Provider.
func (f *Fake) Attach(ctx context.Context, iface, instance string, device int) error {
	_, err := call(ctx, f, "Attach", func() (nothing, *failure) {
		i, ok := f.state.ifaces[iface]
		if _, exists := f.state.instances[instance]; !ok || !exists {
			return nothing{}, fail(cloud.Gone, "no interface %s, or no instance %s", iface, instance)
		}
		if i.Attached == instance && i.Device == device {
			return nothing{}, nil
		}
		if i.Attached != "" {
			return nothing{}, fail(cloud.Conflict, "%s is attached to %s", iface, i.Attached)
		}
		attached := 0
		for _, other := range f.state.ifaces {
			if other.Attached != instance {
				continue
			}
			if attached++; other.Device == device {
				return nothing{}, fail(cloud.Conflict, "%s has device %d", other.ID, device)
			}
		}
		if limit := f.state.types[f.state.instances[instance].Type].Interfaces; attached >= limit {
			return nothing{}, fail(cloud.Quota, "%s has %d interfaces", instance, attached)
		}
		i.Attached, i.Device = instance, device
		f.state.dies[iface] = true
		return nothing{}, nil
	})
	return err
}

// Detach implements cloud.Provider.
func (f *Fake) Detach(ctx context.Context, iface string) error {
	_, err := call(ctx, f, "Detach", func() (nothing, *failure) {
		i, ok := f.state.ifaces[iface]
		switch {
		case !ok:
			return nothing{}, fail(cloud.Gone, "no interface %s", iface)
		case i.Attached != "" && i.Device == 0:
			return nothing{}, fail(cloud.Invalid, "%s is the primary interface", iface)
		}
		i.Attached, i.Device = "", 0
		return nothing{}, nil
	})
	return err
}

// Delete implements cloud.Provider.
func (f *Fake) Delete(ctx context.Context, iface string) error {
	_, err := call(ctx, f, "Delete", func() (nothing, *failure) {
		if i, ok := f.state.ifaces[iface]; ok {
			if i.Attached != "" {
				return nothing{}, fail(cloud.Conflict, "%s is attached to %s", iface, i.Attached)
			}
			f.deleteInterface(i)
		}
		return nothing{}, nil
	})
	return err
}

func (f *Fake) deleteInterface(i *cloud.Interface) {
	f.release(i, slices.Clone(i.Assigned))
	for _, a := range i.Primary {
		f.state.subnets[i.Subnet].give(single(a))
	}
	delete(f.state.ifaces, i.ID)
}

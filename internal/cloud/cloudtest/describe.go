package cloudtest

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// describe returns the present state as values that share nothing with it.
func (f *Fake) describe() view {
	var v view
	for id, i := range f.state.ifaces {
		described := copyOf(*i)
		described.Survives = i.Attached != "" && !f.state.dies[id]
		v.ifaces = append(v.ifaces, described)
	}
	slices.SortFunc(v.ifaces, func(a, b cloud.Interface) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.ID, b.ID))
	})
	attached := map[string][]cloud.Interface{}
	for _, i := range v.ifaces {
		if i.Attached != "" {
			i = copyOf(i)
			i.Tags = nil // an instance is described without them
			attached[i.Attached] = append(attached[i.Attached], i)
		}
	}
	for id, i := range f.state.instances {
		i.Interfaces = attached[id]
		v.instances = append(v.instances, i)
	}
	for _, s := range f.state.subnets {
		described := s.Subnet
		described.CIDRs, described.Reserved, described.Tags = slices.Clone(s.CIDRs), slices.Clone(s.reserved), maps.Clone(s.Tags)
		described.Free = s.free
		v.subnets = append(v.subnets, described)
	}
	return v
}

func copyOf(i cloud.Interface) cloud.Interface {
	i.SecurityGroups, i.Primary, i.Tags = slices.Clone(i.SecurityGroups), slices.Clone(i.Primary), maps.Clone(i.Tags)
	i.Assigned = slices.SortedFunc(slices.Values(i.Assigned), netip.Prefix.Compare)
	return i
}

// seen returns the answer to a description: the present state, or the stale one.
func (f *Fake) seen() view {
	if f.stale != nil {
		return *f.stale
	}
	return f.describe()
}

// where returns the items that match, in a new slice.
func where[T any](items []T, match func(T) bool) (found []T) {
	for _, item := range items {
		if match(item) {
			found = append(found, item)
		}
	}
	return found
}

// Instances implements cloud.Provider.
func (f *Fake) Instances(ctx context.Context, ids []string) ([]cloud.Instance, error) {
	return call(ctx, f, "Instances", func() ([]cloud.Instance, *failure) {
		return where(f.seen().instances, func(i cloud.Instance) bool { return slices.Contains(ids, i.ID) }), nil
	})
}

// Interfaces implements cloud.Provider.
func (f *Fake) Interfaces(ctx context.Context, q cloud.Query) ([]cloud.Interface, error) {
	return call(ctx, f, "Interfaces", func() ([]cloud.Interface, *failure) {
		return where(f.seen().ifaces, func(i cloud.Interface) bool {
			return !q.Empty() &&
				(len(q.IDs) == 0 || slices.Contains(q.IDs, i.ID)) &&
				(len(q.Instances) == 0 || slices.Contains(q.Instances, i.Attached)) &&
				hasTags(i.Tags, q.Tags)
		}), nil
	})
}

// hasTags reports whether a resource has the wanted tags. An empty value matches any.
func hasTags(tags, wanted map[string]string) bool {
	for key, value := range wanted {
		if got, ok := tags[key]; !ok || value != "" && got != value {
			return false
		}
	}
	return true
}

// Subnets implements cloud.Provider.
func (f *Fake) Subnets(ctx context.Context, ids []string, tags map[string]string) ([]cloud.Subnet, error) {
	return call(ctx, f, "Subnets", func() ([]cloud.Subnet, *failure) {
		return where(f.seen().subnets, func(s cloud.Subnet) bool {
			if len(ids) > 0 {
				return slices.Contains(ids, s.ID)
			}
			return len(tags) > 0 && hasTags(s.Tags, tags)
		}), nil
	})
}

// Limits implements cloud.Provider.
func (f *Fake) Limits(ctx context.Context, types []string) (map[string]cloud.Limits, error) {
	return call(ctx, f, "Limits", func() (map[string]cloud.Limits, *failure) {
		limits := map[string]cloud.Limits{}
		for _, name := range types {
			if l, ok := f.state.types[name]; ok {
				limits[name] = l
			}
		}
		return limits, nil
	})
}

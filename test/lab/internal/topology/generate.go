package topology

import (
	"fmt"
	"net/netip"

	"go4.org/netipx"
)

// WithNodes returns the topology with exactly count nodes: first the listed nodes, then workers generated from the node
// templates in turn. It fails if a template's range is full.
func (t *Topology) WithNodes(count int) (*Topology, error) {
	if count < 1 {
		return nil, fmt.Errorf("nodes: %d is too few; a cluster needs at least 1", count)
	}
	grown := *t
	grown.Nodes = append([]Host(nil), t.Nodes[:min(count, len(t.Nodes))]...)
	for len(grown.Nodes) < count {
		if len(t.NodeTemplates) == 0 {
			return nil, fmt.Errorf("nodes: %d requested, but the topology lists %d and has no nodeTemplates", count, len(t.Nodes))
		}
		template := t.NodeTemplates[(len(grown.Nodes)-len(t.Nodes))%len(t.NodeTemplates)]
		name := fmt.Sprintf("worker%d", len(grown.Nodes))
		iface, err := grown.nextInterface(template)
		if err != nil {
			return nil, fmt.Errorf("nodes: %s: %w", name, err)
		}
		grown.Nodes = append(grown.Nodes, Host{Name: name, Interfaces: []Interface{iface}})
	}
	if err := grown.Validate(); err != nil {
		return nil, err
	}
	return &grown, nil
}

// nextInterface takes the first free addresses and prefixes of the template's ranges.
func (t *Topology) nextInterface(template NodeTemplate) (Interface, error) {
	taken, err := t.taken()
	if err != nil {
		return Interface{}, err
	}
	iface := Interface{Name: template.Interface, Subnet: template.Subnet}
	for _, want := range []struct {
		from netip.Prefix
		addr *netip.Addr
	}{{template.IPv4, &iface.IPv4}, {template.IPv6, &iface.IPv6}} {
		prefix, err := firstFree(want.from, want.from.Addr().BitLen(), taken)
		if err != nil {
			return Interface{}, err
		}
		*want.addr = prefix.Addr()
	}
	for _, source := range template.Prefixes {
		prefix, err := firstFree(source.From, source.Bits, taken)
		if err != nil {
			return Interface{}, err
		}
		iface.Prefixes = append(iface.Prefixes, prefix)
	}
	completeMAC(&iface.MAC, iface.IPv4)
	return iface, nil
}

// taken is the set of unavailable addresses: assigned ones, gateways, and the first and last IPv4 address of each
// subnet.
func (t *Topology) taken() (*netipx.IPSet, error) {
	var b netipx.IPSetBuilder
	for _, assigned := range t.assignments() {
		b.AddPrefix(assigned.prefix)
	}
	for _, subnet := range t.subnets() {
		b.Add(subnet.GatewayIPv4)
		b.Add(subnet.GatewayIPv6)
		b.Add(subnet.IPv4.Addr())
		b.Add(netipx.PrefixLastIP(subnet.IPv4))
	}
	return b.IPSet()
}

// firstFree returns the first prefix of that length in the range without overlap with taken. A single
// address is never the first one of the range, because IPv6 uses that as the subnet-router anycast address.
func firstFree(from netip.Prefix, bits int, taken *netipx.IPSet) (netip.Prefix, error) {
	single := bits == from.Addr().BitLen()
	for addr := from.Addr(); from.Contains(addr); {
		candidate := netip.PrefixFrom(addr, bits)
		if !(single && addr == from.Addr()) && !taken.OverlapsPrefix(candidate) {
			return candidate, nil
		}
		addr = netipx.PrefixLastIP(candidate).Next()
	}
	return netip.Prefix{}, fmt.Errorf("no /%d is left in %s; widen the node template's range", bits, from)
}

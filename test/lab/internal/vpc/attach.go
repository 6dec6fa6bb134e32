package vpc

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// Attach makes these the only ENIs of machines beyond those of the topology, by machine: each has a Name, a MAC and an IPv4
// address in a subnet of the VPC. Like on AWS, a new link of a running machine is down and has no address, and a link that
// goes takes the links above it along, e.g. the ipvlan ones of pods. Run the actions of Actions first, and Assign afterwards,
// because a new ENI has no ranges. Attach can be repeated.
//
// The router's links are the only record of these ENIs. ServeNeighbours reads them, and sees a change at once.
func Attach(t *topology.Topology, wanted map[string][]topology.Interface) error {
	for _, vpc := range t.VPCs {
		f := newFabric(t, vpc)
		present, err := f.attached()
		if err != nil {
			return err
		}
		missing := f.further(wanted)
		for _, e := range present {
			at := slices.IndexFunc(missing, func(w eni) bool { return w.alias() == e.alias() })
			if at >= 0 {
				missing = slices.Delete(missing, at, at+1)
				continue
			}
			if err := e.unplug(); err != nil {
				return err
			}
		}
		for _, e := range missing {
			if err := f.plug(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// further returns the interfaces that belong to this VPC.
func (f *fabric) further(interfaces map[string][]topology.Interface) (enis []eni) {
	for host, list := range interfaces {
		for _, iface := range list {
			if e, ok := f.furtherENI(host, iface); ok {
				enis = append(enis, e)
			}
		}
	}
	return enis
}

// furtherENI returns the ENI of an interface that is not in the topology, if it belongs to this VPC. It has no ranges, and no
// IPv6 address of its own, so the router sends IPv6 packets to the link-local one.
func (f *fabric) furtherENI(host string, iface topology.Interface) (e eni, ok bool) {
	at := slices.IndexFunc(f.vpc.Subnets, func(s topology.Subnet) bool { return s.IPv4.Contains(iface.IPv4) })
	if at < 0 {
		return e, false
	}
	iface.Subnet, iface.IPv6 = f.vpc.Subnets[at].Name, linkLocal(iface.MAC)
	e, ok = f.eniOf(host, eni{Interface: iface, sourceCheck: true})
	e.ranges = nil
	return e, ok
}

// linkLocal returns the IPv6 address that the kernel gives to a link with the MAC address (RFC 4291, appendix A).
func linkLocal(mac topology.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// alias is the text at the router's link that describes an attached ENI, e.g. "worker1 ens6 0a:58:00:00:00:01 172.31.64.10".
func (e eni) alias() string {
	host, link, _ := strings.Cut(e.owner, "/")
	return strings.Join([]string{host, link, e.MAC.String(), e.IPv4.String()}, " ")
}

// attachedENI returns the attached ENI at one of the router's links; ok is false for other links.
func (f *fabric) attachedENI(link netlink.Link) (e eni, ok bool) {
	fields := strings.Fields(link.Attrs().Alias)
	if len(fields) != 4 {
		return e, false
	}
	iface := topology.Interface{Name: fields[1]}
	var err error
	if iface.IPv4, err = netip.ParseAddr(fields[3]); err != nil || iface.MAC.UnmarshalText([]byte(fields[2])) != nil {
		return e, false
	}
	return f.furtherENI(fields[0], iface)
}

// attached returns the attached ENIs of the VPC.
func (f *fabric) attached() (enis []eni, err error) {
	err = netns.Netlink(f.namespace(), func(handle *netlink.Handle) error {
		links, err := handle.LinkList()
		for _, link := range links {
			if e, ok := f.attachedENI(link); ok {
				enis = append(enis, e)
			}
		}
		return err
	})
	return enis, err
}

// plug connects an ENI to a running machine. The alias comes last: a link without it is not finished.
func (f *fabric) plug(e eni) error {
	if err := errors.Join(e.router.remove(), e.host.remove()); err != nil {
		return err
	}
	if err := addPair(e.router, e.host); err != nil {
		return err
	}
	if err := e.router.with(func(handle *netlink.Handle, link netlink.Link) error { return handle.LinkSetUp(link) }); err != nil {
		return e.router.errorf("set up: %w", err)
	}
	if err := f.join(e); err != nil {
		return err
	}
	return e.router.with(func(handle *netlink.Handle, link netlink.Link) error { return handle.LinkSetAlias(link, e.alias()) })
}

// unplug removes an ENI from its machine and from the router.
func (e eni) unplug() error {
	if err := e.router.remove(); err != nil {
		return err
	}
	return netns.Netlink(e.router.namespace, func(handle *netlink.Handle) error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			rule := netlink.NewRule()
			rule.Family, rule.Priority, rule.IifName = family, prioritySubnet, e.router.link
			if err := handle.RuleDel(rule); err != nil && !errors.Is(err, unix.ENOENT) {
				return e.router.errorf("delete the rule of its subnet: %w", err)
			}
		}
		return nil
	})
}

// ports are a router's links to ENIs.
type ports struct {
	fabric *fabric
	routes routes
	known  map[int]port // by the index of the link
}

// at returns the port at a link; ok is false for other links. It learns of ENIs that were attached since.
func (p *ports) at(index int) (found port, ok bool) {
	if found, ok = p.known[index]; ok || index == 0 {
		return found, ok
	}
	link, err := p.routes.handle.LinkByIndex(index)
	if err != nil {
		return port{}, false // it has gone
	}
	e, ok := p.fabric.attachedENI(link)
	if ok {
		p.add(e, index, link.Attrs().HardwareAddr)
	}
	return p.known[index], ok
}

func (p *ports) add(e eni, index int, mac net.HardwareAddr) {
	p.known[index] = port{e, mac, func(addr netip.Addr) (eni, bool) {
		holder, ok := p.at(p.routes.link(addr))
		return holder.eni, ok
	}}
}

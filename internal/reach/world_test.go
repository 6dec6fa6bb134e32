package reach

import (
	"fmt"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// healthy returns two nodes with their pods on a macvlan network, and services by kube-proxy. All paths work.
func healthy() *World { return nodes(2) }

const gateway = "10.6.0.1"

func podAddr(node, pod int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 6, byte(node + 1), byte(10 + pod)})
}

func hostAddr(node int) netip.Addr  { return netip.AddrFrom4([4]byte{10, 6, 0, byte(10 + node)}) }
func serviceIP(node int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, 0, byte(10 + node)}) }
func macOf(addr netip.Addr) string  { return fmt.Sprintf("02:00:%x", addr.As4()) }

var dnsServer, apiServer = netip.MustParseAddr("10.96.0.2"), netip.MustParseAddr("10.96.0.1")

func nodes(count int) *World {
	w := &World{Nodes: map[string]NodeState{}, DNSServers: 1}
	w.Port, w.DNSName, w.APIServer = 5731, "kubernetes.default.svc.cluster.local", []netip.AddrPort{netip.AddrPortFrom(apiServer, 443)}
	for n := range count {
		node := fmt.Sprintf("n%d", n)
		w.Nodes[node] = NodeState{}
		for i, role := range []string{"first", "last"} {
			w.Parties = append(w.Parties, Party{Name: fmt.Sprintf("%s-%d", role, n), Node: node, Interfaces: []Interface{{
				Name: "eth0", Network: "kube-system/lan", Leases: []Leased{{podAddr(n, i), netip.MustParseAddr(gateway), "blue"}},
			}}})
		}
		w.Parties = append(w.Parties, Party{Name: fmt.Sprintf("host-%d", n), Node: node, Host: true, Interfaces: []Interface{{Leases: []Leased{{Addr: hostAddr(n)}}}}})
		w.Services = append(w.Services, Service{
			Name: fmt.Sprintf("Service last-%d", n), Node: node, Backend: fmt.Sprintf("last-%d", n), ClusterIPs: []netip.Addr{serviceIP(n)}, Port: 5731, NodePort: uint16(30000 + n),
		})
	}
	for i := range w.Parties {
		w.Parties[i].Facts = w.factsOf(&w.Parties[i])
	}
	w.Probes = Plan(&w.Cluster)
	for i := range w.Parties {
		w.Parties[i].Facts.Ways = w.waysOf(&w.Parties[i], w.Peers(w.Probes))
	}
	for i := range w.Probes {
		w.Probes[i].Judge(Answer{Server: w.Probes[i].Server})
	}
	return w
}

func (w *World) factsOf(t *Party) Facts {
	f := Facts{Sysctls: map[string]string{"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/eth0/rp_filter": "0"}, NameServers: []netip.Addr{dnsServer}}
	own := t.Interfaces[0].Leases[0].Addr
	addrs := []netip.Prefix{netip.PrefixFrom(own, 16)}
	if t.Host {
		f.Links = []Link{{Name: "ens5", Kind: "veth", Index: 5, MTU: 1500, Up: true, MAC: macOf(own), Addrs: addrs}}
		return f
	}
	f.Links = []Link{{Name: "eth0", Kind: "macvlan", Index: 2, Parent: 5, MTU: 1500, Up: true, MAC: macOf(own), Addrs: addrs}, {Name: netplan.PodVeth, Kind: "veth", Index: 3, Parent: 9, MTU: 1500, Up: true}}
	for _, peer := range w.Parties {
		addr := peer.Interfaces[0].Leases[0].Addr
		if addr != own && (peer.Node != t.Node || !peer.Host) {
			f.Neighbors = append(f.Neighbors, Neighbor{addr, "eth0", macOf(addr)})
		}
	}
	f.Neighbors = append(f.Neighbors, Neighbor{netip.MustParseAddr(gateway), "eth0", "02:00:00:00:00:01"})
	return f
}

func (w *World) waysOf(t *Party, peers []netip.Addr) (ways []Way) {
	own := t.Interfaces[0].Leases[0].Addr
	for _, peer := range peers {
		way := Way{To: peer, Dev: "eth0", From: own}
		var at *Party
		if i := slices.IndexFunc(w.Parties, func(p Party) bool { return p.Interfaces[0].Leases[0].Addr == peer }); i >= 0 {
			at = &w.Parties[i]
		}
		switch {
		case peer.Is6():
			way = Way{To: peer}
		case t.Host && at != nil && at.Node == t.Node && !at.Host:
			way.Dev = "spv0a"
		case t.Host:
			way.Dev = "ens5"
		case at != nil && at.Node == t.Node && at.Host, netip.MustParsePrefix("10.96.0.0/16").Contains(peer):
			way.Dev = netplan.PodVeth
		case peer == Far(inet.IPv4):
			way.Via = netip.MustParseAddr(gateway)
		}
		ways = append(ways, way)
	}
	return ways
}

// fail sets the fault of the probes that is selects.
func (w *World) fail(fault Fault, is func(p *Probe) bool) {
	for i := range w.Probes {
		if is(&w.Probes[i]) {
			w.Probes[i].Answer = Answer{Fault: fault}
		}
	}
}

// setWay replaces a way of a party.
func (w *World) setWay(name string, way Way) {
	f := &w.party(name).Facts
	i := slices.IndexFunc(f.Ways, func(old Way) bool { return old.To == way.To })
	f.Ways[i] = way
}

// setMAC replaces the hardware address that a party sees, or removes it.
func (w *World) setMAC(name, addr, mac string) {
	f := &w.party(name).Facts
	i := slices.IndexFunc(f.Neighbors, func(n Neighbor) bool { return n.Addr.String() == addr })
	f.Neighbors[i].MAC = mac
}

func (w *World) setLink(name, link string, change func(*Link)) {
	f := &w.party(name).Facts
	change(&f.Links[slices.IndexFunc(f.Links, func(l Link) bool { return l.Name == link })])
}

func on(paths ...string) func(*Probe) bool {
	return func(p *Probe) bool { return slices.Contains(paths, p.Path) }
}

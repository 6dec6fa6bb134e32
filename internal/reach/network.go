package reach

import (
	"fmt"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// gatewayAway finds a gateway that does not answer ARP or NDP, on a network where other nodes do.
func gatewayAway(w *World, p *Probe) (Finding, bool) {
	from := w.party(p.From)
	if from == nil || from.Host || p.Question.Kind == Full {
		return Finding{}, false
	}
	next, dev := p.Question.To.Addr(), p.Question.Dev
	if p.Question.Kind != Gateway {
		way, _ := from.Facts.way(next)
		next, dev = way.Via, way.Dev
	}
	i, l, ok := from.lease(func(l Leased) bool { return l.Gateway.IsValid() && l.Gateway == next.WithZone("") })
	if !ok || i.Name != dev {
		return Finding{}, false
	}
	if n, ok := from.Facts.neighbor(l.Gateway, dev); ok && n.MAC != "" {
		return Finding{}, false
	}
	f := Finding{Subject: "SpiderIPPool " + l.Pool}
	switch beyond, judged := w.carries(from.Node, i.Name); {
	case judged && !beyond:
		return Finding{}, false // networkCut
	case judged:
		f.Problem = fmt.Sprintf("no host answers for its gateway %s, although other nodes answer on the same network", l.Gateway)
		f.Remedy = fmt.Sprintf("correct spec.gateway and recreate the pods, or start the router; kubectl edit spiderippool %s", l.Pool)
	default:
		f.Problem = fmt.Sprintf("no host answers for its gateway %s; the test has no pod on another node, so the whole network may be cut off", l.Gateway)
		f.Remedy = "correct spec.gateway, or check the router, the switch port and the VLAN" + w.vlanOf(from, i.Name) + " of node " + from.Node
	}
	return f, true
}

// carries reports whether frames of pods reach another node by an interface. judged is false if no
// pod on the node asked another node directly.
func (w *World) carries(node, ifname string) (beyond, judged bool) {
	for i := range w.Probes {
		p := &w.Probes[i]
		from, to := w.party(p.From), w.direct(p)
		if from == nil || to == nil || from.Host || from.Node != node || to.Node == node || p.Question.Kind == Full {
			continue
		}
		way, ok := from.Facts.way(p.Question.To.Addr())
		if !ok || way.Dev != ifname || way.Via.IsValid() {
			continue
		}
		judged = true
		n, _ := from.Facts.neighbor(p.Question.To.Addr(), ifname)
		beyond = beyond || p.Answer.Fault == "" || n.MAC != ""
	}
	return beyond, judged
}

// vlanOf returns e.g. " 100" if the interface of a pod is on a VLAN.
func (w *World) vlanOf(t *Party, ifname string) string {
	l, _ := t.Facts.link(ifname)
	if master, ok := w.master(t, l); ok && master.VLAN != 0 {
		return fmt.Sprintf(" %d", master.VLAN)
	}
	return ""
}

// networkCut finds a network that carries no frames of pods to other nodes.
func networkCut(w *World, p *Probe) (Finding, bool) {
	from := w.party(p.From)
	if from == nil || from.Host || p.Answer.Fault == TooBig {
		return Finding{}, false
	}
	dev := p.Question.Dev
	if dev == "" {
		way, _ := from.Facts.way(p.Question.To.Addr())
		dev = way.Dev
	}
	i := slices.IndexFunc(from.Interfaces, func(i Interface) bool { return i.Name == dev })
	if beyond, judged := w.carries(from.Node, dev); i < 0 || beyond || !judged {
		return Finding{}, false
	}
	if to := w.direct(p); p.Question.Kind != Gateway && (to == nil || to.Node == from.Node) {
		return Finding{}, false
	}
	l, _ := from.Facts.link(dev)
	f := Finding{Subject: "network " + from.Interfaces[i].Network}
	master, known := w.master(from, l)
	switch {
	case known && master.VLAN != 0:
		f.Problem = fmt.Sprintf("VLAN %d carries no frames between node %s and the others: on %s, neither pods of other nodes nor gateways answer ARP or NDP", master.VLAN, from.Node, master.Name)
		f.Remedy = fmt.Sprintf("permit VLAN %d on the switch ports of all nodes, or correct vlanID of the SpiderMultusConfig", master.VLAN)
	case l.Kind == "macvlan":
		f.Problem = fmt.Sprintf("it carries no frames of pods between node %s and the others", from.Node)
		f.Remedy = "permit more than one MAC address on the ports of the nodes (promiscuous mode and forged transmits of the hypervisor, port security of the switch), or use ipvlan"
	default:
		f.Problem = fmt.Sprintf("it carries no frames of pods between node %s and the others", from.Node)
		f.Remedy = "check the switch ports, and whether the cloud assigned the addresses of the pods to the interface of the node"
	}
	return f, true
}

// smallMTU finds a network that carries small packets only.
func smallMTU(w *World, p *Probe) (Finding, bool) {
	from, to := w.party(p.From), w.direct(p)
	if p.Question.Kind != Full || from == nil || to == nil {
		return Finding{}, false
	}
	small := slices.ContainsFunc(w.Probes, func(q Probe) bool {
		return q.From == p.From && q.Question.Kind == UDP && q.Question.To == p.Question.To && q.Answer.Fault == ""
	})
	if !small {
		return Finding{}, false
	}
	network := ""
	if i := slices.IndexFunc(from.Interfaces, func(i Interface) bool { return i.Name == p.Interface }); i >= 0 {
		network = from.Interfaces[i].Network
	}
	if from.Node > to.Node { // one finding for both directions
		from, to = to, from
	}
	f := Finding{
		Subject: "network " + network,
		Problem: fmt.Sprintf("interface %s of pods has MTU %d, but between nodes %s and %s such packets are lost", p.Interface, p.Question.Size, from.Node, to.Node),
		Remedy:  "raise the MTU of the switches and masters between the nodes, or set a smaller mtu in the SpiderMultusConfig",
	}
	if p.Answer.Largest > 0 {
		f.Problem += fmt.Sprintf("; packets of %d bytes pass", p.Answer.Largest)
		f.Remedy += fmt.Sprintf(", e.g. %d", p.Answer.Largest)
	}
	for _, t := range []*Party{from, to} {
		l, _ := t.Facts.link(p.Interface)
		if master, ok := w.master(t, l); ok && master.MTU < p.Question.Size {
			f.Problem += fmt.Sprintf("; %s of node %s has MTU %d", master.Name, t.Node, master.MTU)
		}
	}
	return f, true
}

// directWorks reports whether the client of a probe of a service reaches the server at its own address.
func (w *World) directWorks(p *Probe) (works, judged bool) {
	server := w.party(p.Server)
	if server == nil {
		return false, false
	}
	for _, q := range w.Probes {
		if q.From == p.From && q.To == p.Server && q.Family == p.Family && (q.Question.Kind == TCP || q.Question.Kind == UDP) {
			judged = true
			works = works || q.Answer.Fault == ""
		}
	}
	return works || p.From == p.Server, judged || p.From == p.Server
}

// backendAway gives a service the cause of the failure of its backend.
func backendAway(w *World, p *Probe) (Finding, bool) {
	if works, judged := w.directWorks(p); !w.isService(p) || works || !judged {
		return Finding{}, false
	}
	i := slices.IndexFunc(w.Probes, func(q Probe) bool {
		return q.From == p.From && q.To == p.Server && q.Family == p.Family && q.Answer.Fault != ""
	})
	if i < 0 {
		return Finding{}, false
	}
	return w.explain(&w.Probes[i]), true
}

// isService reports whether a node has to translate the address of a probe.
func (w *World) isService(p *Probe) bool {
	return p.Path == PathAPIServer || p.Path == PathDNS || p.To != "" && p.To != p.Server
}

// serviceRoute finds a pod whose packets to a service bypass its node.
func serviceRoute(w *World, p *Probe) (Finding, bool) {
	from := w.party(p.From)
	if from == nil || from.Host || !w.isService(p) || w.isNodeAddress(p.Question.To.Addr()) {
		return Finding{}, false
	}
	_, paired := from.Facts.link(netplan.PodVeth)
	way, ok := from.Facts.way(p.Question.To.Addr())
	if !paired || !ok || way.Dev == netplan.PodVeth || way.Dev == "" {
		return Finding{}, false
	}
	return Finding{
		from.describe(), fmt.Sprintf("its packets to service address %s leave by %s, not by %s to the node, so no kube-proxy translates them", p.Question.To.Addr(), way.Dev, netplan.PodVeth),
		"kubectl get spidercoordinator -o yaml shows the service networks: set serviceCIDR if this one is missing, then recreate the pods; else another program removed the route", nil,
	}, true
}

func (w *World) isNodeAddress(addr netip.Addr) bool {
	return slices.ContainsFunc(w.Parties, func(t Party) bool {
		_, _, ok := t.lease(func(l Leased) bool { return l.Addr == addr })
		return t.Host && ok
	})
}

// noForwarding finds a node that does not forward packets of its pods.
func noForwarding(w *World, p *Probe) (Finding, bool) {
	from := w.party(p.From)
	if from == nil || from.Host || !w.isService(p) {
		return Finding{}, false
	}
	path := "net/ipv4/ip_forward"
	if p.Family == inet.IPv6 {
		path = "net/ipv6/conf/all/forwarding"
	}
	host := w.host(from.Node)
	return Finding{
		"node " + from.Node, path + " is 0, so the node forwards no packets of its pods to services",
		"sysctl -w " + path + "=1, and set it in /etc/sysctl.d; kube-proxy needs it, too", nil,
	}, host != nil && host.Facts.Sysctls[path] == "0"
}

// notTranslated finds a node that does not translate services.
func notTranslated(w *World, p *Probe) (Finding, bool) {
	from := w.party(p.From)
	if from == nil || !w.isService(p) || p.Answer.Fault == OtherServer {
		return Finding{}, false
	}
	if works, judged := w.directWorks(p); judged && !works {
		return Finding{}, false
	}
	node := from.Node
	if p.Path == PathNodePortFar {
		if service := w.service(p.To); service != nil {
			node = service.Node
		}
	}
	f := Finding{Subject: "node " + node, Problem: "it does not translate service addresses"}
	switch state := w.Nodes[node]; {
	case state.Services != "":
		f.Problem += "; " + state.Services
		f.Remedy = "kubectl logs of the node's spiderpool-agent has the reason; the Helm value service.mode=kubeproxy leaves services to kube-proxy"
	case state.AgentFault != "":
		f.Problem += "; " + state.AgentFault
		f.Remedy = "start the agent; until then, kube-proxy must translate"
	default:
		f.Remedy = fmt.Sprintf("check kube-proxy, e.g. kubectl -n kube-system get pods -l k8s-app=kube-proxy -o wide, and spiderpoolctl node in the agent of node %s", node)
	}
	if p.Answer.Fault == Refused {
		f.Problem = fmt.Sprintf("it refuses connections to service address %s, so it knows no ready endpoint", p.Question.To)
		f.Remedy = "compare kubectl get endpointslices with the pods; if they are right, restart kube-proxy and the agent of node " + node
	}
	return f, true
}

func (w *World) service(name string) *Service {
	if i := slices.IndexFunc(w.Services, func(s Service) bool { return s.Name == name }); i >= 0 {
		return &w.Services[i]
	}
	return nil
}

// firewall finds a host that answers other parties, but not on the port of the test.
func firewall(w *World, p *Probe) (Finding, bool) {
	to := w.direct(p)
	if to == nil || p.Answer.Fault != Silent && p.Answer.Fault != Prohibited && p.Answer.Fault != NoNeighbor {
		return Finding{}, false
	}
	from := w.party(p.From)
	way, _ := from.Facts.way(p.Question.To.Addr())
	n, ok := from.Facts.neighbor(p.Question.To.Addr(), way.Dev)
	if !to.Host || way.Via.IsValid() || ok && n.MAC == "" && way.Dev != netplan.PodVeth {
		return Finding{}, false
	}
	return Finding{
		"node " + to.Node, fmt.Sprintf("it drops packets of pods to %s, although the network reaches it", p.Question.To.Addr()),
		fmt.Sprintf("look for a packet filter on the node that drops port %d, e.g. firewalld: nft list ruleset", p.Question.To.Port()), nil,
	}, true
}

package reach

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// Finding is the cause of failed paths, with the way out.
type Finding struct {
	Subject string `json:"subject"` // e.g. "pod probe-0-a"
	Problem string `json:"problem"`
	Remedy  string `json:"remedy"`
	// Paths are the failed paths with this cause.
	Paths []string `json:"paths,omitempty"`
}

// NodeState is the state of a node by the API server and by its agent.
type NodeState struct {
	// AgentFault says why the agent is not ready, "" if it is.
	AgentFault string `json:"agentFault,omitempty"`
	// Services is the failed check of the translation of services, "" if the agent
	// reports none or was not asked.
	Services string `json:"services,omitempty"`
}

// World is everything known after the test.
type World struct {
	Cluster
	Probes []Probe
	Nodes  map[string]NodeState
	// Denies returns the verdict of the network policy that denies the connection of a probe, e.g.
	// "ingress of last-0 is denied: no rule of shop/closed allows it", and "" if none does.
	Denies func(Probe) string
	// DNSServers is the number of ready endpoints of the cluster's DNS, or -1 if it is unknown.
	DNSServers int
}

// cause looks for one cause of a failed probe.
type cause func(w *World, p *Probe) (Finding, bool)

// causes returns them in the order of trust: a cause that the kernel or the API server states comes before
// one that follows from the failures of other paths.
func causes() []cause {
	return []cause{
		policyDenies, interfaceGone, linkDown, usedTwice, noRoute, dnsWithoutServers, reversePath, nodeRoute,
		gatewayAway, networkCut, smallMTU, serviceRoute, noForwarding, backendAway, notTranslated, firewall,
	}
}

// Diagnose returns the causes of all failed probes. Findings with the same text are one.
func (w *World) Diagnose() []Finding {
	var all []Finding
	add := func(f Finding, path string) {
		at := slices.IndexFunc(all, func(other Finding) bool { return other.Subject == f.Subject && other.Problem == f.Problem })
		if at < 0 {
			at, all = len(all), append(all, f)
		}
		if path != "" && !slices.Contains(all[at].Paths, path) {
			all[at].Paths = append(all[at].Paths, path)
		}
	}
	for i := range w.Probes {
		p := &w.Probes[i]
		if p.Answer.Fault != "" {
			add(w.explain(p), p.Path)
		} else if f, ok := usedTwice(w, p); ok { // today the right host answered
			add(f, "")
		}
	}
	return all
}

// explain returns the first cause of a failed probe.
func (w *World) explain(p *Probe) Finding {
	for _, find := range causes() {
		if f, ok := find(w, p); ok {
			return f
		}
	}
	to := p.Question.To.String()
	if p.To != "" {
		to += " of " + p.To
	}
	return Finding{
		Subject: "path " + p.Path,
		Problem: fmt.Sprintf("%s gets from %s by %s: %s; no cause is known", p.From, to, p.Question.Kind, cmp.Or(p.Answer.Detail, string(p.Answer.Fault))),
		Remedy:  "run the test again with --keep, then follow the packets with tcpdump on the nodes of both ends",
	}
}

// party returns a party by its name, nil for another name.
func (w *World) party(name string) *Party {
	if i := slices.IndexFunc(w.Parties, func(p Party) bool { return p.Name == name }); i >= 0 {
		return &w.Parties[i]
	}
	return nil
}

// host returns the party of a node, nil if it takes no part.
func (w *World) host(node string) *Party {
	if i := slices.IndexFunc(w.Parties, func(p Party) bool { return p.Host && p.Node == node }); i >= 0 {
		return &w.Parties[i]
	}
	return nil
}

// describe returns e.g. "pod probe-0-a on node worker1", or "node worker1".
func (t *Party) describe() string {
	if t.Host {
		return "node " + t.Node
	}
	return "pod " + t.Name + " on node " + t.Node
}

// lease returns the interface and the lease with an address.
func (t *Party) lease(is func(Leased) bool) (Interface, Leased, bool) {
	for _, i := range t.Interfaces {
		if at := slices.IndexFunc(i.Leases, is); at >= 0 {
			return i, i.Leases[at], true
		}
	}
	return Interface{}, Leased{}, false
}

// direct returns the party behind the address of a probe, nil if the address is that of a service or
// of no party.
func (w *World) direct(p *Probe) *Party {
	target := w.party(p.Server)
	if target == nil || p.To != p.Server {
		return nil
	}
	return target
}

func policyDenies(w *World, p *Probe) (Finding, bool) {
	if w.Denies == nil || p.Answer.Fault == NoRoute || p.Answer.Fault == TooBig {
		return Finding{}, false
	}
	rule := w.Denies(*p)
	return Finding{
		Subject: "network policy", Problem: rule,
		Remedy: "change the policy, or leave the namespace of the test out of it; spiderpoolctl policy trace judges single connections",
	}, rule != ""
}

// interfaceGone finds a pod without one of its interfaces.
func interfaceGone(w *World, p *Probe) (Finding, bool) {
	for _, t := range []*Party{w.party(p.From), w.party(p.Server)} {
		if t == nil || t.Host || len(t.Facts.Links) == 0 {
			continue
		}
		for _, i := range t.Interfaces {
			if _, ok := t.Facts.link(i.Name); !ok {
				return Finding{
					Subject: t.describe(), Problem: fmt.Sprintf("interface %s is gone: its master interface on the node was removed", i.Name),
					Remedy: "restore the master interface of network " + i.Network + " on the node, then recreate the pods of this network there",
				}, true
			}
		}
	}
	return Finding{}, false
}

// linkDown finds an interface on the way without a carrier, or its master.
func linkDown(w *World, p *Probe) (Finding, bool) {
	target := w.direct(p)
	for _, t := range []*Party{w.party(p.From), target} {
		if t == nil {
			continue
		}
		for _, name := range t.onWay(p) {
			l, ok := t.Facts.link(name)
			if !ok || l.Up {
				continue
			}
			subject, problem := t.describe(), "interface "+name+" is down"
			if master, ok := w.master(t, l); ok && !master.Up {
				subject, problem = "node "+t.Node, fmt.Sprintf("interface %s is down, and with it interface %s of its pods", describeLink(master), name)
			}
			return Finding{subject, problem, "ip link set up; if it is up, check the cable, the switch port or the VLAN", nil}, true
		}
	}
	return Finding{}, false
}

// onWay returns the interfaces of a party that the packets of a probe pass.
func (t *Party) onWay(p *Probe) (names []string) {
	if p.Question.Dev != "" {
		return []string{p.Question.Dev}
	}
	if way, _ := t.Facts.way(p.Question.To.Addr()); t.Name == p.From && way.Dev != "" {
		names = append(names, way.Dev)
	}
	if l, ok := t.Facts.holder(p.Question.To.Addr()); ok && t.Name != p.From {
		names = append(names, l.Name)
	}
	return names
}

// master returns the interface of the node below that of a pod.
func (w *World) master(t *Party, l Link) (Link, bool) {
	host := w.host(t.Node)
	if t.Host || host == nil || l.Parent == 0 || l.Name == netplan.PodVeth {
		return Link{}, false
	}
	return host.Facts.find(func(m Link) bool { return m.Index == l.Parent })
}

// describeLink returns e.g. "ens5.100 (VLAN 100)".
func describeLink(l Link) string {
	if l.VLAN != 0 {
		return fmt.Sprintf("%s (VLAN %d)", l.Name, l.VLAN)
	}
	return l.Name
}

// usedTwice compares the hardware address in the neighbor table of each end with that of the other end.
func usedTwice(w *World, p *Probe) (Finding, bool) {
	from, to := w.party(p.From), w.direct(p)
	if from == nil || to == nil {
		return Finding{}, false
	}
	if f, ok := stranger(from, to, p.Question.To.Addr()); ok {
		return f, true
	}
	if way, _ := from.Facts.way(p.Question.To.Addr()); way.From.IsValid() {
		return stranger(to, from, way.From)
	}
	return Finding{}, false
}

// stranger reports whether another host than the owner answered the observer for an address.
func stranger(observer, owner *Party, addr netip.Addr) (Finding, bool) {
	way, ok := observer.Facts.way(addr)
	own, held := owner.Facts.holder(addr)
	if !ok || !held || way.Dev == "" || way.Via.IsValid() || way.Dev == netplan.PodVeth || netplan.IsHostVeth(way.Dev) {
		return Finding{}, false
	}
	seen, ok := observer.Facts.neighbor(addr, way.Dev)
	if !ok || seen.MAC == "" || own.MAC == "" || seen.MAC == own.MAC {
		return Finding{}, false
	}
	// A router with proxy ARP answers for many addresses.
	if slices.ContainsFunc(observer.Facts.Neighbors, func(n Neighbor) bool { return n.MAC == seen.MAC && n.Addr != addr && n.Addr.Is4() == addr.Is4() }) {
		return Finding{}, false
	}
	remedy := "find the host by its hardware address on the switch, and give it another address"
	if _, l, ok := owner.lease(func(l Leased) bool { return l.Addr == addr }); ok && l.Pool != "" {
		remedy += fmt.Sprintf(", or add %s to spec.excludeIPs of SpiderIPPool %s. The Helm value ipam.enableIPConflictDetection finds such hosts before a pod starts", addr, l.Pool)
	}
	return Finding{
		Subject: "address " + addr.String(),
		Problem: fmt.Sprintf("two hosts use it: %s has it with hardware address %s, and a host with %s answers for it", owner.describe(), own.MAC, seen.MAC),
		Remedy:  remedy,
	}, true
}

func noRoute(w *World, p *Probe) (Finding, bool) {
	from := w.party(p.From)
	if from == nil {
		return Finding{}, false
	}
	to, what := p.Question.To.Addr().WithZone(""), ""
	if p.Question.Kind == Gateway {
		to, what = Far(p.Family), "default "
	}
	way, known := from.Facts.way(to)
	if p.Answer.Fault != NoRoute && (!known || way.Dev != "") {
		return Finding{}, false
	}
	f := Finding{Subject: from.describe(), Problem: fmt.Sprintf("it has no %sroute for %s", what, p.Family)}
	if what == "" {
		f.Problem = "it has no route to " + to.String()
	}
	if from.Host {
		f.Remedy = "add the route on the node"
		return f, true
	}
	i, l, ok := from.lease(func(l Leased) bool { return inet.FamilyOf(l.Addr) == p.Family && l.Gateway.IsValid() })
	if ok {
		f.Problem += fmt.Sprintf(", although gateway %s of SpiderIPPool %s is for interface %s", l.Gateway, l.Pool, i.Name)
		f.Remedy = "another program removed the route: recreate the pod, and find that program, e.g. with ip monitor route in the pod's network namespace"
		return f, true
	}
	_, l, _ = from.lease(func(l Leased) bool { return inet.FamilyOf(l.Addr) == p.Family })
	f.Remedy = fmt.Sprintf("set spec.gateway or spec.routes of SpiderIPPool %s, and recreate the pods", cmp.Or(l.Pool, "of the interface"))
	return f, true
}

func dnsWithoutServers(w *World, p *Probe) (Finding, bool) {
	return Finding{
		"DNS of the cluster", "no server is ready", "kubectl -n kube-system get pods -l k8s-app=kube-dns -o wide tells why", nil,
	}, p.Path == PathDNS && w.DNSServers == 0
}

// reversePath finds a strict rp_filter on an interface that packets reach by another way than the
// replies leave by (RFC 3704). There is none for IPv6.
func reversePath(w *World, p *Probe) (Finding, bool) {
	from, to := w.party(p.From), w.direct(p)
	if from == nil || to == nil || p.Family != inet.IPv4 || p.Answer.Fault != Silent {
		return Finding{}, false
	}
	addr := p.Question.To.Addr()
	way, ok := from.Facts.way(addr)
	if !ok || !way.From.IsValid() {
		return Finding{}, false
	}
	if f, ok := to.strict(addr, way.From, from); ok {
		return f, true
	}
	return from.strict(way.From, addr, to)
}

// strict reports whether the receiver drops packets from source to its own address.
func (t *Party) strict(own, source netip.Addr, sender *Party) (Finding, bool) {
	arrival, ok := t.Facts.holder(own)
	back, known := t.Facts.way(source)
	byVeth := t.Node == sender.Node && (t.Host || sender.Host)
	if !ok || !known || byVeth || back.Dev == arrival.Name {
		return Finding{}, false
	}
	path, strict := t.Facts.strictFilter(arrival.Name)
	if !strict {
		return Finding{}, false
	}
	leave := "packets to that address leave by " + back.Dev
	if back.Dev == "" {
		leave = "there is no route to that address"
	}
	f := Finding{
		Subject: t.describe(), Problem: fmt.Sprintf("rp_filter is strict (%s is 1), so the kernel drops packets from %s that arrive on %s: %s", path, source, arrival.Name, leave),
		Remedy: "sysctl -w " + strings.ReplaceAll(path, "/", ".") + "=2",
	}
	if !t.Host {
		f.Remedy = "set podRPFilter of the SpiderCoordinator to 0 or 2, and recreate the pods"
	}
	return f, true
}

// strictFilter returns the sysctl that makes the reverse path filter of an interface strict. The kernel uses the
// larger value of all interfaces and of this one, and 2 is loose.
func (f *Facts) strictFilter(dev string) (path string, strict bool) {
	for _, of := range []string{dev, "all"} {
		switch each := "net/ipv4/conf/" + of + "/rp_filter"; f.Sysctls[each] {
		case "1":
			path = each
		case "2":
			return "", false
		}
	}
	return path, path != ""
}

// nodeRoute finds a node without its route to a pod, through the pod's veth pair.
func nodeRoute(w *World, p *Probe) (Finding, bool) {
	for _, name := range []string{p.From, p.Server} {
		pod := w.party(name)
		if pod == nil || pod.Host {
			continue
		}
		host := w.host(pod.Node)
		if _, paired := pod.Facts.link(netplan.PodVeth); !paired || host == nil || !w.passesHost(p, pod) {
			continue
		}
		for _, i := range pod.Interfaces {
			for _, l := range i.Leases {
				way, ok := host.Facts.way(l.Addr)
				if inet.FamilyOf(l.Addr) == p.Family && ok && !netplan.IsHostVeth(way.Dev) {
					return Finding{
						"node " + pod.Node, fmt.Sprintf("its route to pod %s (%s) by the pod's veth pair is missing: packets leave by %s", pod.Name, l.Addr, cmp.Or(way.Dev, "no interface")),
						"another program removed the route or the rule: recreate the pod, and compare ip rule and ip route show table all on the node with docs/adr/0012-clusterip-through-the-node.md", nil,
					}, true
				}
			}
		}
	}
	return Finding{}, false
}

// passesHost reports whether packets between a pod and its own node are part of the probe.
func (w *World) passesHost(p *Probe, pod *Party) bool {
	from, to := w.party(p.From), w.direct(p)
	switch {
	case from == nil:
		return false
	case to != nil:
		return from.Node == to.Node && (from.Host || to.Host)
	case p.From == pod.Name:
		return true // the node of the client translates
	}
	return p.Path == PathNodePortFar || from.Host && from.Node == pod.Node
}

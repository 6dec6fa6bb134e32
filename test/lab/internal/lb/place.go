package lb

import (
	"fmt"
	"net/netip"
	"strings"

	"spiderpool.dev/spiderpool/test/lab/internal/netfilter"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// placed is a load balancer with its addresses.
type placed struct {
	*balancer
	topology.Frontend
}

// published returns the addresses for the object's status.
func (p placed) published() []netip.Addr {
	addrs := []netip.Addr{p.IPv4}
	if p.internetFacing {
		addrs[0] = p.PublicIPv4
	}
	if p.dualStack {
		addrs = append(addrs, p.IPv6)
	}
	return addrs
}

// place assigns each load balancer a suitable frontend. It prefers the frontend already in the objects' status, so that
// addresses survive a restart, and otherwise takes the first free one. A load balancer without a frontend is a problem.
func place(balancers []*balancer, frontends []topology.Frontend) ([]placed, []problem) {
	owner := make([]*balancer, len(frontends))
	take := func(b *balancer, fits func(topology.Frontend) bool) bool {
		for i, frontend := range frontends {
			if owner[i] == nil && frontend.Internal() != b.internetFacing && fits(frontend) {
				owner[i] = b
				return true
			}
		}
		return false
	}
	var waiting []*balancer
	for _, b := range balancers {
		held := b.statusIP()
		if !take(b, func(f topology.Frontend) bool {
			return held != "" && (f.IPv4.String() == held || f.PublicIPv4.String() == held)
		}) {
			waiting = append(waiting, b)
		}
	}
	var problems []problem
	for _, b := range waiting {
		if !take(b, func(topology.Frontend) bool { return true }) {
			problems = append(problems, b.problem("every frontend of its scheme in the lab's topology is taken"))
		}
	}
	var all []placed
	for i, b := range owner {
		if b != nil {
			all = append(all, placed{b, frontends[i]})
		}
	}
	return all, problems
}

// statusIP returns the first address in the status of the objects.
func (b *balancer) statusIP() string {
	if b.service != nil {
		for _, ingress := range b.service.Status.LoadBalancer.Ingress {
			return ingress.IP
		}
	}
	for _, object := range b.ingresses {
		for _, ingress := range object.Status.LoadBalancer.Ingress {
			return ingress.IP
		}
	}
	return ""
}

func (b *balancer) problem(message string) problem {
	if b.service != nil {
		return problem{b.service, message}
	}
	return problem{b.ingresses[0], message}
}

// The load balancer's chains in table nat.
const (
	chainRedirect = "LB-PREROUTING"
	chainSource   = "LB-POSTROUTING"
)

// fabric is the surrounding network, as seen by rules and listeners.
type fabric struct {
	// served returns the addresses routed through the load balancer's namespace.
	served func(placed) []netip.Addr
	// hairpin lists clients whose replies would bypass the load balancer. Their source address is translated to
	// the load balancer's.
	hairpin []netip.Prefix
}

func newFabric(t *topology.Topology) fabric {
	if t.Kind != topology.KindL2 {
		return fabric{served: func(p placed) []netip.Addr { return p.addresses(false) }}
	}
	f := fabric{served: func(p placed) []netip.Addr { return p.addresses(true) }}
	for _, subnet := range t.L2.Subnets {
		f.hairpin = append(f.hairpin, subnet.IPv4, subnet.IPv6)
	}
	return f
}

// addresses returns the destination addresses of packets to the load balancer. In a VPC the internet gateway has already
// translated public addresses; on a layer-2 network the gateway sees public addresses.
func (p placed) addresses(public bool) []netip.Addr {
	addrs := []netip.Addr{p.IPv4}
	if public && p.internetFacing {
		addrs = append(addrs, p.PublicIPv4)
	}
	if p.dualStack {
		addrs = append(addrs, p.IPv6)
	}
	return addrs
}

// natRules redirect connections from the load balancers' addresses to targets of the same family. Each new connection
// gets a random target. Unless the client's address is preserved, the target sees the load balancer's.
func (f fabric) natRules(all []placed, family netfilter.Family) string {
	var redirect, source strings.Builder
	for _, p := range all {
		for _, addr := range f.served(p) {
			if netfilter.FamilyOf(addr.Is4()) != family {
				continue
			}
			for _, forward := range p.forwards {
				f.redirect(&redirect, p, addr, forward)
				f.source(&source, p, addr, forward)
			}
		}
	}
	return redirect.String() + source.String()
}

func (f fabric) redirect(out *strings.Builder, p placed, addr netip.Addr, forward forward) {
	for _, client := range p.clients(addr) {
		targets := forward.targetsOf(addr)
		for i, target := range targets {
			choice := ""
			if left := len(targets) - i; left > 1 {
				choice = fmt.Sprintf("-m statistic --mode random --probability %.6f ", 1/float64(left))
			}
			fmt.Fprintf(out, "-A %s %s-d %s -p %s --dport %d %s-j DNAT --to-destination %s\n",
				chainRedirect, client, addr, forward.protocol, forward.port, choice, target)
		}
	}
}

func (f fabric) source(out *strings.Builder, p placed, addr netip.Addr, forward forward) {
	clients := []string{""}
	if forward.preserve {
		clients = nil
		for _, prefix := range f.hairpin {
			if prefix.Addr().Is4() == addr.Is4() {
				clients = append(clients, fmt.Sprintf("-s %s ", prefix))
			}
		}
	}
	own := p.IPv4
	if addr.Is6() {
		own = p.IPv6
	}
	for _, client := range clients {
		fmt.Fprintf(out, "-A %s %s-p %s -m conntrack --ctstate DNAT --ctorigdst %s --ctorigdstport %d -j SNAT --to-source %s\n",
			chainSource, client, forward.protocol, addr, forward.port, own)
	}
}

// clients returns one match per admitted source in the address's family, or one match for all sources.
func (p placed) clients(addr netip.Addr) []string {
	if len(p.sourceRanges) == 0 {
		return []string{""}
	}
	var matches []string
	for _, prefix := range p.sourceRanges {
		if prefix.Addr().Is4() == addr.Is4() {
			matches = append(matches, fmt.Sprintf("-s %s ", prefix))
		}
	}
	return matches
}

// admits reports whether the load balancer admits the client.
func (b *balancer) admits(client netip.Addr) bool {
	if len(b.sourceRanges) == 0 {
		return true
	}
	for _, prefix := range b.sourceRanges {
		if prefix.Contains(client.Unmap()) {
			return true
		}
	}
	return false
}

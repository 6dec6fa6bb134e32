package walk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// claim is a promise about pods, with the pods that prove it.
type claim struct {
	title string
	// manifest creates the pods; there are pods of them, and selector finds them.
	manifest, selector string
	pods               int
	check              func(context.Context, []corev1.Pod) error
}

func (g *guide) claims() []claim {
	return []claim{
		{"Each interface of a pod answers at its own address", "several.yaml", "run=several", 2, g.eachInterfaceAnswers},
		{"Pods get the routes of their pools and annotation", "routed.yaml", "run=routed", 2, g.routesAreTaken},
		{"Spiderpool works beside another plugin's interface", "overlay.yaml", "run=overlay", 4, g.bothPluginsWork},
		{"Multicast and broadcast reach pods on other nodes", "cast.yaml", "run=cast", 2, g.castArrives},
		{"Single-stack pods reach everything of their IP version", "single-stack.yaml", "'run in (ipv4-only, ipv6-only)'", 4, g.oneVersionWorks},
	}
}

// Claims returns tests that go beyond the guide: a first step that all claims need, the
// claims, and a last step that removes everything. They need a lab with Spiderpool
// installed by Guide, and a site where pods share the nodes' network.
func Claims(lab *Lab, site Site) (prepare Step, claims []Step, cleanUp Step) {
	g := &guide{lab, site}
	for _, c := range g.claims() {
		claims = append(claims, Step{c.title, false, func(ctx context.Context) error { return g.verify(ctx, c) }})
	}
	return Step{"Create two more networks, a remote client, and pods", false, g.prepareClaims},
		append(claims, Step{"Pods keep working while agents and controller are down, without leaks", false, g.outage}),
		Step{"Delete these pods without leftovers", false, g.cleanUpClaims}
}

func (g *guide) verify(ctx context.Context, c claim) error {
	pods, err := g.runningPods(ctx, c.selector, c.pods)
	if err != nil {
		return err
	}
	if err := g.showPods(ctx, "-l "+c.selector); err != nil {
		return err
	}
	return c.check(ctx, pods)
}

// eachInterfaceAnswers connects to every address of every interface of a pod. It does so
// from a remote client, whose router drops replies from another interface, from each
// node, and from the other pod on the same network.
func (g *guide) eachInterfaceAnswers(ctx context.Context, pods []corev1.Pod) error {
	for i, pod := range pods {
		own, err := interfacesOf(pod)
		if err != nil {
			return err
		}
		other, err := interfacesOf(pods[(i+1)%len(pods)])
		if err != nil {
			return err
		}
		var addresses []netip.Addr
		var toOther []question
		for _, name := range []string{"eth0", "net1", "net2"} {
			if len(own[name]) != 2 {
				return fmt.Errorf("pod %s has the addresses %v on %s, want one of each IP version", pod.Name, own[name], name)
			}
			addresses = append(addresses, own[name]...)
			for _, a := range other[name] {
				toOther = append(toOther, question{netip.AddrPortFrom(a, echoPort), sameVersion(a, own[name])})
			}
		}
		if err := errors.Join(
			g.isReached(ctx, addresses),
			ask(ctx, g.podShell(pod), toOther),
			g.reachesAll(ctx, pod, own["eth0"], g.Nodes[pod.Spec.NodeName].addresses()),
		); err != nil {
			return fmt.Errorf("pod %s on %s: %w", pod.Name, pod.Spec.NodeName, err)
		}
	}
	return nil
}

// isReached connects to a pod's addresses, from the remote client and from the nodes.
func (g *guide) isReached(ctx context.Context, addresses []netip.Addr) error {
	callers := map[string][]netip.Addr{"peer": farClient}
	for name, node := range g.Nodes {
		callers[name] = node.addresses()
	}
	for host, from := range callers {
		var questions []question
		for _, a := range addresses {
			questions = append(questions, question{netip.AddrPortFrom(a, echoPort), sameVersion(a, from)})
		}
		if err := ask(ctx, g.hostShell(host), questions); err != nil {
			return fmt.Errorf("from %s: %w", host, err)
		}
	}
	return nil
}

// routesAreTaken checks the routes in pods, and connects to addresses known only to the
// router behind them.
func (g *guide) routesAreTaken(ctx context.Context, pods []corev1.Pod) error {
	backends, err := g.runningPods(ctx, "run=backend", 2)
	if err != nil {
		return err
	}
	for _, r := range []struct{ dst, route, behind string }{
		{"10.60.1.0/24", "via 10.6.0.20 dev eth0", "10.60.1.1"},
		{"2001:db8:60:1::/64", "via 2001:db8:6::20 dev eth0", "2001:db8:60:1::1"},
		{"10.60.2.0/24", "via 10.7.0.20 dev net1", "10.60.2.1"},
		{"2001:db8:60:2::/64", "via 2001:db8:7::20 dev net1", "2001:db8:60:2::1"},
	} {
		for _, pod := range pods {
			route, err := g.inPod(ctx, pod, "ip route get "+r.behind)
			if err := answers(route, err, r.route); err != nil {
				return fmt.Errorf("route to %s: %w", r.dst, err)
			}
			if err := g.ping(ctx, pod, r.behind); err != nil {
				return err
			}
		}
		if g.ping(ctx, backends[0], r.behind) == nil {
			return fmt.Errorf("pod %s reaches %s without the route", backends[0].Name, r.behind)
		}
	}
	return nil
}

// bothPluginsWork makes pods reach nodes, ClusterIPs and each other, over the overlay of
// their first interface and the underlay of their second.
func (g *guide) bothPluginsWork(ctx context.Context, pods []corev1.Pod) error {
	for _, pod := range pods {
		own, err := interfacesOf(pod)
		if err != nil {
			return err
		}
		if len(own["eth0"]) != 2 || len(own["net1"]) != 2 || own["eth0"][0].String() != pod.Status.PodIP {
			return fmt.Errorf("pod %s has the address %s, and on its interfaces %v", pod.Name, pod.Status.PodIP, own)
		}
		node := g.Nodes[pod.Spec.NodeName].addresses()
		var questions []question
		for _, other := range pods {
			if other.Name == pod.Name {
				continue
			}
			to, err := interfacesOf(other)
			if err != nil {
				return err
			}
			from := node // the overlay's plugin masquerades traffic that leaves the node
			if other.Spec.NodeName == pod.Spec.NodeName {
				from = own["eth0"]
			}
			for _, a := range to["eth0"] {
				questions = append(questions, question{netip.AddrPortFrom(a, echoPort), sameVersion(a, from)})
			}
			for _, a := range to["net1"] {
				questions = append(questions, question{netip.AddrPortFrom(a, echoPort), sameVersion(a, own["net1"])})
			}
		}
		if err := errors.Join(
			ask(ctx, g.podShell(pod), questions),
			g.reachesAll(ctx, pod, own["net1"], node),
			g.isReached(ctx, own["net1"]),
			g.nodeReaches(ctx, pod.Spec.NodeName, own["eth0"], echoPort),
		); err != nil {
			return fmt.Errorf("pod %s on %s: %w", pod.Name, pod.Spec.NodeName, err)
		}
	}
	return nil
}

// reachesAll makes a pod reach the nodes, the backends and their Service, in the IP
// versions of own and node. The backends should see own for direct connections, and own or
// node, by service.mode, for those through the Service.
func (g *guide) reachesAll(ctx context.Context, pod corev1.Pod, own, node []netip.Addr) error {
	backends, err := g.runningPods(ctx, "run=backend", 2)
	if err != nil {
		return err
	}
	var questions []question
	for _, b := range backends {
		v4, v6, err := addressesOf(b)
		if err != nil {
			return err
		}
		for _, a := range []netip.Addr{v4, v6} {
			if from := sameVersion(a, own); from.IsValid() {
				questions = append(questions, question{netip.AddrPortFrom(a, echoPort), from})
			}
		}
	}
	clusterIPs, err := g.clusterIPs(ctx)
	if err != nil {
		return err
	}
	through := node
	if g.socketsTranslate(ctx, pod.Spec.NodeName) {
		through = own
	}
	for _, a := range clusterIPs {
		if sameVersion(a, own).IsValid() {
			for range 8 { // enough requests to reach the backends on both nodes
				questions = append(questions, question{netip.AddrPortFrom(a, 80), sameVersion(a, through)})
			}
		}
	}
	ping := "for address in"
	for _, n := range g.Nodes {
		for _, a := range n.addresses() {
			if sameVersion(a, own).IsValid() {
				ping += " " + a.String()
			}
		}
	}
	in := g.podShell(pod)
	if _, err := in(ctx, ping+"; do ping -c 1 -W 5 $address || exit 1; done"); err != nil {
		return err
	}
	return ask(ctx, in, questions)
}

// clusterIPs returns the ClusterIPs of the backends' Service.
func (g *guide) clusterIPs(ctx context.Context) ([]netip.Addr, error) {
	var service corev1.Service
	if err := g.Get(ctx, "service backend", &service); err != nil {
		return nil, err
	}
	var addresses []netip.Addr
	for _, text := range service.Spec.ClusterIPs {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("ClusterIP of Service backend: %w", err)
		}
		addresses = append(addresses, a)
	}
	return addresses, nil
}

// nodeReaches runs curl on a node and fetches a page from each of the addresses.
func (g *guide) nodeReaches(ctx context.Context, node string, addresses []netip.Addr, port uint16) error {
	command := "curl -sS --fail --max-time 10"
	for _, a := range addresses {
		command += fmt.Sprintf(" -o /dev/null 'http://%s/'", netip.AddrPortFrom(a, port))
	}
	_, err := g.Exec(ctx, node, command)
	return err
}

// castArrives sends from each pod to a group of each IP version and to the broadcast
// address, and checks the log of the other pod.
func (g *guide) castArrives(ctx context.Context, pods []corev1.Pod) error {
	for i, sender := range pods {
		receiver := pods[(i+1)%len(pods)]
		v4, v6, err := addressesOf(sender)
		if err != nil {
			return err
		}
		for _, c := range []struct {
			to   string
			from netip.Addr
		}{
			{"239.255.6.1:7001", v4},
			{"[ff05::6:1]:7002", v6},
			{"10.6.255.255:7003", v4},
			{"255.255.255.255:7003", v4},
		} {
			text := fmt.Sprintf("%s-%d", c.to, time.Now().UnixNano())
			if err := g.eventually(ctx, receiver.Name+" hears "+sender.Name, slow, func(ctx context.Context) error {
				if _, err := g.inPod(ctx, sender, fmt.Sprintf("/cast send %s %s", c.to, text)); err != nil {
					return err
				}
				heard, err := g.Kubectl(ctx, "logs --tail=5 "+receiver.Name)
				return answers(heard, err, fmt.Sprintf("%s says %s\n", c.from, text))
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// oneVersionWorks checks pods with addresses of a single IP version.
func (g *guide) oneVersionWorks(ctx context.Context, pods []corev1.Pod) error {
	for _, pod := range pods {
		own, err := interfacesOf(pod)
		if err != nil {
			return err
		}
		ofVersion := func(a netip.Addr) bool { return a.Is4() == (pod.Labels["run"] == "ipv4-only") }
		if len(own["eth0"]) != 1 || !ofVersion(own["eth0"][0]) || len(pod.Status.PodIPs) != 1 {
			return fmt.Errorf("pod %s has the addresses %v, and on its interfaces %v", pod.Name, pod.Status.PodIPs, own)
		}
		if err := errors.Join(
			g.reachesAll(ctx, pod, own["eth0"], g.Nodes[pod.Spec.NodeName].addresses()),
			g.isReached(ctx, own["eth0"]),
		); err != nil {
			return fmt.Errorf("pod %s on %s: %w", pod.Name, pod.Spec.NodeName, err)
		}
	}
	return nil
}

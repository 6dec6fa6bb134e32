package policy_test

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// world has the objects of a small cluster. Its methods are the model: they judge one packet straight from the API
// documentation of NetworkPolicy, and share no code with package policy or its compiler.
type world struct {
	namespaces []corev1.Namespace
	pods       []corev1.Pod
	policies   []networkingv1.NetworkPolicy
	tiers      []npv1beta1.ClusterNetworkPolicy
	multi      []multipolicy.MultiNetworkPolicy
	endpoints  map[types.UID]*v2beta1.SpiderEndpoint
}

// passes judges a packet at one pod; dst is the packet's destination.
func (w *world) passes(pod *corev1.Pod, egress bool, peer, dst string, protocol corev1.Protocol, port int32) bool {
	for _, ip := range pod.Status.PodIPs {
		if ip.IP == peer {
			return true
		}
	}
	for _, ip := range pod.Status.HostIPs {
		if ip.IP == peer {
			return true
		}
	}
	isolated := false
	if passes, final := w.tier(npv1beta1.AdminTier, pod, egress, peer, dst, protocol, port); final {
		return passes
	}
	for i := range w.policies {
		p := &w.policies[i]
		if p.Namespace != pod.Namespace || !selects(&p.Spec.PodSelector, pod.Labels) {
			continue
		}
		if egress && affectsEgress(p) {
			isolated = true
			for _, rule := range p.Spec.Egress {
				if w.egressMatches(p, &rule, peer, dst, protocol, port) {
					return true
				}
			}
		}
		if !egress && affectsIngress(p) {
			isolated = true
			for _, rule := range p.Spec.Ingress {
				if w.peersMatch(p, rule.From, peer) && portsMatch(rule.Ports, []corev1.Pod{*pod}, protocol, port) {
					return true
				}
			}
		}
	}
	if isolated {
		return false
	}
	passes, final := w.tier(npv1beta1.BaselineTier, pod, egress, peer, dst, protocol, port)
	return passes || !final
}

func affectsIngress(p *networkingv1.NetworkPolicy) bool {
	return len(p.Spec.PolicyTypes) == 0 || slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
}

func affectsEgress(p *networkingv1.NetworkPolicy) bool {
	return len(p.Spec.PolicyTypes) == 0 && len(p.Spec.Egress) > 0 || slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
}

func selects(s *metav1.LabelSelector, of map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(of))
}

// egressMatches judges a packet by a rule. A named port is that of a pod with the destination's address, and of a pod that
// the peer selects unless that is a block.
func (w *world) egressMatches(p *networkingv1.NetworkPolicy, rule *networkingv1.NetworkPolicyEgressRule, peer, dst string, protocol corev1.Protocol, port int32) bool {
	return slices.ContainsFunc(each(rule.To), func(to []networkingv1.NetworkPolicyPeer) bool {
		var destinations []corev1.Pod
		for _, pod := range w.pods {
			if hasAddr(&pod, dst) && (len(to) == 0 || to[0].IPBlock != nil || w.selectsPeer(p, &to[0], &pod)) {
				destinations = append(destinations, pod)
			}
		}
		return w.peersMatch(p, to, peer) && portsMatch(rule.Ports, destinations, protocol, port)
	})
}

func (w *world) peersMatch(p *networkingv1.NetworkPolicy, peers []networkingv1.NetworkPolicyPeer, addr string) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		if peer.IPBlock != nil {
			return inside(peer.IPBlock.CIDR, addr) && !slices.ContainsFunc(peer.IPBlock.Except, func(except string) bool { return inside(except, addr) })
		}
		return slices.ContainsFunc(w.pods, func(pod corev1.Pod) bool { return hasAddr(&pod, addr) && w.selectsPeer(p, &peer, &pod) })
	})
}

func (w *world) selectsPeer(p *networkingv1.NetworkPolicy, peer *networkingv1.NetworkPolicyPeer, pod *corev1.Pod) bool {
	if peer.PodSelector != nil && !selects(peer.PodSelector, pod.Labels) {
		return false
	}
	if peer.NamespaceSelector == nil {
		return pod.Namespace == p.Namespace
	}
	return slices.ContainsFunc(w.namespaces, func(n corev1.Namespace) bool {
		return n.Name == pod.Namespace && selects(peer.NamespaceSelector, n.Labels)
	})
}

func inside(cidr, addr string) bool {
	_, block, err := net.ParseCIDR(cidr)
	return err == nil && block.Contains(net.ParseIP(addr))
}

// hasAddr reports whether packets with the address are those of the pod.
func hasAddr(pod *corev1.Pod, addr string) bool {
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	return !ended && !pod.Spec.HostNetwork && slices.Contains(pod.Status.PodIPs, corev1.PodIP{IP: addr})
}

// portsMatch judges the port of a destination, which may be one of some pods.
func portsMatch(ports []networkingv1.NetworkPolicyPort, destinations []corev1.Pod, protocol corev1.Protocol, number int32) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(port networkingv1.NetworkPolicyPort) bool {
		wanted := corev1.ProtocolTCP
		if port.Protocol != nil {
			wanted = *port.Protocol
		}
		switch {
		case wanted != protocol:
			return false
		case port.Port == nil:
			return true
		case port.Port.Type == intstr.Int && port.EndPort != nil:
			return port.Port.IntVal <= number && number <= *port.EndPort
		case port.Port.Type == intstr.Int:
			return port.Port.IntVal == number
		}
		return slices.ContainsFunc(destinations, func(pod corev1.Pod) bool { return names(&pod, port.Port.StrVal, protocol, number) })
	})
}

func names(pod *corev1.Pod, name string, protocol corev1.Protocol, number int32) bool {
	return slices.ContainsFunc(pod.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool {
		return p.Name == name && p.Protocol == protocol && p.ContainerPort == number
	})
}

// compiled returns the world as the product sees it.
func (w *world) compiled(t require) *policy.Cluster {
	var namespaces []policy.Namespace
	for _, n := range w.namespaces {
		namespaces = append(namespaces, policy.Namespace{Name: n.Name, Labels: n.Labels})
	}
	var pods []*policy.Pod
	for i := range w.pods {
		p := compile.PolicyPod(&w.pods[i])
		if p == nil {
			continue
		}
		if endpoint := w.endpoints[w.pods[i].UID]; endpoint != nil {
			compile.AddPolicyInterfaces(p, endpoint)
		}
		pods = append(pods, p)
	}
	var policies []*policy.Policy
	for i := range w.policies {
		p, errs := compile.NetworkPolicy(&w.policies[i])
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		policies = append(policies, p)
	}
	for i := range w.multi {
		p, errs := compile.MultiNetworkPolicy(&w.multi[i])
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		policies = append(policies, p)
	}
	var tiers []*policy.ClusterPolicy
	for i := range w.tiers {
		p, errs := compile.ClusterNetworkPolicy(&w.tiers[i])
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		tiers = append(tiers, p)
	}
	return policy.NewCluster(namespaces, pods, policies, tiers)
}

type require interface{ Fatal(...any) }

var (
	podAddrs  = []string{"10.6.0.1", "10.6.0.2", "10.6.0.3", "10.6.1.1", "fd00:6::1", "fd00:6::2"}
	allAddrs  = slices.Concat(podAddrs, []string{"172.18.0.2", "172.18.0.3", "10.7.0.1", "192.0.2.1", "fd00:7::1", "2001:db8::1"})
	protocols = map[corev1.Protocol]service.Protocol{corev1.ProtocolTCP: service.TCP, corev1.ProtocolUDP: service.UDP, corev1.ProtocolSCTP: service.SCTP, "ICMP": 1}
	somePorts = []int32{1, 79, 80, 81, 90, 100, 65535}
)

func someLabels(prefix string) *rapid.Generator[map[string]string] {
	return rapid.Custom(func(t *rapid.T) map[string]string {
		m := map[string]string{}
		for _, key := range []string{"a", "b"} {
			if v := rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, prefix+key); v != "" {
				m[key] = v
			}
		}
		return m
	})
}

var selectors = rapid.Custom(func(t *rapid.T) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	if rapid.Bool().Draw(t, "labels") {
		s.MatchLabels = someLabels("match ").Draw(t, "labels")
	}
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "expressions") {
		r := metav1.LabelSelectorRequirement{
			Key:      rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"),
			Operator: rapid.SampledFrom([]metav1.LabelSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist"}).Draw(t, "operator"),
		}
		if r.Operator == "In" || r.Operator == "NotIn" {
			r.Values = rapid.SliceOfN(rapid.SampledFrom([]string{"x", "y", "z"}), 1, 2).Draw(t, "values")
		}
		s.MatchExpressions = append(s.MatchExpressions, r)
	}
	return s
})

var peers = rapid.Custom(func(t *rapid.T) (p networkingv1.NetworkPolicyPeer) {
	if rapid.IntRange(0, 2).Draw(t, "block") == 0 {
		// Each block contains those behind it.
		blocks := rapid.SampledFrom([][]string{
			{"0.0.0.0/0", "10.0.0.0/8", "10.6.0.0/24", "10.6.0.2/32"}, {"0.0.0.0/0", "172.18.0.3/32"}, {"10.0.0.0/8", "10.9.0.0/24", "10.9.0.2/32"}, {"::/0", "fd00:6::/64"},
		}).Draw(t, "blocks")
		at := rapid.IntRange(0, len(blocks)-1).Draw(t, "CIDR")
		p.IPBlock = &networkingv1.IPBlock{CIDR: blocks[at]}
		if at < len(blocks)-1 {
			p.IPBlock.Except = rapid.SliceOfN(rapid.SampledFrom(blocks[at+1:]), 0, 2).Draw(t, "except")
		}
		return p
	}
	which := rapid.IntRange(1, 3).Draw(t, "selectors")
	if which&1 != 0 {
		p.PodSelector = selectors.Draw(t, "pods")
	}
	if which&2 != 0 {
		p.NamespaceSelector = selectors.Draw(t, "namespaces")
	}
	return p
})

var ports = rapid.Custom(func(t *rapid.T) (p networkingv1.NetworkPolicyPort) {
	if protocol := rapid.SampledFrom([]corev1.Protocol{"", "TCP", "TCP", "UDP", "SCTP"}).Draw(t, "protocol"); protocol != "" {
		p.Protocol = &protocol
	}
	number := intstr.FromInt32(rapid.SampledFrom(somePorts).Draw(t, "port"))
	switch rapid.IntRange(0, 5).Draw(t, "shape") {
	case 0, 3:
		number = intstr.FromString(rapid.SampledFrom([]string{"http", "dns"}).Draw(t, "name"))
	case 1:
		end := rapid.Int32Range(number.IntVal, 65535).Draw(t, "end")
		p.EndPort = &end
	case 2:
		return p
	}
	p.Port = &number
	return p
})

var policies = rapid.Custom(func(t *rapid.T) networkingv1.NetworkPolicy {
	p := networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{
		PodSelector: *selectors.Draw(t, "selected"),
		PolicyTypes: rapid.SampledFrom([][]networkingv1.PolicyType{nil, {"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}).Draw(t, "types"),
	}}
	p.Namespace = rapid.SampledFrom([]string{"n1", "n1", "n2"}).Draw(t, "namespace")
	p.Name = rapid.SampledFrom([]string{"p1", "p2", "p3", "p4"}).Draw(t, "name")
	for range rapid.IntRange(0, 2).Draw(t, "ingress") {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{
			From: rapid.SliceOfN(peers, 0, 2).Draw(t, "from"), Ports: rapid.SliceOfN(ports, 0, 3).Draw(t, "ports"),
		})
	}
	for range rapid.IntRange(0, 2).Draw(t, "egress") {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{
			To: rapid.SliceOfN(peers, 0, 2).Draw(t, "to"), Ports: rapid.SliceOfN(ports, 0, 3).Draw(t, "ports"),
		})
	}
	return p
})

var worldPods = rapid.Custom(func(t *rapid.T) corev1.Pod {
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: rapid.SampledFrom([]string{"n1", "n1", "n2", "n3"}).Draw(t, "namespace"), Name: rapid.StringMatching("[a-h]").Draw(t, "name"),
			Labels: someLabels("pod ").Draw(t, "pod labels"),
		},
		Spec: corev1.PodSpec{HostNetwork: rapid.IntRange(0, 5).Draw(t, "host network") == 0, Containers: make([]corev1.Container, 1)},
	}
	host := rapid.SampledFrom(allAddrs[len(podAddrs):len(podAddrs)+2]).Draw(t, "host")
	pod.Status.HostIPs = []corev1.HostIP{{IP: host}}
	pod.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{"", "Running", "Running", "Failed"}).Draw(t, "phase")
	// Few addresses, so that two pods sometimes have one.
	for _, addr := range rapid.SliceOfNDistinct(rapid.SampledFrom(podAddrs), 0, 2, rapid.ID[string]).Draw(t, "addresses") {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr})
	}
	if pod.Spec.HostNetwork {
		pod.Status.PodIPs = []corev1.PodIP{{IP: host}}
	}
	for _, name := range rapid.SliceOfN(rapid.SampledFrom([]string{"http", "dns"}), 1, 3).Draw(t, "port names") {
		pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports, corev1.ContainerPort{
			Name: name, ContainerPort: rapid.SampledFrom(somePorts[2:5]).Draw(t, "number"), Protocol: rapid.SampledFrom([]corev1.Protocol{"TCP", "TCP", "UDP"}).Draw(t, "protocol"),
		})
	}
	return pod
})

var worlds = rapid.Custom(func(t *rapid.T) *world {
	w := &world{}
	for _, name := range []string{"n1", "n2", "n3"} {
		w.namespaces = append(w.namespaces, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: someLabels(name).Draw(t, "labels")}})
	}
	w.pods = rapid.SliceOfNDistinct(worldPods, 1, 6, func(p corev1.Pod) string { return p.Namespace + p.Name }).Draw(t, "pods")
	w.drawMulti(t)
	w.policies = rapid.SliceOfNDistinct(policies, 0, 4, func(p networkingv1.NetworkPolicy) string { return p.Namespace + p.Name }).Draw(t, "policies")
	w.tiers = rapid.SliceOfNDistinct(clusterPolicies, 0, 3, func(p npv1beta1.ClusterNetworkPolicy) string { return p.Name }).Draw(t, "tiers")
	return w
})

// TestSetsFollowModel compares the sets of each pod with the model, for all packets between some addresses and ports.
func TestSetsFollowModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds.Draw(t, "world")
		c := w.compiled(t)
		for i := range w.pods {
			pod := &w.pods[i]
			if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodFailed {
				continue
			}
			f := c.Decide(c.Pod(policy.Name{Namespace: pod.Namespace, Name: pod.Name}))
			sets := f.Sets()
			disjoint(t, sets.Ingress)
			disjoint(t, sets.Egress)
			for _, peer := range allAddrs {
				for name, protocol := range protocols {
					for _, port := range somePorts {
						for _, egress := range []bool{false, true} {
							allowed, dst := sets.Ingress, ""
							if egress {
								allowed, dst = sets.Egress, peer
							}
							got := f.Always.Contains(netip.MustParseAddr(peer)) || contains(allowed, netip.MustParseAddr(peer), protocol, uint16(port))
							if want := w.passes(pod, egress, peer, dst, name, port); got != want {
								t.Fatalf("pod %s/%s, egress %v, peer %s, %s %d: got %v, want %v. Sets:\n%s", pod.Namespace, pod.Name, egress, peer, name, port, got, want, sets)
							}
						}
					}
				}
			}
		}
	})
}

// disjoint checks what Allowed promises about its segments.
func disjoint(t *rapid.T, allowed *policy.Allowed) {
	if allowed == nil {
		return
	}
	var last policy.Segment
	for _, s := range allowed.Segments {
		ordered := s.Protocol > last.Protocol || s.Protocol == last.Protocol && s.From > last.To
		if !ordered || s.Peers.IsEmpty() || s.Peers.Overlaps(allowed.Any) {
			t.Fatalf("segment %v %s behind %v", s.PortRange, s.Peers, last.PortRange)
		}
		last = s
	}
}

// contains reads the sets as a kernel does.
func contains(allowed *policy.Allowed, peer netip.Addr, protocol service.Protocol, port uint16) bool {
	if allowed == nil || allowed.Any.Contains(peer) {
		return true
	}
	return slices.ContainsFunc(allowed.Segments, func(s policy.Segment) bool {
		if noPorts := protocol != service.TCP && protocol != service.UDP && protocol != service.SCTP; noPorts {
			return s.Protocol == 255 && s.Peers.Contains(peer)
		}
		return s.Protocol == protocol && s.From <= port && port <= s.To && s.Peers.Contains(peer)
	})
}

// TestVerdictFollowsModel compares the verdicts on packets, and the rule that each names.
func TestVerdictFollowsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds.Draw(t, "world")
		c := w.compiled(t)
		for range 30 {
			from, to := rapid.SampledFrom(allAddrs).Draw(t, "from"), rapid.SampledFrom(allAddrs).Draw(t, "to")
			name := rapid.SampledFrom([]corev1.Protocol{"TCP", "UDP", "SCTP", "ICMP"}).Draw(t, "protocol")
			port := rapid.SampledFrom(somePorts).Draw(t, "port")
			v := c.Verdict(policy.Packet{From: netip.MustParseAddr(from), To: netip.MustParseAddr(to), Protocol: protocols[name], Port: uint16(port)})
			out, in := true, true
			for i := range w.pods {
				if pod := &w.pods[i]; hasAddr(pod, from) {
					out = out && w.passes(pod, true, to, to, name, port)
				}
				if pod := &w.pods[i]; hasAddr(pod, to) {
					in = in && w.passes(pod, false, from, to, name, port)
				}
			}
			if v.Egress.Allowed() != out || v.Ingress.Allowed() != in {
				t.Fatalf("%s %s → %s %d: got %+v, want egress %v, ingress %v", name, from, to, port, v, out, in)
			}
			w.namesRule(t, v.Egress, true, to, to, name, port)
			w.namesRule(t, v.Ingress, false, from, to, name, port)
		}
	})
}

// namesRule checks that the rule of a decision alone allows the packet.
func (w *world) namesRule(t *rapid.T, d policy.Decision, egress bool, peer, dst string, protocol corev1.Protocol, port int32) {
	if d.Reason != policy.Allowing || d.Policy.Namespace == "" {
		return
	}
	at := slices.IndexFunc(w.policies, func(p networkingv1.NetworkPolicy) bool {
		return p.Namespace == d.Policy.Namespace && p.Name == d.Policy.Name
	})
	p := &w.policies[at]
	matches := false
	for i := range w.pods {
		pod := &w.pods[i]
		if egress {
			matches = matches || w.egressMatches(p, &p.Spec.Egress[d.Rule], peer, dst, protocol, port)
		} else if hasAddr(pod, dst) {
			rule := p.Spec.Ingress[d.Rule]
			matches = matches || w.peersMatch(p, rule.From, peer) && portsMatch(rule.Ports, []corev1.Pod{*pod}, protocol, port)
		}
	}
	if !matches {
		t.Fatalf("%+v does not allow %s %d with %s", d, protocol, port, peer)
	}
}

// TestEqualRulesHaveEqualSets writes each rule as many rules, in another order.
func TestEqualRulesHaveEqualSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds.Draw(t, "world")
		split := &world{namespaces: w.namespaces, pods: w.pods, tiers: w.tiers, multi: w.multi, endpoints: w.endpoints}
		for _, p := range slices.Backward(w.policies) {
			split.policies = append(split.policies, splitRules(p))
		}
		a, b := w.compiled(t), split.compiled(t)
		for i := range w.pods {
			name := policy.Name{Namespace: w.pods[i].Namespace, Name: w.pods[i].Name}
			if a.Pod(name) == nil {
				continue
			}
			one, other := a.Decide(a.Pod(name)), b.Decide(b.Pod(name))
			if diff := one.Sets().DiffFrom(other.Sets()); len(diff) > 0 {
				t.Fatalf("pod %s differs: %v", name, diff)
			}
		}
	})
}

func splitRules(p networkingv1.NetworkPolicy) networkingv1.NetworkPolicy {
	types := []networkingv1.PolicyType{}
	if affectsIngress(&p) {
		types = append(types, networkingv1.PolicyTypeIngress)
	}
	if affectsEgress(&p) {
		types = append(types, networkingv1.PolicyTypeEgress)
	}
	ingress, egress := p.Spec.Ingress, p.Spec.Egress
	p.Spec.PolicyTypes, p.Spec.Ingress, p.Spec.Egress = types, nil, nil
	for _, rule := range slices.Backward(ingress) {
		for _, from := range each(rule.From) {
			for _, ports := range each(halves(rule.Ports)) {
				p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: from, Ports: ports})
			}
		}
	}
	for _, rule := range slices.Backward(egress) {
		for _, to := range each(rule.To) {
			for _, ports := range each(halves(rule.Ports)) {
				p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: to, Ports: ports})
			}
		}
	}
	return p
}

// each returns one list for each element. The empty list stays: it means everything.
func each[T any](all []T) [][]T {
	if len(all) == 0 {
		return [][]T{nil}
	}
	return slices.Collect(slices.Chunk(all, 1))
}

// halves divides each range of ports in two.
func halves(ports []networkingv1.NetworkPolicyPort) (all []networkingv1.NetworkPolicyPort) {
	for _, p := range ports {
		if p.EndPort == nil || *p.EndPort == p.Port.IntVal {
			all = append(all, p)
			continue
		}
		middle := (p.Port.IntVal + *p.EndPort) / 2
		lower, upper := p, p
		lower.EndPort, upper.Port = &middle, new(intstr.FromInt32(middle+1))
		all = append(all, upper, lower)
	}
	return all
}

// TestDiffReverses checks that the way back undoes each change of the way there.
func TestDiffReverses(t *testing.T) {
	swap := strings.NewReplacer("+ ", "- ", "- ", "+ ")
	rapid.Check(t, func(t *rapid.T) {
		w := worlds.Draw(t, "world")
		c := w.compiled(t)
		added, _ := compile.NetworkPolicy(new(policies.Draw(t, "added")))
		changed := c.WithPolicies([]*policy.Policy{added}, nil)
		for i := range w.pods {
			name := policy.Name{Namespace: w.pods[i].Namespace, Name: w.pods[i].Name}
			if c.Pod(name) == nil {
				continue
			}
			before, after := c.Decide(c.Pod(name)), changed.Decide(c.Pod(name))
			there, back := after.Sets().DiffFrom(before.Sets()), before.Sets().DiffFrom(after.Sets())
			for i := range back {
				back[i] = swap.Replace(back[i])
			}
			slices.Sort(there)
			slices.Sort(back)
			if !slices.Equal(there, back) {
				t.Fatalf("there\n%v\nback\n%v", there, back)
			}
		}
	})
}

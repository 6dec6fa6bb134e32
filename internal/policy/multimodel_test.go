package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
	"spiderpool.dev/spiderpool/internal/policy"
)

// Networks of the interfaces besides eth0, and the addresses there. Few, so that two pods sometimes have one.
var (
	networks = []string{"n1/blue", "n1/red", "n2/blue", ""}
	netAddrs = []string{"10.9.0.1", "10.9.0.2", "10.9.0.3", "10.8.0.1", "10.8.0.2", "fd00:9::1"}
)

const policyForKey = "k8s.v1.cni.cncf.io/policy-for"

// drawMulti draws the SpiderEndpoints of pods, and MultiNetworkPolicies.
func (w *world) drawMulti(t *rapid.T) {
	w.endpoints = map[types.UID]*v2beta1.SpiderEndpoint{}
	for i := range w.pods {
		pod := &w.pods[i]
		pod.UID = types.UID(pod.Namespace + pod.Name)
		if pod.Spec.HostNetwork || rapid.IntRange(0, 3).Draw(t, "no endpoint") == 0 {
			continue
		}
		endpoint := &v2beta1.SpiderEndpoint{}
		endpoint.Status.Current.UID = string(pod.UID)
		if len(pod.Status.PodIPs) > 0 && rapid.Bool().Draw(t, "ours") {
			endpoint.Status.Current.IPs = append(endpoint.Status.Current.IPs, interfaceWith("eth0", rapid.SampledFrom(networks).Draw(t, "network"), pod.Status.PodIPs[0].IP))
		}
		for _, name := range []string{"net1", "net2"}[:rapid.IntRange(0, 2).Draw(t, "interfaces")] {
			one := interfaceWith(name, rapid.SampledFrom(networks).Draw(t, "network"), rapid.SampledFrom(netAddrs).Draw(t, "address"))
			endpoint.Status.Current.IPs = append(endpoint.Status.Current.IPs, one)
		}
		w.endpoints[pod.UID] = endpoint
	}
	for _, p := range rapid.SliceOfNDistinct(policies, 1, 4, func(p networkingv1.NetworkPolicy) string { return p.Namespace + p.Name }).Draw(t, "multi") {
		names := rapid.SliceOfN(rapid.SampledFrom([]string{"blue", "red", "n1/blue", " n2/blue"}), 1, 2).Draw(t, "policy-for")
		p.Annotations = map[string]string{policyForKey: strings.Join(names, ",")}
		// Most policies above concern no pod, and most of their peers are no pod.
		if rapid.Bool().Draw(t, "all pods") {
			p.Spec.PodSelector = metav1.LabelSelector{}
		}
		if rapid.Bool().Draw(t, "from pods") {
			everyPod := []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}}}
			p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
			p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: everyPod, Ports: rapid.SliceOfN(ports, 0, 1).Draw(t, "ports")}}
			p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: everyPod, Ports: p.Spec.Ingress[0].Ports}}
		}
		w.multi = append(w.multi, multipolicy.MultiNetworkPolicy{ObjectMeta: p.ObjectMeta, Spec: p.Spec})
	}
}

func interfaceWith(name, network, addr string) v2beta1.EndpointIP {
	i := v2beta1.EndpointIP{Interface: name, Network: network}
	if strings.Contains(addr, ":") {
		i.IPv6 = new(addr + "/64")
	} else {
		i.IPv4 = new(addr + "/16")
	}
	return i
}

// addrOf is the address of an interface of interfaceWith.
func addrOf(i *v2beta1.EndpointIP) string {
	for _, text := range []*string{i.IPv4, i.IPv6} {
		if text != nil {
			addr, _, _ := strings.Cut(*text, "/")
			return addr
		}
	}
	return ""
}

// policyFor returns the networks of a policy.
func policyFor(p *multipolicy.MultiNetworkPolicy) (all []string) {
	for _, name := range strings.Split(p.Annotations[policyForKey], ",") {
		if name = strings.TrimSpace(name); !strings.Contains(name, "/") {
			name = p.Namespace + "/" + name
		}
		all = append(all, name)
	}
	return all
}

// on returns a world in which the addresses of the pods are those on the networks.
func (w *world) on(networks []string) *world {
	moved := *w
	moved.pods = slices.Clone(w.pods)
	for i := range moved.pods {
		pod := &moved.pods[i]
		pod.Status.PodIPs = nil
		for _, at := range w.interfaces(pod.UID) {
			if slices.Contains(networks, at.Network) {
				pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addrOf(&at)})
			}
		}
	}
	return &moved
}

func (w *world) interfaces(of types.UID) []v2beta1.EndpointIP {
	if w.endpoints[of] == nil {
		return nil
	}
	return w.endpoints[of].Status.Current.IPs
}

// passesOn judges a packet at an interface besides eth0. A MultiNetworkPolicy is a NetworkPolicy in the world of its networks.
func (w *world) passesOn(pod *corev1.Pod, at *v2beta1.EndpointIP, egress bool, peer, dst string, protocol corev1.Protocol, port int32) bool {
	if w.isOwn(pod, peer) || slices.Contains(pod.Status.HostIPs, corev1.HostIP{IP: peer}) {
		return true
	}
	isolated := false
	for i := range w.multi {
		multi := &w.multi[i]
		p := &networkingv1.NetworkPolicy{ObjectMeta: multi.ObjectMeta, Spec: multi.Spec}
		if p.Namespace != pod.Namespace || !slices.Contains(policyFor(multi), at.Network) || !selects(&p.Spec.PodSelector, pod.Labels) {
			continue
		}
		on := w.on(policyFor(multi))
		if egress && affectsEgress(p) {
			isolated = true
			for _, rule := range p.Spec.Egress {
				if on.egressMatches(p, &rule, peer, dst, protocol, port) {
					return true
				}
			}
		}
		if !egress && affectsIngress(p) {
			isolated = true
			for _, rule := range p.Spec.Ingress {
				if on.peersMatch(p, rule.From, peer) && portsMatch(rule.Ports, []corev1.Pod{*pod}, protocol, port) {
					return true
				}
			}
		}
	}
	return !isolated
}

func (w *world) isOwn(pod *corev1.Pod, addr string) bool {
	return slices.Contains(pod.Status.PodIPs, corev1.PodIP{IP: addr}) ||
		slices.ContainsFunc(w.interfaces(pod.UID), func(at v2beta1.EndpointIP) bool { return addrOf(&at) == addr })
}

// eachFurther calls f for each interface besides eth0.
func (w *world) eachFurther(f func(pod *corev1.Pod, at *v2beta1.EndpointIP)) {
	for i := range w.pods {
		pod := &w.pods[i]
		if pod.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, at := range w.interfaces(pod.UID) {
			if at.Interface != "eth0" {
				f(pod, &at)
			}
		}
	}
}

// TestInterfaceSetsFollowModel compares the sets of each interface besides eth0 with the model.
func TestInterfaceSetsFollowModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds.Draw(t, "world")
		c := w.compiled(t)
		w.eachFurther(func(pod *corev1.Pod, at *v2beta1.EndpointIP) {
			known := c.Pod(policy.Name{Namespace: pod.Namespace, Name: pod.Name})
			i := slices.IndexFunc(known.Interfaces, func(i policy.Interface) bool { return i.Name == at.Interface })
			f := c.DecideInterface(known, &known.Interfaces[i])
			sets := f.Sets()
			for _, peer := range slices.Concat(netAddrs, allAddrs) {
				for name, protocol := range protocols {
					for _, port := range somePorts {
						for egress, allowed := range map[bool]*policy.Allowed{false: sets.Ingress, true: sets.Egress} {
							addr := netip.MustParseAddr(peer)
							got := f.Always.Contains(addr) || contains(allowed, addr, protocol, uint16(port))
							if want := w.passesOn(pod, at, egress, peer, peer, name, port); got != want {
								t.Fatalf("pod %s/%s %s, egress %v, peer %s, %s %d: got %v, want %v. Sets:\n%s",
									pod.Namespace, pod.Name, at.Interface, egress, peer, name, port, got, want, sets)
							}
						}
					}
				}
			}
		})
	})
}

// TestInterfaceVerdictFollowsModel compares verdicts on packets between all addresses.
func TestInterfaceVerdictFollowsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := worlds.Draw(t, "world")
		c := w.compiled(t)
		addrs := rapid.SampledFrom(slices.Concat(netAddrs, podAddrs))
		for range 30 {
			from, to := addrs.Draw(t, "from"), addrs.Draw(t, "to")
			name := rapid.SampledFrom([]corev1.Protocol{"TCP", "UDP", "SCTP", "ICMP"}).Draw(t, "protocol")
			port := rapid.SampledFrom(somePorts).Draw(t, "port")
			v := c.Verdict(policy.Packet{From: netip.MustParseAddr(from), To: netip.MustParseAddr(to), Protocol: protocols[name], Port: uint16(port)})
			out, in := true, true
			for i := range w.pods {
				pod := &w.pods[i]
				if hasAddr(pod, from) {
					out = out && (w.isOwn(pod, to) || w.passes(pod, true, to, to, name, port))
				}
				if hasAddr(pod, to) {
					in = in && (w.isOwn(pod, from) || w.passes(pod, false, from, to, name, port))
				}
			}
			w.eachFurther(func(pod *corev1.Pod, at *v2beta1.EndpointIP) {
				if addrOf(at) == from {
					out = out && w.passesOn(pod, at, true, to, to, name, port)
				}
				if addrOf(at) == to {
					in = in && w.passesOn(pod, at, false, from, to, name, port)
				}
			})
			if v.Egress.Allowed() != out || v.Ingress.Allowed() != in {
				t.Fatalf("%s %s → %s %d: got %+v, want egress %v, ingress %v", name, from, to, port, v, out, in)
			}
		}
	})
}

package walk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
)

// wavePods is the number of pods that start together. In User Mode Linux, the container runtime would give up on some of a hundred.
const wavePods = 20

// manage is the walk with addresses on demand.
type manage struct {
	*zeroTouch
	pods      int
	instances map[string]string // by node
	// application is the manifest of the application.
	application string
}

func newManage(lab *Lab, site Site, pods int) *manage {
	return &manage{&zeroTouch{guide: &guide{lab, site}}, pods, map[string]string{}, "30-nginx-lb.yaml"}
}

// Manage returns the steps of the guide's chapter "Addresses on demand": nodes without prefixes get them as pods need them, up
// to a number of pods, and give them back. The lab may have the installation of the guide, but no pod of a test. The last
// steps leave it without pools.
func Manage(lab *Lab, site Site, pods int) []Step {
	m := newManage(lab, site, pods)
	return append(m.begin(),
		Step{"Create the application", true, m.firstPods},
		Step{"Pods reach nodes", true, m.podsReachNodes},
		Step{"Pods reach pods", true, m.podsReachPods},
		Step{"Nodes reach pods", true, m.nodesReachPods},
		Step{"Prefixes arrive as pods need them", true, m.grow},
		Step{"Pods reach all pods of the other node", true, m.reachMany},
		Step{"Prefixes without pods go back to the cloud", true, m.shrink},
		Step{"Cloud, pools and leases are equal", true, m.balance},
		Step{"A node that joins gets its prefixes", false, m.join},
		Step{"Deleted objects release their addresses", false, m.forgetAll})
}

// begin returns the steps up to the pools of nodes that had no prefixes.
func (m *manage) begin() []Step {
	return []Step{
		{"Remove the pools that the guide made by hand", false, m.removePools},
		{"Take the prefixes of the nodes away", true, m.takeAll},
		{"Put the images into the lab's registry", true, m.loadImages},
		{"Install Spiderpool with pools that follow the cloud", true, m.install},
		{"Have the controller assign addresses", true, func(ctx context.Context) error { return m.applyNetwork(ctx, "manage/10-spidercloudnetwork.yaml") }},
	}
}

// look reads which instance each node is, and the state of the cloud, which an earlier test may have restarted.
func (m *manage) look(ctx context.Context) (state cloudState, err error) {
	if err := m.readInstances(ctx); err != nil {
		return state, err
	}
	err = m.eventually(ctx, "the cloud answers", time.Minute, func(ctx context.Context) (err error) {
		state, err = m.cloud(ctx)
		return err
	})
	return state, err
}

func (m *manage) takeAll(ctx context.Context) error {
	state, err := m.look(ctx)
	if err != nil {
		return err
	}
	for node := range m.instances {
		if err := m.take(ctx, state, node); err != nil {
			return err
		}
	}
	policy, err := m.guidesPolicy("Manage")
	if err != nil {
		return err
	}
	// The controller may do no more than the guide says, and the cloud takes its time.
	return m.setFaults(ctx, cloudFaults{Policy: policy, Latency: true})
}

// take takes the prefixes of a node away.
func (m *manage) take(ctx context.Context, state cloudState, node string) error {
	for _, p := range state.pieces(m.instances[node], m.Nodes[node]) {
		action, parameter := "UnassignPrivateIpAddresses", "Ipv4Prefix.1="
		if p.Prefix.Addr().Is6() {
			action, parameter = "UnassignIpv6Addresses", "Ipv6Prefix.1="
		}
		if _, err := m.call(ctx, action, "NetworkInterfaceId="+p.Interface, parameter+p.Prefix.String()); err != nil {
			return err
		}
	}
	return nil
}

// applyNetwork applies the SpiderCloudNetwork of a manifest, and waits for the pools of the nodes.
func (m *manage) applyNetwork(ctx context.Context, manifest string) error {
	start := time.Now()
	if _, err := m.Kubectl(ctx, "apply -f "+m.manifest(manifest)); err != nil {
		return err
	}
	return m.havePools(ctx, start)
}

// havePools waits for the pools of the nodes, and prints how long they took.
func (m *manage) havePools(ctx context.Context, start time.Time) error {
	if err := m.eventually(ctx, "each node has its pools", 3*time.Minute, func(ctx context.Context) error {
		var errs []error
		for node := range m.Nodes {
			errs = append(errs, m.poolsAre(ctx, node, 16))
		}
		return errors.Join(errs...)
	}); err != nil {
		return err
	}
	fmt.Fprintf(m.Out, "  nodes without addresses had pools %s after kubectl apply\n", since(start))
	return m.kubectlAll(ctx, "wait spidercloudnetwork/"+cloudNetwork+" --for=condition=Ready --timeout=2m", "get spidercloudnetworks -o wide", "get spiderippools -o wide")
}

func since(start time.Time) time.Duration { return time.Since(start).Round(100 * time.Millisecond) }

// firstPods creates the application of the guide, and prints how long its pods waited for their addresses.
func (m *manage) firstPods(ctx context.Context) error {
	start := time.Now()
	if _, err := m.Kubectl(ctx, "create -f "+m.manifest(m.application)); err != nil {
		return err
	}
	if err := m.eventually(ctx, "each pod has its addresses", slow, func(ctx context.Context) error {
		held, err := m.leases(ctx)
		n := 0
		for _, l := range held {
			if strings.HasPrefix(l.Pod, "default/nginx-lb-") {
				n++
			}
		}
		if err == nil && n != 4 {
			err = fmt.Errorf("they have %d leases, want 4", n)
		}
		return err
	}); err != nil {
		return err
	}
	fmt.Fprintf(m.Out, "  the first pods had their addresses %s after kubectl create\n", since(start))
	pods, err := m.nginxPods(ctx)
	if err != nil {
		return err
	}
	m.printWaits(pods)
	return errors.Join(m.onEveryNode(pods), m.addressesAreRouted(ctx, pods), m.showPods(ctx, ""))
}

// printWaits prints the time from the binding of pods to a node until they have their addresses.
func (m *manage) printWaits(pods []corev1.Pod) {
	var waits []time.Duration
	for _, p := range pods {
		at := map[corev1.PodConditionType]time.Time{}
		for _, c := range p.Status.Conditions {
			at[c.Type] = c.LastTransitionTime.Time
		}
		waits = append(waits, at[corev1.PodReadyToStartContainers].Sub(at[corev1.PodScheduled]))
	}
	if slices.Sort(waits); len(waits) > 0 {
		fmt.Fprintf(m.Out, "  from the binding of a pod to its sandbox with addresses: %s at least, %s at most, median %s\n", waits[0], waits[len(waits)-1], waits[len(waits)/2])
	}
}

// addressesAreRouted checks that the VPC routes the addresses of each pod to its node, and that no two pods have one address.
func (m *manage) addressesAreRouted(ctx context.Context, pods []corev1.Pod) error {
	state, err := m.cloud(ctx)
	if err != nil {
		return err
	}
	holders := map[netip.Addr]string{}
	for _, pod := range pods {
		v4, v6, err := addressesOf(pod)
		if err != nil {
			return err
		}
		for _, addr := range []netip.Addr{v4, v6} {
			if !state.routed(m.instances[pod.Spec.NodeName], addr) {
				return fmt.Errorf("the VPC does not route %s of pod %s to node %s", addr, pod.Name, pod.Spec.NodeName)
			}
			if other, twice := holders[addr]; twice {
				return fmt.Errorf("%s is the address of %s and of %s", addr, other, pod.Name)
			}
			holders[addr] = pod.Name
		}
	}
	return nil
}

func (m *manage) grow(ctx context.Context) error {
	if _, err := m.Kubectl(ctx, "apply -f "+m.manifest("manage/30-many.yaml")); err != nil {
		return err
	}
	former := map[string]bool{}
	for have := 0; have < m.pods; {
		have = min(have+wavePods, m.pods)
		start := time.Now()
		if _, err := m.Kubectl(ctx, fmt.Sprintf("scale deployment/many --replicas=%d", have)); err != nil {
			return err
		}
		pods, err := m.runningPods(ctx, "run=many", have)
		if err != nil {
			return err
		}
		fmt.Fprintf(m.Out, "  %d pods were ready after %s\n", have, since(start))
		m.printWaits(slices.DeleteFunc(slices.Clone(pods), func(p corev1.Pod) bool { return former[p.Name] }))
		for _, p := range pods {
			former[p.Name] = true
		}
		if err := errors.Join(m.addressesAreRouted(ctx, pods), m.printPieces(ctx)); err != nil {
			return err
		}
	}
	return m.kubectlAll(ctx, "get spidercloudnetworks -o wide", "get spiderippools")
}

// printPieces prints the number of prefixes of each node.
func (m *manage) printPieces(ctx context.Context) error {
	state, err := m.cloud(ctx)
	if err != nil {
		return err
	}
	for _, node := range slices.Sorted(maps.Keys(m.instances)) {
		pieces := state.pieces(m.instances[node], m.Nodes[node])
		fmt.Fprintf(m.Out, "  node %s has %d pieces for IPv4 and %d for IPv6\n", node, count(pieces, inet.IPv4), count(pieces, inet.IPv6))
	}
	fmt.Fprintf(m.Out, "  calls of EC2 so far: %v, failures: %v\n", state.Calls, state.Failures)
	return nil
}

// reachMany has each pod of the application reach all pods on the other node, and some of them with IPv6.
func (m *manage) reachMany(ctx context.Context) error {
	from, err := m.nginxPods(ctx)
	if err != nil {
		return err
	}
	many, err := m.runningPods(ctx, "run=many", m.pods)
	if err != nil {
		return err
	}
	for _, pod := range from {
		if err := m.pingAll(ctx, pod, many); err != nil {
			return err
		}
	}
	return nil
}

// pingAll pings the pods on other nodes from a pod, and every fifth with IPv6, too.
func (m *manage) pingAll(ctx context.Context, from corev1.Pod, to []corev1.Pod) error {
	var v4s, v6s []string
	for i, pod := range to {
		v4, v6, err := addressesOf(pod)
		if err != nil {
			return err
		}
		if pod.Spec.NodeName == from.Spec.NodeName {
			continue
		}
		v4s = append(v4s, v4.String())
		if i%5 == 0 {
			v6s = append(v6s, v6.String())
		}
	}
	command := fmt.Sprintf("for a in %s; do ping -c 1 -W 5 $a >/dev/null || echo $a; done; for a in %s; do ping6 -c 1 -W 5 $a >/dev/null || echo $a; done",
		strings.Join(v4s, " "), strings.Join(v6s, " "))
	lost, err := m.run(ctx, "kubectl", "exec", from.Name, "--", "sh", "-c", command)
	if lost = strings.TrimSpace(lost); err == nil && lost != "" {
		err = fmt.Errorf("pod %s on %s does not reach %s", from.Name, from.Spec.NodeName, strings.ReplaceAll(lost, "\n", ", "))
	}
	fmt.Fprintf(m.Out, "  pod %s on %s has pinged %d IPv4 and %d IPv6 addresses\n", from.Name, from.Spec.NodeName, len(v4s), len(v6s))
	return err
}

// shrink deletes the pods, and waits until each interface has one prefix of each IP version, the reserve.
func (m *manage) shrink(ctx context.Context) error {
	for have := m.pods; have > 0; {
		have = max(have-2*wavePods, 0) // a hundred pods that end at once can hang a small machine (test/lab/README.md)
		if err := m.scaleDown(ctx, have); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := m.onlyReserveIsLeft(ctx); err != nil {
		return err
	}
	fmt.Fprintf(m.Out, "  the last prefix was back %s after the last pod\n", since(start))
	return errors.Join(m.printPieces(ctx), m.kubectlAll(ctx, "get spiderippools", "get spidercloudnetworks -o wide"))
}

// scaleDown waits until a number of pods is left.
func (m *manage) scaleDown(ctx context.Context, replicas int) error {
	if _, err := m.Kubectl(ctx, fmt.Sprintf("scale deployment/many --replicas=%d", replicas)); err != nil {
		return err
	}
	return m.eventually(ctx, fmt.Sprintf("%d pods are left", replicas), slow, func(ctx context.Context) error {
		var pods corev1.PodList
		err := m.Get(ctx, "pods -l run=many", &pods)
		if err == nil && len(pods.Items) != replicas {
			err = fmt.Errorf("there are %d", len(pods.Items))
		}
		return err
	})
}

func (m *manage) onlyReserveIsLeft(ctx context.Context) error {
	return m.eventually(ctx, "each interface has only its reserve, one prefix of each IP version", slow, func(ctx context.Context) error {
		state, err := m.cloud(ctx)
		if err != nil {
			return err
		}
		for node, instance := range m.instances {
			pieces := state.pieces(instance, m.Nodes[node])
			if v4, v6 := count(pieces, inet.IPv4), count(pieces, inet.IPv6); v4 != 1 || v6 != 1 {
				return fmt.Errorf("node %s has %d pieces for IPv4 and %d for IPv6", node, v4, v6)
			}
		}
		return nil
	})
}

// balance waits until cloud, pools, leases and pods are equal.
func (m *manage) balance(ctx context.Context) error {
	if err := m.eventually(ctx, "cloud, pools and leases are equal", 5*time.Minute, m.books); err != nil {
		return err
	}
	if err := m.eventually(ctx, "exactly the existing pods hold addresses", time.Minute, m.heldByLiving); err != nil {
		return err
	}
	return m.printLeases(ctx)
}

// printLeases prints the number of leases in each state.
func (m *manage) printLeases(ctx context.Context) error {
	var blocks v2beta1.SpiderIPBlockList
	if err := m.Get(ctx, "spideripblocks", &blocks); err != nil {
		return err
	}
	states := map[v2beta1.LeaseState]int{}
	for _, b := range blocks.Items {
		for _, l := range b.Spec.Leases {
			states[l.State]++
		}
	}
	fmt.Fprintf(m.Out, "  %d SpiderIPBlocks with leases %v\n", len(blocks.Items), states)
	return nil
}

// forgetAll deletes the pods and the network, and gives the lab's cloud the prefixes of the topology again.
func (m *manage) forgetAll(ctx context.Context) error {
	if err := m.kubectlAll(ctx, "scale -n kube-system deployment/coredns --replicas=0", "delete --timeout=5m --ignore-not-found deployment nginx-lb many"); err != nil {
		return err
	}
	if err := m.noneInUse(ctx); err != nil {
		return err
	}
	if err := m.balance(ctx); err != nil {
		return err
	}
	if _, err := m.Kubectl(ctx, "delete --timeout=5m spidercloudnetwork "+cloudNetwork); err != nil {
		return err
	}
	if err := m.noPools(ctx, slices.Sorted(maps.Keys(m.Nodes))...); err != nil {
		return err
	}
	_, err := m.Sh(ctx, m.Binary+" daemon "+cloudAPI+" kill")
	return err
}

func (m *manage) noneInUse(ctx context.Context) error {
	return m.eventually(ctx, "no lease is in use", slow, func(ctx context.Context) error {
		held, err := m.leases(ctx)
		if err == nil && len(held) > 0 {
			err = fmt.Errorf("%d are, e.g. that of %s by %s", len(held), held[0].IP, held[0].Pod)
		}
		return err
	})
}

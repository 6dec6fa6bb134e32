package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// NodeQuestion asks for one node.
type NodeQuestion struct {
	Node *corev1.Node
	// Pods are all pods on the node, and Agent is its agent; nil if there is none.
	Pods  []*corev1.Pod
	Agent *corev1.Pod
	// Events are the warnings of the agents, of EventReasons.
	Events   []corev1.Event
	Families []inet.Family // of the installation
}

// NodeDetails are a node with its pools, its pods and its problems.
type NodeDetails struct {
	Name    string   `json:"name"`
	Ready   bool     `json:"ready"`
	Kernel  string   `json:"kernel"`
	Runtime string   `json:"runtime"`
	IPs     []string `json:"ips"`
	// Agent is the pod of the agent, "" if there is none.
	Agent      string `json:"agent,omitempty"`
	AgentReady bool   `json:"agentReady"`
	// Free are the free addresses of the pools that pods on the node can use, by IP version.
	Free  []FamilyUsage `json:"free"`
	Pools []NodePool    `json:"pools"`
	// Networks are the network attachments in spec.multusName of the pools bound to the node.
	Networks  []string       `json:"networks,omitempty"`
	States    map[string]int `json:"states"` // addresses by state
	Addresses []Address      `json:"addresses"`
	Pods      []NodePod      `json:"pods"`
	Findings  []Finding      `json:"findings,omitempty"`
}

// FamilyUsage counts the addresses of one IP version.
type FamilyUsage struct {
	Family inet.Family `json:"ipVersion"`
	Pools  int         `json:"pools"`
	Total  int64       `json:"total"`
	Free   int64       `json:"free"`
}

// NodePool is a pool that pods on a node can use.
type NodePool struct {
	Pool
	// Bound is whether the pool is restricted to certain nodes, including this one.
	Bound bool `json:"bound"`
}

// NodePod is a pod on a node.
type NodePod struct {
	Pod   string `json:"pod"`
	Phase string `json:"phase"`
	// IPs are those of the pod's status, and Leases the number of its addresses of ours.
	IPs         []string `json:"ips,omitempty"`
	Leases      int      `json:"leases"`
	HostNetwork bool     `json:"hostNetwork,omitempty"`
}

// AgentOf returns the pod of the DaemonSet of the agents among the pods of a node, nil if there is none.
func AgentOf(pods []*corev1.Pod, agents *appsv1.DaemonSet) *corev1.Pod {
	if agents == nil {
		return nil
	}
	selector := labels.SelectorFromSet(agents.Spec.Selector.MatchLabels)
	for _, pod := range pods {
		if pod.Namespace == agents.Namespace && selector.Matches(labels.Set(pod.Labels)) {
			return pod
		}
	}
	return nil
}

// Node returns the details of a node.
func (s *State) Node(q NodeQuestion) NodeDetails {
	d := NodeDetails{
		Name: q.Node.Name, Ready: isReady(q.Node), Kernel: q.Node.Status.NodeInfo.KernelVersion, Runtime: q.Node.Status.NodeInfo.ContainerRuntimeVersion,
		IPs: []string{}, States: map[string]int{}, Addresses: s.Addresses(Filter{Node: q.Node.Name}), Pools: []NodePool{}, Pods: []NodePod{},
	}
	for _, address := range q.Node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			d.IPs = append(d.IPs, address.Address)
		}
	}
	s.poolsOf(&d, pool.NodeFacts{Name: q.Node.Name, Labels: q.Node.Labels}, q.Families)
	leases := map[string]int{} // by UID of the pod
	for _, a := range d.Addresses {
		d.States[a.State]++
		if a.State == string(lease.InUse) {
			leases[a.PodUID]++
		}
	}
	facts := map[lease.PodKey]reclaim.Pod{}
	for _, p := range q.Pods {
		uid := compile.PodUID(p.UID, p.Annotations)
		pod := NodePod{Pod: p.Namespace + "/" + p.Name, Phase: string(p.Status.Phase), Leases: leases[uid], HostNetwork: p.Spec.HostNetwork}
		for _, ip := range p.Status.PodIPs {
			pod.IPs = append(pod.IPs, ip.IP)
		}
		d.Pods = append(d.Pods, pod)
		facts[lease.PodKey{Namespace: p.Namespace, Name: p.Name}] = reclaim.Pod{Presence: reclaim.Exists, UID: uid, Phase: string(p.Status.Phase)}
	}
	slices.SortFunc(d.Pods, func(a, b NodePod) int { return cmp.Compare(a.Pod, b.Pod) })
	d.agentFindings(q, s.now)
	for _, a := range d.Addresses {
		pod, ok := facts[lease.ParsePodKey(a.Pod)]
		if !ok {
			pod.Presence = reclaim.Gone
		}
		d.Findings = append(d.Findings, s.holderFindings(a, pod)...)
	}
	for _, f := range d.Free {
		if f.Free == 0 && f.Pools > 0 {
			d.Findings = append(d.Findings, Finding{"node " + d.Name, fmt.Sprintf("its pods find no free %s address in %s", f.Family, plural(f.Pools, "pool")),
				"spiderpoolctl pool list names the full ones; add addresses with kubectl edit spiderippool NAME"})
		}
	}
	return d
}

// poolsOf adds the pools that pods on the node can use.
func (s *State) poolsOf(d *NodeDetails, node pool.NodeFacts, families []inet.Family) {
	usages := map[inet.Family]*FamilyUsage{}
	for _, family := range families {
		usages[family] = &FamilyUsage{Family: family}
	}
	for _, name := range s.pools.Names() {
		p, _ := s.pools.Get(name)
		usage := usages[p.Family]
		elsewhere := len(p.NodeNames) > 0 && !slices.Contains(p.NodeNames, node.Name) // spares the text of OpenTo
		if usage == nil || elsewhere || p.OpenTo(node) != "" {
			continue
		}
		shown := NodePool{Pool: s.pool(p), Bound: p.BoundTo(node)}
		d.Pools = append(d.Pools, shown)
		usage.Pools++
		usage.Total, usage.Free = saturated(usage.Total, shown.Total), saturated(usage.Free, shown.Free)
		for _, network := range p.MultusNames {
			if shown.Bound && !slices.Contains(d.Networks, network) {
				d.Networks = append(d.Networks, network)
			}
		}
	}
	slices.Sort(d.Networks)
	for _, family := range families {
		d.Free = append(d.Free, *usages[family])
	}
}

// agentFinding returns the finding about the agent of a node, and false if the agent is ready. agent is nil if there is none.
func agentFinding(node string, agent *corev1.Pod) (Finding, bool) {
	if agent == nil {
		return Finding{"node " + node, "it has no agent, so its pods get no address of Spiderpool", "spiderpoolctl status tells why"}, true
	}
	reason := notReady(agent)
	return Finding{"node " + node, fmt.Sprintf("its agent %s/%s is not ready: %s", agent.Namespace, agent.Name, reason), inspect(agent)}, reason != ""
}

// agentFindings adds the findings about the node and its agent.
func (d *NodeDetails) agentFindings(q NodeQuestion, now time.Time) {
	subject := "node " + d.Name
	if !d.Ready {
		d.Findings = append(d.Findings, Finding{subject, "it is not Ready", "kubectl describe node " + d.Name + "; if it is lost, power it off and delete the Node, so that its addresses become free"})
	}
	if q.Agent != nil {
		d.Agent = q.Agent.Namespace + "/" + q.Agent.Name
	}
	fault, faulty := agentFinding(d.Name, q.Agent)
	if d.AgentReady = !faulty; faulty {
		d.Findings = append(d.Findings, fault)
	}
	var r Report
	for _, check := range slices.Concat(nodeEventChecks, []eventCheck{serviceEventCheck}) {
		check.quiet = ""
		check.judge(&r, slices.DeleteFunc(slices.Clone(q.Events), func(e corev1.Event) bool {
			return e.InvolvedObject.Kind != "Node" || e.InvolvedObject.Name != d.Name
		}), now)
	}
	for _, check := range r.Checks {
		d.Findings = append(d.Findings, Finding{subject, "its agent reported " + strings.TrimPrefix(check.Finding, subject+", "), check.Remedy})
	}
}

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/testbed"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/reach"
	"spiderpool.dev/spiderpool/internal/service"
)

// unstarted returns the causes of the pods that do not run.
func (t *connectivityTest) unstarted(ctx context.Context, pods, started []corev1.Pod) (findings []reach.Finding, err error) {
	states := t.nodeStates()
	for i := range pods {
		p := &pods[i]
		if slices.ContainsFunc(started, func(s corev1.Pod) bool { return s.Name == p.Name }) {
			continue
		}
		u := reach.Unstarted{Pod: p.Name, Node: wantedNode(p), Host: p.Spec.HostNetwork}
		u.AgentFault = agentFault(states, u.Node)
		u.Unschedulable, u.Waiting = podTrouble(p)
		if u.Warning, err = t.bed.Warning(ctx, p.Name); err != nil {
			return nil, err
		}
		if u.AgentFault == "" && !u.Host && p.Spec.NodeName != "" {
			if u.Pools, err = t.poolFindings(ctx, p); err != nil {
				return nil, err
			}
		}
		for _, f := range u.Explain() {
			if !slices.ContainsFunc(findings, func(other reach.Finding) bool { return other.Subject == f.Subject && other.Problem == f.Problem }) {
				findings = append(findings, f)
			}
		}
	}
	return findings, nil
}

// wantedNode returns the node that a pod is made for.
func wantedNode(p *corev1.Pod) string {
	terms := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	return cmp.Or(p.Spec.NodeName, terms[0].MatchFields[0].Values[0])
}

func podTrouble(p *corev1.Pod) (unschedulable, waiting string) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			unschedulable = c.Message
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Reason != "ContainerCreating" {
			waiting = strings.TrimSuffix(w.Reason+": "+w.Message, ": ")
		}
		if ended := s.LastTerminationState.Terminated; ended != nil && ended.Message != "" {
			waiting = "its program ended: " + strings.TrimSpace(ended.Message)
		}
	}
	return unschedulable, waiting
}

// poolFindings asks pod explain about a pod.
func (t *connectivityTest) poolFindings(ctx context.Context, p *corev1.Pod) (findings []reach.Finding, err error) {
	question, err := t.questionAbout(ctx, p, t.file, t.system)
	if err != nil {
		return nil, err
	}
	question.Agent = nil // t.agents tells
	views := viewOptions{now: t.now}
	state, err := views.state(ctx, t.reader, wants{pools: true, blocks: true})
	if err != nil {
		return nil, err
	}
	x, err := state.Explain(question)
	if err != nil {
		return nil, err
	}
	for _, f := range x.Findings {
		if strings.HasPrefix(f.Subject, "interface ") {
			findings = append(findings, reach.Finding{Subject: "pod " + p.Name, Problem: f.Subject + ": " + f.Problem, Remedy: f.Remedy})
		}
	}
	return findings, nil
}

// agentFault tells that a node has no agent.
func agentFault(states map[string]reach.NodeState, node string) string {
	if state, ok := states[node]; ok {
		return state.AgentFault
	}
	return "it has no spiderpool-agent"
}

// nodeStates returns the state of the agents by the name of their node.
func (t *connectivityTest) nodeStates() map[string]reach.NodeState {
	states := map[string]reach.NodeState{}
	for i := range t.agents {
		agent, fault := &t.agents[i], ""
		if agent.Spec.NodeName == "" || agent.DeletionTimestamp != nil {
			continue
		}
		if !isReady(agent) {
			fault = "its spiderpool-agent (pod " + agent.Name + ") is not ready"
		}
		states[agent.Spec.NodeName] = reach.NodeState{AgentFault: fault}
	}
	return states
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

// dnsServers returns the number of ready endpoints of the cluster's DNS, and -1 if it cannot read them.
func (t *connectivityTest) dnsServers(ctx context.Context) int {
	ready, seen := 0, false
	err := t.EachEndpointSlice(ctx, service.Name{Namespace: "kube-system", Name: "kube-dns"}, func(slice *discoveryv1.EndpointSlice) {
		seen = true
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				ready++
			}
		}
	})
	if err != nil || !seen {
		return -1
	}
	return ready
}

// cluster asks each pod for its state, and returns the parties with their addresses.
func (t *connectivityTest) cluster(ctx context.Context, pods []corev1.Pod) (reach.Cluster, error) {
	c := reach.Cluster{Port: t.port, DNSName: "kubernetes.default.svc." + t.file.ClusterDNSDomain, Parties: make([]reach.Party, len(pods))}
	nodes, err := t.bed.Nodes(ctx)
	if err != nil {
		return c, err
	}
	done := t.during("reading the networks of the pods", probeTimeout)
	err = each(pods, func(i int, p *corev1.Pod) error {
		reply, err := t.ask(ctx, p, reach.Request{})
		if err != nil {
			return err
		}
		party := reach.Party{Name: p.Name, Node: p.Spec.NodeName, Host: p.Spec.HostNetwork, Facts: reply.Facts}
		if party.Host {
			party.Interfaces = hostInterfaces(nodes, party.Node)
		} else if party.Interfaces, err = t.interfaces(ctx, p, &reply.Facts); err != nil {
			return err
		}
		c.Parties[i] = party
		return nil
	})
	done()
	if err != nil {
		return c, err
	}
	if err := t.addServices(ctx, &c, pods); err != nil {
		return c, err
	}
	api, err := t.bed.Service(ctx, "default", "kubernetes")
	if err != nil {
		return c, fmt.Errorf("read the Service of the API server: %w", err)
	}
	for _, ip := range clusterIPs(api) {
		c.APIServer = append(c.APIServer, netip.AddrPortFrom(ip, uint16(api.Spec.Ports[0].Port)))
	}
	return c, nil
}

func hostInterfaces(nodes []corev1.Node, name string) []reach.Interface {
	var i reach.Interface
	for n := range nodes {
		if nodes[n].Name == name {
			for _, addr := range nodeAddrs(&nodes[n]) {
				i.Leases = append(i.Leases, reach.Leased{Addr: addr})
			}
		}
	}
	return []reach.Interface{i}
}

// interfaces returns the leases of a pod by its SpiderEndpoint, or the addresses of its interfaces if
// Spiderpool gave it none.
func (t *connectivityTest) interfaces(ctx context.Context, p *corev1.Pod, facts *reach.Facts) ([]reach.Interface, error) {
	endpoint, err := t.ReadEndpoint(ctx, p.Namespace, p.Name)
	if err != nil {
		return nil, err
	}
	if endpoint != nil && endpoint.Status.Current.UID == string(p.UID) {
		return leasedInterfaces(endpoint), nil
	}
	var all []reach.Interface
	for _, l := range facts.Links {
		i := reach.Interface{Name: l.Name}
		for _, prefix := range l.Addrs {
			if prefix.Addr().IsGlobalUnicast() && l.Name != netplan.PodVeth {
				i.Leases = append(i.Leases, reach.Leased{Addr: prefix.Addr()})
			}
		}
		if len(i.Leases) > 0 {
			all = append(all, i)
		}
	}
	return all, nil
}

func leasedInterfaces(endpoint *v2beta1.SpiderEndpoint) (all []reach.Interface) {
	for _, ip := range endpoint.Status.Current.IPs {
		i := reach.Interface{Name: ip.Interface, Network: ip.Network}
		for _, of := range []struct{ addr, gateway, pool *string }{{ip.IPv4, ip.IPv4Gateway, ip.IPv4Pool}, {ip.IPv6, ip.IPv6Gateway, ip.IPv6Pool}} {
			if of.addr == nil {
				continue
			}
			prefix, err := netip.ParsePrefix(*of.addr)
			if err != nil {
				continue
			}
			l := reach.Leased{Addr: prefix.Addr()}
			if of.pool != nil {
				l.Pool = *of.pool
			}
			if of.gateway != nil && (ip.CleanGateway == nil || !*ip.CleanGateway) {
				l.Gateway, _ = netip.ParseAddr(*of.gateway)
			}
			i.Leases = append(i.Leases, l)
		}
		all = append(all, i)
	}
	return all
}

func (t *connectivityTest) addServices(ctx context.Context, c *reach.Cluster, pods []corev1.Pod) error {
	byPod, err := t.bed.Services(ctx, pods)
	if err != nil {
		return err
	}
	for i := range pods {
		s, ok := byPod[pods[i].Name]
		if !ok {
			continue
		}
		c.Services = append(c.Services, reach.Service{
			Name: "Service " + s.Name, Node: pods[i].Spec.NodeName, Backend: pods[i].Name, ClusterIPs: clusterIPs(&s), Port: uint16(s.Spec.Ports[0].Port), NodePort: uint16(s.Spec.Ports[0].NodePort),
		})
	}
	return nil
}

func clusterIPs(s *corev1.Service) (ips []netip.Addr) {
	for _, text := range s.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			ips = append(ips, ip)
		}
	}
	return ips
}

// investigate adds further facts about failures. Facts that the user may not read stay unknown, with a note.
func (t *connectivityTest) investigate(ctx context.Context, w *reach.World) {
	defer t.during("looking for causes", requestTimeout)()
	if policies, err := readPolicies(ctx, t.reader, nil); err != nil {
		t.result.note(fmt.Sprintf("Network policies are unknown: %v.", err))
	} else {
		w.Denies = func(p reach.Probe) string { return denial(policies, w, p) }
	}
	var mutex sync.Mutex
	_ = each(t.agents, func(_ int, agent *corev1.Pod) error {
		state, ok := w.Nodes[agent.Spec.NodeName]
		if !ok || state.AgentFault != "" || !slices.ContainsFunc(w.Parties, func(p reach.Party) bool { return p.Node == agent.Spec.NodeName }) {
			return nil
		}
		problem, err := servicesCheck(ctx, t.bed, agent)
		mutex.Lock()
		defer mutex.Unlock()
		if err != nil {
			t.result.note(fmt.Sprintf("The checks of the agent of node %s are unknown: %v.", agent.Spec.NodeName, err))
			return nil
		}
		state.Services = problem
		w.Nodes[agent.Spec.NodeName] = state
		return nil
	})
}

// servicesCheck asks an agent for its failed check of services.
func servicesCheck(ctx context.Context, bed *testbed.Bed, agent *corev1.Pod) (problem string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	out, err := bed.Exec(ctx, agent, []string{"spiderpoolctl", "node", "--output", "json"}, nil)
	var checks []netplan.Finding
	if unreadable := json.Unmarshal(out, &checks); unreadable != nil {
		return "", cmp.Or(err, unreadable) // a failed check makes the command end with 1
	}
	for _, c := range checks {
		if strings.HasPrefix(c.What, "services ") && !c.OK {
			problem = c.String()
		}
	}
	return problem, nil
}

// denial returns the policy that denies the connection of a probe between parties.
func denial(policies *policies, w *reach.World, p reach.Probe) string {
	packet := policy.Packet{From: addrOf(w, p.From, p.Family, ""), To: addrOf(w, p.Server, p.Family, p.Interface), Protocol: service.TCP, Port: w.Port}
	if p.Question.Kind == reach.UDP || p.Question.Kind == reach.Full {
		packet.Protocol = service.UDP
	}
	if !packet.From.IsValid() || !packet.To.IsValid() {
		return ""
	}
	v := policies.Verdict(packet)
	switch {
	case !v.Egress.Allowed():
		return "egress of " + p.From + " is " + v.Egress.Explain(policy.Egress)
	case !v.Ingress.Allowed():
		return "ingress of " + p.Server + " is " + v.Ingress.Explain(policy.Ingress)
	}
	return ""
}

// addrOf returns the address of a party on an interface, or on the first one.
func addrOf(w *reach.World, name string, family inet.Family, ifname string) netip.Addr {
	for _, party := range w.Parties {
		for _, i := range party.Interfaces {
			for _, l := range i.Leases {
				if party.Name == name && inet.FamilyOf(l.Addr) == family && (ifname == "" || party.Host || i.Name == ifname) {
					return l.Addr
				}
			}
		}
	}
	return netip.Addr{}
}

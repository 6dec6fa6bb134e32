package console

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/view"
)

type podContent struct {
	view.Explanation
	Table       []view.VerdictRow
	PoolsHidden bool
	Events      []eventRow
}

func (c podContent) title() string { return "Pod " + c.Pod }

// podPage has the answer of spiderpoolctl pod explain.
func (s *site) podPage(v *visit) (any, error) {
	key := lease.PodKey{Namespace: v.PathValue("namespace"), Name: v.PathValue("name")}
	if !v.sight.pods(key.Namespace) { // before the pod is looked up: the time of the answer would tell whether it exists
		return nil, errHidden
	}
	pod, ok := v.pods[key]
	if !ok {
		return nil, errHidden
	}
	x, err := s.explain(v, pod)
	if err != nil {
		return nil, err
	}
	c := podContent{Explanation: x, PoolsHidden: !v.sight.pools()}
	if c.PoolsHidden {
		c.Explanation = v.sight.withoutPools(x)
	} else {
		c.Table = x.Rows()
	}
	c.Events = v.eventRows(func(e *corev1.Event) bool {
		return e.InvolvedObject.Kind == "Pod" && e.InvolvedObject.Namespace == key.Namespace && e.InvolvedObject.Name == key.Name
	}, 50)
	return c, nil
}

// explain answers as spiderpoolctl pod explain does.
func (s *site) explain(v *visit, pod *corev1.Pod) (view.Explanation, error) {
	facts := pool.NamespaceFacts{Name: pod.Namespace}
	if object, ok := v.namespaces[pod.Namespace]; ok {
		facts = agentclient.NamespaceFacts(object)
	}
	top, err := s.Objects.top(v.Context(), agentclient.PodFacts(pod))
	if err != nil {
		return view.Explanation{}, err
	}
	node := v.nodes[pod.Spec.NodeName]
	if node == nil && pod.Spec.NodeName != "" {
		node = &corev1.Node{}
		node.Name = pod.Spec.NodeName
	}
	sources := view.PodSources{
		Pod: pod, Namespace: facts, Top: top, Node: node, Config: s.Config, SystemNamespace: s.Namespace, Network: v.seenNetwork,
	}
	if v.sight.nodes() { // the page of a node shows its agent
		sources.Agent = func() (*corev1.Pod, error) { return view.AgentOf(v.onNode[pod.Spec.NodeName], v.agents), nil }
	}
	return v.state.Explain(sources.Question())
}

// seenNetwork returns the configuration of an attachment, or view.ErrHiddenNetwork.
func (v *visit) seenNetwork(name pool.NetworkAttachment) (ipam.Network, error) {
	if !v.sight.networks(name.Namespace) {
		return ipam.Network{}, view.ErrHiddenNetwork
	}
	return v.network(name)
}

// withoutPools returns an explanation without facts about pools, e.g. the namespaces of other tenants in a finding. The pool of
// a held address stays if the user may see its lease, which names it.
func (s *sight) withoutPools(x view.Explanation) view.Explanation {
	judged := map[string]bool{} // the subjects of findings about pools
	for _, i := range x.Interfaces {
		judged["interface "+i.Name] = i.Other == ""
	}
	var findings []view.Finding
	for _, f := range x.Findings {
		if judged[f.Subject] {
			f.Problem, f.Remedy = "no pool gives it an address", "ask an administrator of the cluster for the reason: your rights do not show pools"
		}
		if !slices.Contains(findings, f) {
			findings = append(findings, f)
		}
	}
	x.Interfaces, x.Findings = nil, findings
	for i, a := range x.Holds { // a list of this explanation only
		if !s.sees(a) {
			x.Holds[i].Pool = ""
		}
	}
	return x
}

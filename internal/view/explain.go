package view

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// PodQuestion asks for the addresses of a pod.
type PodQuestion struct {
	Name        lease.PodKey
	UID         string
	Phase       string // status.phase
	HostNetwork bool
	// Facts are the facts about the pod, its namespace and its node. Node.Name is empty for a
	// pod without a node.
	Facts    pool.Request
	Cluster  pool.ClusterNetwork
	Families []inet.Family // of the installation
	// Network returns the configuration of an attachment, or ipam.ErrNotFound.
	Network func(pool.NetworkAttachment) (ipam.Network, error)
	// Agent returns the pod of the agent on the pod's node, nil if there is none. Without this function, the agent is unknown.
	Agent func() (*corev1.Pod, error)
}

// Explanation tells why a pod has its addresses, or none.
type Explanation struct {
	Pod         string                 `json:"pod"`
	UID         string                 `json:"uid"`
	Phase       string                 `json:"phase"`
	Node        string                 `json:"node,omitempty"`
	HostNetwork bool                   `json:"hostNetwork,omitempty"`
	Interfaces  []InterfaceExplanation `json:"interfaces,omitempty"`
	// Holds are the addresses of this pod, and of earlier pods with its name.
	Holds    []Address `json:"holds"`
	Findings []Finding `json:"findings,omitempty"`
	Notes    []string  `json:"notes,omitempty"`
}

// InterfaceExplanation is an interface with the considered pools.
type InterfaceExplanation struct {
	Name    string `json:"name"`
	Network string `json:"network,omitempty"` // of the NetworkAttachmentDefinition
	// Other says why Spiderpool gives the interface no address, "" if it does.
	Other    string              `json:"other,omitempty"`
	Families []FamilyExplanation `json:"families,omitempty"`
}

// FamilyExplanation is the choice of pools for one IP version of an interface.
type FamilyExplanation struct {
	Family inet.Family `json:"ipVersion"`
	// Source is the origin of the names of the pools; empty if nothing asks for an address of
	// this version.
	Source string        `json:"source,omitempty"`
	Pools  []PoolVerdict `json:"pools,omitempty"` // candidates first, best first
}

// PoolVerdict is the verdict on one considered pool.
type PoolVerdict struct {
	Pool      string `json:"pool"`
	Candidate bool   `json:"candidate"`
	// Cause is the pool.Cause of the rejection, and Reason a sentence for users. For a candidate,
	// Reason has its free addresses.
	Cause  string `json:"cause,omitempty"`
	Reason string `json:"reason"`
	free   int64
}

// ErrHiddenNetwork is the error of PodQuestion.Network if the user may not see the attachment. It is part of the answer, like
// ipam.ErrNotFound and agentclient.ErrBadNetwork.
var ErrHiddenNetwork = errors.New("your rights do not show it")

// Explain explains the addresses of a pod with the agent's own selection of pools. The error is
// that of PodQuestion.Network or Agent, unless it is part of the answer.
func (s *State) Explain(q PodQuestion) (Explanation, error) {
	x := Explanation{Pod: q.Name.String(), UID: q.UID, Phase: q.Phase, Node: q.Facts.Node.Name, HostNetwork: q.HostNetwork, Holds: []Address{}}
	x.Holds = append(x.Holds, s.Addresses(Filter{Pod: q.Name})...)
	for _, a := range x.Holds {
		x.Findings = append(x.Findings, s.holderFindings(a, reclaim.Pod{Presence: reclaim.Exists, UID: q.UID, Phase: q.Phase})...)
	}
	if q.HostNetwork {
		return x, nil
	}
	subject := "pod " + x.Pod
	interfaces, err := pool.Interfaces(q.Name.Namespace, q.Facts.Pod.Annotations, q.Cluster)
	if err == nil {
		err = errors.Join(ipam.CheckAnnotations(q.Facts.Pod.Annotations), pool.CheckInterfaces(q.Facts.Pod.Annotations, namesOf(interfaces)))
	}
	if err != nil {
		x.Findings = append(x.Findings, Finding{subject, oneLine(err), "correct it in the template of the workload: only a new pod has it"})
		return x, nil
	}
	if x.Node == "" {
		x.Findings = append(x.Findings, Finding{subject, "it is on no node yet, so no agent gives it an address", "kubectl describe pod -n " + q.Name.Namespace + " " + q.Name.Name + " tells why the scheduler waits"})
		return x, nil
	}
	ours := false
	for _, i := range interfaces {
		explained, err := s.explainInterface(&x, q, i)
		if err != nil {
			return x, err
		}
		ours = ours || explained.Other == ""
		x.Interfaces = append(x.Interfaces, explained)
	}
	if ours {
		s.compareEndpoint(&x, q)
		err = x.judgeAgent(q)
	}
	return x, err
}

// judgeAgent adds a finding if the pod waits for an agent that is not ready. It comes first: no change of a pool helps before.
func (x *Explanation) judgeAgent(q PodQuestion) error {
	waits := q.Phase == string(corev1.PodPending) && !slices.ContainsFunc(x.Holds, func(a Address) bool { return a.PodUID == x.UID })
	if q.Agent == nil || !waits {
		return nil
	}
	agent, err := q.Agent()
	if err != nil {
		return err
	}
	if finding, faulty := agentFinding(x.Node, agent); faulty {
		x.Findings = slices.Insert(x.Findings, 0, finding)
	}
	return nil
}

func namesOf(interfaces []pool.PodInterface) (names []string) {
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	return names
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (s *State) explainInterface(x *Explanation, q PodQuestion, i pool.PodInterface) (InterfaceExplanation, error) {
	out := InterfaceExplanation{Name: i.Name, Network: i.Attachment.String()}
	if i.Attachment == (pool.NetworkAttachment{}) {
		out.Other = "its CNI configuration is a file on the node, which this command cannot read"
		return out, nil
	}
	network, err := q.Network(i.Attachment)
	if err != nil {
		err = x.explainNetwork(&out, err)
		return out, err
	}
	if !network.IPAM {
		out.Other = "another IPAM plugin, or none, gives it addresses"
		return out, nil
	}
	request := ipam.InterfaceRequest(q.Facts, i, network)
	if request.MatchMasterSubnet {
		request.MatchMasterSubnet = false
		x.Notes = append(x.Notes, fmt.Sprintf("Interface %s has match_master_subnet: its agent also rejects pools outside the subnets of master %s, which are known on the node only.", i.Name, network.Master))
	}
	for _, family := range q.Families {
		explained, err := s.explainFamily(&request, family)
		if err != nil {
			x.Findings = append(x.Findings, Finding{"interface " + i.Name, oneLine(err), "correct the annotation, or the CNI configuration of " + i.Attachment.String()})
			return out, nil
		}
		out.Families = append(out.Families, explained)
		x.judgeFull(i.Name, explained)
	}
	var none pool.NoPools
	if _, err := pool.SelectAll(s.pools, &request, q.Families); errors.As(err, &none) {
		for _, failure := range none {
			if !x.has(i.Name, failure.Family) {
				x.Findings = append(x.Findings, Finding{"interface " + i.Name, strings.TrimPrefix(failure.Error(), "interface "+i.Name+": "), "change one of these pools, or name another one in the pod's annotation ipam.spidernet.io/ippool, e.g. {\"ipv4\":[\"blue\"]}"})
			}
		}
	}
	return out, nil
}

// explainNetwork tells why an interface has no configuration. It returns an error that says nothing about the attachment.
func (x *Explanation) explainNetwork(i *InterfaceExplanation, err error) error {
	subject := "interface " + i.Name
	switch {
	case errors.Is(err, ipam.ErrNotFound):
		i.Other = "there is no such NetworkAttachmentDefinition"
		x.Findings = append(x.Findings, Finding{subject, fmt.Sprintf("NetworkAttachmentDefinition %s does not exist, so the pod cannot start", i.Network), "create it, e.g. with a SpiderMultusConfig of that name, or correct the pod's annotation k8s.v1.cni.cncf.io/networks or v1.multus-cni.io/default-network"})
	case errors.Is(err, ErrHiddenNetwork):
		i.Other = "your rights do not show its NetworkAttachmentDefinition"
		x.Notes = append(x.Notes, fmt.Sprintf("Your rights do not show NetworkAttachmentDefinition %s, so the pools for interface %s are missing here.", i.Network, i.Name))
	case errors.Is(err, agentclient.ErrBadNetwork):
		i.Other = "its NetworkAttachmentDefinition has an error"
		x.Findings = append(x.Findings, Finding{subject, oneLine(err), "correct spec.config, or the SpiderMultusConfig of that name"})
	default:
		return err
	}
	return nil
}

func (s *State) explainFamily(request *pool.Request, family inet.Family) (FamilyExplanation, error) {
	selection, err := pool.Select(s.pools, request, family)
	if err != nil {
		return FamilyExplanation{}, err
	}
	out := FamilyExplanation{Family: family}
	if selection.Asked() {
		out.Source = string(selection.Source)
	}
	for _, p := range selection.Pools {
		usage := s.index.Usage(p.Name)
		out.Pools = append(out.Pools, PoolVerdict{Pool: p.Name, Candidate: true, Reason: fmt.Sprintf("%d of %d addresses are free", usage.Free, usage.Total), free: usage.Free})
	}
	for _, r := range selection.Rejections {
		out.Pools = append(out.Pools, PoolVerdict{Pool: r.Pool, Cause: string(r.Cause), Reason: r.Reason})
	}
	return out, nil
}

// has reports whether the interface holds an address of the IP version.
func (x *Explanation) has(ifname string, family inet.Family) bool {
	return slices.ContainsFunc(x.Holds, func(a Address) bool {
		return a.PodUID == x.UID && a.Interface == ifname && a.State == string(lease.InUse) && inet.FamilyOf(a.Addr) == family
	})
}

// judgeFull adds a finding if the interface needs an address of the version and all its pools are full.
func (x *Explanation) judgeFull(ifname string, f FamilyExplanation) {
	full := ""
	for _, v := range f.Pools {
		if v.Candidate && v.free > 0 {
			return
		}
		if v.Candidate && full == "" {
			full = v.Pool
		}
	}
	if full != "" && !x.has(ifname, f.Family) {
		x.Findings = append(x.Findings, Finding{"interface " + ifname, fmt.Sprintf("it gets no %s address, because its pools are full", f.Family),
			"spiderpoolctl pool usage " + full + " names the workloads; add addresses with kubectl edit spiderippool " + full})
	}
}

// compareEndpoint compares the SpiderEndpoint with the leases.
func (s *State) compareEndpoint(x *Explanation, q PodQuestion) {
	var leased []netip.Addr
	for _, a := range x.Holds {
		if a.PodUID == q.UID && a.State == string(lease.InUse) {
			leased = append(leased, a.Addr)
		}
	}
	if len(leased) == 0 {
		if q.Phase == "Running" {
			x.Findings = append(x.Findings, Finding{"pod " + x.Pod, "it runs without an address of Spiderpool, although an interface should have one", "recreate it, if it is older than its network; else read the log of the agent of node " + x.Node})
		}
		return
	}
	if slices.ContainsFunc(x.Holds, func(a Address) bool { return strings.HasPrefix(a.FixedFor, lease.KindVirtualMachine+"/") }) {
		return // the endpoint is that of the virtual machine, which may have two pods
	}
	endpoint := s.endpoints[q.Name]
	if endpoint == nil || endpoint.Status.Current.UID != q.UID || !slices.Equal(addressesOf(endpoint), leased) {
		x.Findings = append(x.Findings, Finding{"SpiderEndpoint " + x.Pod, "it does not show the addresses that the pod holds", fmt.Sprintf("the agent of node %s writes it within seconds; if this stays, read the agent's log", x.Node)})
	}
}

// addressesOf returns the addresses of an endpoint, sorted.
func addressesOf(endpoint *v2beta1.SpiderEndpoint) []netip.Addr {
	var all []netip.Addr
	for _, ip := range endpoint.Status.Current.IPs {
		for _, text := range []*string{ip.IPv4, ip.IPv6} {
			if text == nil {
				continue
			}
			if prefix, err := netip.ParsePrefix(*text); err == nil {
				all = append(all, prefix.Addr())
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

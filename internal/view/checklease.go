package view

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

// leases compares the leases with the pods, nodes and pools that they name.
func (c *check) leases() {
	for block := range c.index.Blocks() {
		for _, l := range block.Leases {
			if l.State == lease.InUse {
				c.holder(l)
			}
			if l.State == lease.InUse || l.State == lease.Retained {
				c.outside(l)
			}
		}
		for _, f := range block.Former {
			l := f.AsLease()
			if c.around.lost(f.Node) {
				a := c.address(l)
				d := c.lost(codeFormerSandbox, a, fmt.Sprintf("sandbox %s of pod %s lost its lease on node %s", short(a.ContainerID), a.Pod, a.Node))
				c.add(d)
			}
		}
	}
}

// holder compares a lease in use with its pod and its node.
func (c *check) holder(l lease.Lease) {
	a := c.address(l)
	if problem := podProblem(a, c.around.pod(l.Pod)); problem != "" {
		if c.around.lost(l.Node) {
			c.add(c.lost(codeLeaseWithoutPod, a, problem))
			return
		}
		c.add(Discrepancy{
			Code: codeLeaseWithoutPod, Address: a.Addr.String(), holder: a.PodUID + "/" + a.ContainerID,
			Finding: Finding{"SpiderIPBlock " + blockOf(a), problem,
				fmt.Sprintf("the agent of node %s frees it once its container runtime has no sandbox %s; if the node is lost, power it off and delete the Node", a.Node, short(a.ContainerID))},
			Why: "the pool lacks the address",
		})
		return
	}
	if c.around.lost(l.Node) {
		c.add(Discrepancy{
			Code: codeLeaseOnGoneNode, Address: a.Addr.String(), holder: a.PodUID + "/" + a.ContainerID,
			Finding: Finding{"SpiderIPBlock " + blockOf(a), fmt.Sprintf("it is leased to pod %s on node %s, which %s", a.Pod, a.Node, c.fate(a.Node)),
				fmt.Sprintf("delete the pod, so that the controller frees the address: kubectl delete pod -n %s %s --force", l.Pod.Namespace, l.Pod.Name)},
			Why: "no agent looks after the address",
		})
	}
}

// lost is a discrepancy on a lost node, which the controller repairs.
func (c *check) lost(code string, a Address, problem string) Discrepancy {
	return Discrepancy{
		Code: code, Address: a.Addr.String(), holder: a.PodUID + "/" + a.ContainerID,
		Finding: Finding{"SpiderIPBlock " + blockOf(a), fmt.Sprintf("%s, and node %s %s", problem, a.Node, c.fate(a.Node)),
			"the controller frees it by itself; spiderpoolctl check --repair makes it look now"},
		Why: "the pool lacks the address", Repair: "spideripblock/" + blockOf(a),
	}
}

// fate tells how a lost node is known to have ended.
func (c *check) fate(node string) string {
	if c.around.node(node).OutOfService {
		return "has the taint node.kubernetes.io/out-of-service"
	}
	return "does not exist"
}

// blockOf returns the name of the block of an address.
func blockOf(a Address) string { return compile.BlockName(inet.BlockOf(a.Addr)) }

// outside compares a lease with its pool.
func (c *check) outside(l lease.Lease) {
	p, ok := c.State.pools.Get(l.Pool)
	problem := ""
	switch {
	case !ok:
		problem = fmt.Sprintf("it is leased from SpiderIPPool %s, which does not exist", l.Pool)
	case p.Invalid != "":
		return // the condition Ready of the pool says so
	case !p.IPs.Contains(l.Addr):
		problem = fmt.Sprintf("it is leased from SpiderIPPool %s, whose spec.ips does not have it", l.Pool)
	case p.Gateway == l.Addr:
		problem = fmt.Sprintf("it is leased from SpiderIPPool %s, and is its spec.gateway", l.Pool)
	default:
		return
	}
	c.add(Discrepancy{
		Code: codeLeaseOutsidePool, Address: l.Addr.String(), holder: l.PodUID,
		Finding: Finding{"SpiderIPBlock " + compile.BlockName(inet.BlockOf(l.Addr)), problem,
			fmt.Sprintf("add the address to spec.ips and to spec.excludeIPs of a pool of its subnet until pod %s is gone, or delete the pod", l.Pod)},
		Why: "another host or pool may have the address",
	})
}

// endpoints compares each SpiderEndpoint with the leases of its pod.
func (c *check) endpoints() {
	leased := map[lease.PodKey]map[string][]netip.Addr{} // by pod and its UID; those in use
	held := map[lease.PodKey]bool{}                      // endpoints with any lease
	for block := range c.index.Blocks() {
		for _, l := range block.Leases {
			if l.State != lease.InUse && l.State != lease.Retained {
				continue
			}
			held[l.Pod], held[l.FixedFor.Key()] = true, true
			if l.State != lease.InUse || l.FixedFor.Kind == lease.KindVirtualMachine {
				continue // the endpoint of a virtual machine may show one of two pods
			}
			if leased[l.Pod] == nil {
				leased[l.Pod] = map[string][]netip.Addr{}
			}
			leased[l.Pod][l.PodUID] = append(leased[l.Pod][l.PodUID], l.Addr)
		}
	}
	for _, key := range sortedPods(c.around.Pods) {
		if addrs := leased[key][c.around.Pods[key].UID]; len(addrs) > 0 {
			c.endpoint(key, c.around.Pods[key], addrs)
		}
	}
	for key, endpoint := range c.State.endpoints {
		if _, exists := c.around.Pods[key]; !exists && !held[key] {
			c.add(Discrepancy{
				Code: codeEndpointWithoutPod, holder: endpoint.Status.Current.UID,
				Finding: Finding{"SpiderEndpoint " + key.String(), "there is neither a pod nor a lease for it",
					"the controller deletes it by itself; spiderpoolctl check --repair makes it look now"},
				Why: "it shows addresses that nothing uses", Repair: "spiderendpoint/" + key.String(),
			})
		}
	}
}

// endpoint compares the SpiderEndpoint of a pod with the leases of the pod in use.
func (c *check) endpoint(key lease.PodKey, pod ReportingPod, leased []netip.Addr) {
	slices.SortFunc(leased, netip.Addr.Compare)
	d := Discrepancy{
		Code: codeEndpointDiffers, holder: pod.UID,
		Finding: Finding{Subject: "SpiderEndpoint " + key.String(), Remedy: fmt.Sprintf("the agent of node %s writes it within ten minutes; if this stays, read the log of that agent", pod.Node)},
		Why:     "tools that read SpiderEndpoints see wrong addresses",
	}
	endpoint := c.State.endpoints[key]
	switch {
	case endpoint == nil:
		d.Problem = "it does not exist, although the pod holds " + joinAddrs(leased)
	case endpoint.Status.Current.UID != pod.UID || !slices.Equal(addressesOf(endpoint), leased):
		d.Problem = fmt.Sprintf("it shows %s of the pod with UID %s, and the leases of the pod with UID %s are %s", orNothing(addressesOf(endpoint)), endpoint.Status.Current.UID, pod.UID, joinAddrs(leased))
	default:
		return
	}
	c.add(d)
}

func joinAddrs(addrs []netip.Addr) string {
	var texts []string
	for _, addr := range addrs {
		texts = append(texts, addr.String())
	}
	return strings.Join(texts, ", ")
}

func orNothing(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return "no address"
	}
	return joinAddrs(addrs)
}

// counts compares the counts in the status of pools with the leases.
func (c *check) counts() {
	var sets []inet.Set
	for _, set := range c.reserved {
		sets = append(sets, set)
	}
	reserved := inet.Union(sets...)
	for _, object := range c.objects.Pools {
		p, _ := c.State.pools.Get(object.Name)
		if p.Invalid != "" || p.Foreign != "" {
			continue
		}
		u := c.index.Usage(p.Name)
		wantTotal, wantUsed := p.Usable(reserved).Count(), u.InUse+u.Retained
		has := countsOf(&object.Status)
		if has == fmt.Sprintf("%d of %d addresses in use", wantUsed, wantTotal) {
			continue
		}
		c.add(Discrepancy{
			Code: codePoolCountsDiffer, holder: has,
			Finding: Finding{"SpiderIPPool " + p.Name, fmt.Sprintf("its status counts %s; by the leases, it is %d of %d", has, wantUsed, wantTotal),
				"the controller counts again at each change; spiderpoolctl check --repair makes it count now. If this stays, read the log of the controller that leads"},
			Why: "kubectl and dashboards show wrong numbers", Repair: "spiderippool/" + p.Name,
		})
	}
}

// countsOf returns e.g. "3 of 10 addresses in use".
func countsOf(status *v2beta1.SpiderIPPoolStatus) string {
	if status.TotalIPCount == nil || status.AllocatedIPCount == nil {
		return "nothing"
	}
	return fmt.Sprintf("%d of %d addresses in use", *status.AllocatedIPCount, *status.TotalIPCount)
}

package cloudnetwork

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

// input is what one reconcile reads from the cluster.
type input struct {
	nodes    []member
	pools    map[string]*v2beta1.SpiderIPPool // of this network
	existing []cloud.ExistingPool             // the same
	fixed    map[string]fixedPool             // those of fixed addresses of this network, which are not among pools
	others   inet.Set                         // addresses of all other pools
	// elsewhere are fixed addresses of other SpiderCloudNetworks, which are among others.
	elsewhere inet.Set
	reserved  inet.Set
	kept      inet.Set                 // addresses that users keep from all pods
	leases    map[string][]lease.Lease // of the pools that may lose addresses
	room      map[string]int64         // addresses that the cloud would still assign on demand, by pool
}

func (in *input) discovery(network *v2beta1.SpiderCloudNetwork, s *session, now time.Time) cloud.Discovery {
	fixed := inet.Union(in.fixedAddrs(), in.elsewhere)
	d := cloud.Discovery{
		Now: now, Network: network.Name, Subnets: s.subnets, Pools: in.existing, Others: inet.Union(fixed, in.others), Fixed: fixed,
		Members: s.membersOf(in), Reserved: in.reserved, Settled: s.settled(now),
		Managed: manages(network), Leaving: s.leaving(network.Name), Attached: map[int]bool{},
	}
	d.Devices = devicesOf(network)
	for _, i := range network.Spec.Interfaces {
		d.Attached[int(i.Device)] = manages(network) && i.Attach != nil
	}
	for _, version := range network.Spec.IPVersions {
		d.Families = append(d.Families, inet.Family(version))
	}
	for i := range d.Members {
		d.Members[i].Answers = d.Members[i].Answers.Fixing(fixed)
	}
	return d
}

// devicesOf returns the device indexes of the network.
func devicesOf(network *v2beta1.SpiderCloudNetwork) (devices []int) {
	for _, i := range network.Spec.Interfaces {
		devices = append(devices, int(i.Device))
	}
	return devices
}

// fixedAddrs returns the addresses of the network's own pools of fixed addresses.
func (in *input) fixedAddrs() inet.Set {
	var all []inet.Set
	for _, pool := range in.fixed {
		all = append(all, pool.ips)
	}
	return inet.Union(all...)
}

// membersOf returns the nodes with the answers about their instances.
func (s *session) membersOf(in *input) (members []cloud.Member) {
	for _, m := range in.nodes {
		members = append(members, cloud.Member{Node: m.node, Instance: m.instance, Answers: s.histories[m.instance]})
	}
	return members
}

// instanceOf returns the instance of a node.
func (in *input) instanceOf(node string) string {
	for _, n := range in.nodes {
		if n.node == node {
			return n.instance
		}
	}
	return ""
}

// growing returns the nodes with a pool that is to get addresses. Only a fresh answer gives a pool addresses.
func (in *input) growing(plan cloud.Plan) (nodes []string) {
	for _, p := range plan.Pools {
		k := slices.IndexFunc(in.existing, func(have cloud.ExistingPool) bool { return have.Name == p.Name })
		if k < 0 || !in.existing[k].IPs.ContainsSet(p.IPs) {
			nodes = append(nodes, p.Node)
		}
	}
	return nodes
}

// read reads the nodes, the pools and the reserved addresses. Its faults concern nodes.
func (r *Reconciler) read(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session) (*input, []cloud.Issue, error) {
	in := &input{pools: map[string]*v2beta1.SpiderIPPool{}, leases: map[string][]lease.Lease{}, fixed: map[string]fixedPool{}}
	faults, err := r.readNodes(ctx, network, s.provider, in)
	if err != nil {
		return nil, nil, err
	}
	var reserved v2beta1.SpiderReservedIPList
	if err := r.client.List(ctx, &reserved, client.UnsafeDisableDeepCopy); err != nil {
		return nil, nil, fmt.Errorf("list SpiderReservedIPs: %w", err)
	}
	var ours, kept []inet.Set
	for i := range reserved.Items {
		if set, _ := compile.ReservedIP(&reserved.Items[i]); metav1.IsControlledBy(&reserved.Items[i], network) {
			ours = append(ours, set)
		} else {
			kept = append(kept, set)
		}
	}
	in.reserved, in.kept = inet.Union(ours...), inet.Union(kept...)
	return in, faults, r.readPools(ctx, network, s, in)
}

// readNodes reads the selected nodes.
func (r *Reconciler) readNodes(ctx context.Context, network *v2beta1.SpiderCloudNetwork, provider cloud.Provider, in *input) ([]cloud.Issue, error) {
	selector, err := selectorOf(network)
	if err != nil {
		return nil, err
	}
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes, client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var faults []cloud.Issue
	known := 0
	for i := range nodes.Items {
		node := &nodes.Items[i]
		id, ok := provider.InstanceID(node.Spec.ProviderID)
		if !ok {
			id = ""
		} else {
			known++
		}
		in.nodes = append(in.nodes, member{node.Name, id, node.Status.Allocatable.Pods().Value()})
		// Without a selector, nodes of other clouds are none of our business.
		if !ok && (node.Spec.ProviderID == "" || network.Spec.NodeSelector != nil) {
			faults = append(faults, cloud.Issue{Reason: "NodeUnknown", Text: fmt.Sprintf(
				"spec.providerID of node %s is %q, which names no instance of provider %s; set it, e.g. with the cloud controller manager",
				node.Name, node.Spec.ProviderID, network.Spec.Provider)})
		}
	}
	if known == 0 && len(faults) == 0 {
		faults = append(faults, cloud.Issue{Reason: cloud.NoInstances, Text: fmt.Sprintf(
			"spec.nodeSelector matches %d nodes, none of them of provider %s in this region; check spec.region, spec.nodeSelector, and spec.providerID of the nodes",
			len(nodes.Items), network.Spec.Provider)})
	}
	slices.SortFunc(in.nodes, func(a, b member) int { return cmp.Compare(a.node, b.node) })
	return faults, nil
}

// selectorOf returns the selector of nodes. Without one, it selects all nodes.
func selectorOf(network *v2beta1.SpiderCloudNetwork) (labels.Selector, error) {
	if network.Spec.NodeSelector == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(network.Spec.NodeSelector)
}

// readPools reads all pools, and the leases of those that may lose addresses.
func (r *Reconciler) readPools(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, in *input) error {
	var pools v2beta1.SpiderIPPoolList
	if err := r.client.List(ctx, &pools, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list SpiderIPPools: %w", err)
	}
	var networks v2beta1.SpiderCloudNetworkList
	if err := r.client.List(ctx, &networks, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list SpiderCloudNetworks: %w", err)
	}
	owners := map[types.UID]*v2beta1.SpiderCloudNetwork{}
	for i := range networks.Items {
		owners[networks.Items[i].UID] = &networks.Items[i]
	}
	var others []inet.Set
	elsewhere := r.fixed.others(network.Name)
	kept := []inet.Set{in.kept}
	for i := range pools.Items {
		pool := &pools.Items[i]
		compiled, _ := compile.Pool(pool)
		// The owner decides, not the label: any user may set that, or lose it.
		if !metav1.IsControlledBy(pool, network) {
			others = append(others, compiled.IPs)
			if ref := metav1.GetControllerOfNoCopy(pool); ref != nil && owners[ref.UID] != nil && isFixed(owners[ref.UID], pool) {
				elsewhere = append(elsewhere, compiled.IPs)
			}
			continue
		}
		if isFixed(network, pool) {
			in.fixed[pool.Name] = fixedPool{pool, compiled.IPs}
			continue
		}
		in.pools[pool.Name] = pool
		kept = append(kept, compiled.Exclude)
		existing := cloud.ExistingPool{
			Pool: cloud.Pool{
				Name: pool.Name, Interface: pool.Labels[names.LabelCloudInterface], Subnet: compiled.Subnet, Gateway: compiled.Gateway, IPs: compiled.IPs,
			},
			Deleting: pool.DeletionTimestamp != nil,
		}
		if len(pool.Spec.NodeName) == 1 {
			existing.Node = pool.Spec.NodeName[0]
		}
		// In the mode Manage, readLeases reads all of them.
		if !manages(network) && (s.again[existing.Node] != nil || compiled.IPs.Overlaps(in.reserved)) {
			leases, err := blockindex.LeasesOfPool(ctx, r.client, pool.Name)
			if err != nil {
				return fmt.Errorf("read the leases of SpiderIPPool %s: %w", pool.Name, err)
			}
			var addrs []netip.Addr
			for _, l := range leases {
				addrs = append(addrs, l.Addr)
			}
			in.leases[pool.Name], existing.Leased = leases, inet.OfAddrs(addrs...)
		}
		in.existing = append(in.existing, existing)
	}
	r.owners.set(network.Name, in.fixed)
	in.others, in.kept, in.elsewhere = inet.Union(others...), inet.Union(kept...), inet.Union(elsewhere...)
	return nil
}

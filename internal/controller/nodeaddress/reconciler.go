// Package nodeaddress offers the addresses of each node to the scheduler, so that no pod
// lands on a node without one: as extended resources in the status of the node, one for each
// network attachment with pools of single nodes, e.g.
// addresses.ipam.spidernet.io/kube-system.ipvlan-ens5. Package admission adds the requests
// to pods.
//
// The offer of a node stays the same while pods come and go (view.Offer), so a node is
// written when its pools change, and hardly ever otherwise. See docs/adr/0036-addresses-as-a-resource.md.
package nodeaddress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/cached"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/view"
)

const (
	// delay collects changes, because one pass looks at all nodes.
	delay = time.Second
	// lowerAfter is how long a smaller offer must last before it is written. The caches of
	// pods and leases are not of one moment: a new lease whose pod is not bound yet looks
	// like an address less.
	lowerAfter = 3 * time.Second
	// interval is the longest time between two passes: a quarantine ends without an event.
	interval = time.Minute
)

// Reconciler keeps the offers of nodes.
type Reconciler struct {
	client   client.Client
	cache    client.Reader
	families []inet.Family
	clock    clock.PassiveClock
	log      *slog.Logger
	lower    map[offer]time.Time // since when an offer is to be smaller; one reconcile runs at a time
}

// offer names a resource of a node.
type offer struct {
	node     string
	resource corev1.ResourceName
}

// New returns a reconciler. c has a cache; families are the IP versions of the installation.
func New(c client.Client, families []inet.Family, log *slog.Logger) *Reconciler {
	return &Reconciler{client: c, cache: c, families: families, clock: clock.RealClock{}, log: log, lower: map[offer]time.Time{}}
}

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "nodeaddress" }

// Reconcile writes the nodes whose offers differ from their pools.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	state, err := r.state(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	rooms := state.Rooms(r.families)
	networks, err := r.networks(ctx, rooms)
	if err != nil {
		return ctrl.Result{}, err
	}
	claims, err := r.claims(ctx, state.Holders())
	if err != nil {
		return ctrl.Result{}, err
	}
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, fmt.Errorf("list nodes: %w", err)
	}
	var errs []error
	lower := map[offer]time.Time{}
	for i := range nodes.Items {
		node := &nodes.Items[i]
		wanted := corev1.ResourceList{}
		for attachment, room := range rooms.Of(pool.NodeFacts{Name: node.Name, Labels: node.Labels}) {
			if name := networks[attachment]; name != "" {
				wanted[name] = quantity(view.Offer(room, claims[offer{node.Name, name}]))
			}
		}
		errs = append(errs, r.write(ctx, node, r.settle(node, wanted, lower)))
	}
	r.lower = lower
	wait := interval
	if len(lower) > 0 {
		wait = lowerAfter
	}
	return ctrl.Result{RequeueAfter: wait}, errors.Join(errs...)
}

// state reads pools, reserved addresses and leases.
func (r *Reconciler) state(ctx context.Context) (*view.State, error) {
	var pools v2beta1.SpiderIPPoolList
	var reserved v2beta1.SpiderReservedIPList
	var blocks v2beta1.SpiderIPBlockList
	for _, list := range []client.ObjectList{&pools, &reserved, &blocks} {
		if err := r.client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("list pools and leases: %w", err)
		}
	}
	return view.NewState(view.Objects{Pools: view.Pointers(pools.Items), Reserved: view.Pointers(reserved.Items), Blocks: view.Pointers(blocks.Items)}, r.clock.Now()), nil
}

// networks returns the resources of the attachments whose pods use default pools. It leaves
// out those that name pools in their CNI configuration, and those of other IPAM plugins.
func (r *Reconciler) networks(ctx context.Context, rooms *view.Rooms) (map[pool.NetworkAttachment]corev1.ResourceName, error) {
	resources := map[pool.NetworkAttachment]corev1.ResourceName{}
	for _, attachment := range rooms.Attachments() {
		var definition nadv1.NetworkAttachmentDefinition
		err := r.client.Get(ctx, client.ObjectKey{Namespace: attachment.Namespace, Name: attachment.Name}, &definition)
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("read NetworkAttachmentDefinition %s: %w", attachment, err)
		}
		if err == nil {
			network, fault := agentclient.ParseNetwork(definition.Spec.Config)
			if fault != nil || !network.IPAM || len(network.Pools.IPv4)+len(network.Pools.IPv6) > 0 {
				continue
			}
		}
		resources[attachment] = corev1.ResourceName(attachment.Resource())
	}
	return resources, nil
}

// claims returns the claims of the pods that the scheduler counts.
func (r *Reconciler) claims(ctx context.Context, holders map[string]bool) (map[offer][]view.Claim, error) {
	claims := map[offer][]view.Claim{}
	err := cached.Each(ctx, r.cache, &corev1.PodList{}, func(pod *corev1.Pod) {
		for name, count := range claimed(pod) {
			at := offer{pod.Spec.NodeName, name}
			claims[at] = append(claims[at], view.Claim{Count: count.Value(), Held: holders[compile.PodUID(pod.UID, pod.Annotations)]})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return claims, nil
}

// settle returns what the node is to offer now. A smaller offer, or none, waits for
// lowerAfter. It records waiting offers in lower.
func (r *Reconciler) settle(node *corev1.Node, wanted corev1.ResourceList, lower map[offer]time.Time) corev1.ResourceList {
	settled := maps.Clone(wanted)
	for name, is := range compile.AddressResources(node.Status.Capacity) {
		want, offered := wanted[name]
		if offered && want.Cmp(is) >= 0 {
			continue
		}
		at, now := offer{node.Name, name}, r.clock.Now()
		since, waits := r.lower[at]
		if !waits {
			since = now
		}
		if now.Sub(since) < lowerAfter {
			lower[at], settled[name] = since, is
		}
	}
	return settled
}

// write makes the node offer the resources. The controller is their only writer, so the patch needs no version.
func (r *Reconciler) write(ctx context.Context, node *corev1.Node, wanted corev1.ResourceList) error {
	status := map[string]map[corev1.ResourceName]any{}
	for field, is := range map[string]corev1.ResourceList{"capacity": node.Status.Capacity, "allocatable": node.Status.Allocatable} {
		is = compile.AddressResources(is)
		if len(is)+len(wanted) == 0 || equality.Semantic.DeepEqual(is, wanted) {
			continue
		}
		changes := map[corev1.ResourceName]any{}
		for name := range is {
			changes[name] = nil // removes it
		}
		for name, quantity := range wanted {
			changes[name] = quantity.String()
		}
		status[field] = changes
	}
	if len(status) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	target := &corev1.Node{}
	target.Name = node.Name
	if err := r.client.Status().Patch(ctx, target, client.RawPatch(types.MergePatchType, patch)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("write the addresses of node %s: %w", node.Name, err)
	}
	r.log.InfoContext(ctx, "offered addresses to the scheduler", "node", node.Name, "resources", texts(wanted))
	return nil
}

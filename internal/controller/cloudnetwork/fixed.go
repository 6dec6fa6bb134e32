package cloudnetwork

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

// isFixed reports whether a pool of the network is one of fixed addresses. A pool that lost its label still has its name.
func isFixed(network *v2beta1.SpiderCloudNetwork, pool *v2beta1.SpiderIPPool) bool {
	if pool.Labels[names.LabelCloudZone] != "" {
		return true
	}
	for _, i := range network.Spec.Interfaces {
		for _, f := range i.FixedAddresses {
			for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
				if pool.Name == cloud.FixedPoolName(network.Name, f.Name, family) {
					return true
				}
			}
		}
	}
	return false
}

// entriesOf returns the fixed addresses that the network asks for. The API server has checked the form of an address, but not the order of
// a range.
func entriesOf(network *v2beta1.SpiderCloudNetwork) (entries []cloud.FixedEntry, faults []cloud.Issue) {
	if !manages(network) {
		return nil, nil
	}
	for _, i := range network.Spec.Interfaces {
		for _, f := range i.FixedAddresses {
			e := cloud.FixedEntry{Name: f.Name, Device: int(i.Device), Subnet: f.Subnet}
			for _, text := range f.IPs {
				set, err := inet.Parse([]string{text}, inet.Bounds{})
				if err != nil {
					faults = append(faults, cloud.Issue{Reason: cloud.FixedInvalid, Text: fmt.Sprintf("fixedAddresses %s of device %d: %s", f.Name, i.Device, err)})
				}
				e.IPs = inet.Union(e.IPs, set)
			}
			entries = append(entries, e)
		}
	}
	return entries, faults
}

// fixedOf returns the fixed addresses that the network asks for.
func fixedOf(network *v2beta1.SpiderCloudNetwork) inet.Set {
	entries, _ := entriesOf(network)
	var all []inet.Set
	for _, e := range entries {
		all = append(all, e.IPs)
	}
	return inet.Union(all...)
}

// fix makes the pools of fixed addresses, and deletes those that the network no longer asks for. Leases in use keep a deleted pool. The input
// then has the new addresses, too, so that no pool of a node gets them.
func (r *Reconciler) fix(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, in *input, now time.Time) ([]cloud.Issue, error) {
	entries, faults := entriesOf(network)
	clear(s.fixed.unreserved)
	defer func() { r.fixed[network.Name] = in.fixedAddrs() }()
	if len(entries)+len(in.fixed) == 0 {
		return nil, nil
	}
	have, asked, placed := map[string]inet.Set{}, map[string]bool{}, map[netip.Addr][]string{}
	for name, pool := range in.fixed {
		have[name] = pool.ips
		for a, p := range placesOfPool(pool.object) {
			placed[a] = append(placed[a], p.Interface)
		}
	}
	for a, ifaces := range s.fixed.tried {
		placed[a] = append(placed[a], ifaces...)
	}
	for _, e := range entries {
		asked[cloud.FixedPoolName(network.Name, e.Name, inet.IPv4)], asked[cloud.FixedPoolName(network.Name, e.Name, inet.IPv6)] = true, true
	}
	wanted, issues := cloud.FixPools(in.discovery(network, s, now), entries, have, placed)
	var w writes
	for _, want := range wanted {
		object, err := r.putFixed(ctx, network, in.fixed[want.Name].object, want)
		w.refused(err)
		if err == nil {
			in.fixed[want.Name] = fixedPool{object, inet.Union(have[want.Name], want.IPs)}
		}
		if !want.Unreserved.IsEmpty() {
			s.fixed.unreserved[want.SubnetID] = true
		}
	}
	for name, pool := range in.fixed {
		if !asked[name] && pool.object.DeletionTimestamp == nil {
			w.refused(r.deletePool(ctx, pool.object))
		}
	}
	return slices.Concat(faults, w.faults, issues), w.err()
}

// putFixed creates or changes a pool of fixed addresses, and returns it. Fields that do not follow from the network stay the user's.
func (r *Reconciler) putFixed(ctx context.Context, network *v2beta1.SpiderCloudNetwork, is *v2beta1.SpiderIPPool, w cloud.FixedWanted) (*v2beta1.SpiderIPPool, error) {
	if is == nil {
		pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: w.Name}}
		fillFixed(pool, network, w)
		if err := r.create(ctx, network, pool); err != nil {
			return nil, fmt.Errorf("create SpiderIPPool %s: %w", w.Name, err)
		}
		r.log.InfoContext(ctx, "pool of fixed addresses created", "pool", w.Name, "zone", w.Zone, "ips", w.IPs.String())
		return pool, nil
	}
	want := is.DeepCopy()
	fillFixed(want, network, w)
	if is.DeletionTimestamp != nil || equality.Semantic.DeepEqual(is, want) {
		return is, nil
	}
	if err := r.patch(ctx, is, want); err != nil {
		return nil, fmt.Errorf("change SpiderIPPool %s: %w", w.Name, err)
	}
	r.log.InfoContext(ctx, "pool of fixed addresses changed", "pool", w.Name, "ips", w.IPs.String())
	return want, nil
}

// fillFixed sets the fields of a pool that follow from an entry of fixedAddresses.
func fillFixed(pool *v2beta1.SpiderIPPool, network *v2beta1.SpiderCloudNetwork, w cloud.FixedWanted) {
	i := slices.IndexFunc(network.Spec.Interfaces, func(i v2beta1.CloudInterface) bool { return int(i.Device) == w.Device })
	pool.OwnerReferences = ownedBy(network)
	metav1.SetMetaDataLabel(&pool.ObjectMeta, names.LabelCloudNetwork, network.Name)
	metav1.SetMetaDataLabel(&pool.ObjectMeta, names.LabelCloudZone, w.Zone)
	pool.Spec.Subnet = w.Subnet.String()
	if current, errs := compile.Pool(pool); len(errs) > 0 || !current.IPs.Equal(w.IPs) {
		pool.Spec.IPs = w.IPs.Strings()
	}
	pool.Spec.Gateway = nil
	if w.Gateway.IsValid() {
		pool.Spec.Gateway = new(w.Gateway.String())
	}
	pool.Spec.NodeName = nil
	pool.Spec.NodeAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelTopologyZone: w.Zone}}
	pool.Spec.MultusName = []string{network.Spec.Interfaces[i].MultusName}
	pool.Spec.Default = new(false)
	compile.CompletePool(pool)
}

// fixedSets are the fixed addresses of each SpiderCloudNetwork, as its last reconcile has left them. The cache may show a new pool later,
// and the pool of a node must not get its addresses meanwhile.
type fixedSets map[string]inet.Set

// others returns those of the other SpiderCloudNetworks.
func (f fixedSets) others(network string) (sets []inet.Set) {
	for name, set := range f {
		if name != network {
			sets = append(sets, set)
		}
	}
	return sets
}

// fixedPool is a pool of fixed addresses of the network.
type fixedPool struct {
	object *v2beta1.SpiderIPPool
	ips    inet.Set
}

// placesOfPool returns the placements in the status of a pool.
func placesOfPool(pool *v2beta1.SpiderIPPool) map[netip.Addr]cloud.Placement {
	places := map[netip.Addr]cloud.Placement{}
	for _, p := range pool.Status.Placements {
		if a, err := netip.ParseAddr(p.IP); err == nil {
			places[a] = cloud.Placement{Interface: p.Interface, PodUID: p.PodUID}
		}
	}
	return places
}

// owners are the networks of pools of fixed addresses, for the watch of leases.
type owners struct {
	mu struct {
		sync.Mutex
		byPool map[string]string
	}
}

// set replaces the pools of a network.
func (o *owners) set(network string, pools map[string]fixedPool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.DeleteFunc(o.mu.byPool, func(_, owner string) bool { return owner == network })
	if o.mu.byPool == nil {
		o.mu.byPool = map[string]string{}
	}
	for name := range pools {
		o.mu.byPool[name] = network
	}
}

// of returns the networks of the pools with leases in a block.
func (o *owners) of(block *v2beta1.SpiderIPBlock) (networks []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range block.Spec.Leases {
		if network, ok := o.mu.byPool[block.Spec.Leases[i].Pool]; ok && !slices.Contains(networks, network) {
			networks = append(networks, network)
		}
	}
	return networks
}

// leaseDelay collects leases that come together.
const leaseDelay = 100 * time.Millisecond

// fixedLeases queues a SpiderCloudNetwork after a change of the leases of its fixed addresses.
func (r *Reconciler) fixedLeases() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	add := func(q queue, objects ...client.Object) {
		for _, o := range objects {
			for _, network := range r.owners.of(o.(*v2beta1.SpiderIPBlock)) {
				q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKey{Name: network}}, leaseDelay)
			}
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { add(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { add(q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { add(q, e.Object) },
	}
}

// placement is a change of the status of a pool. It returns false if the address needs no entry any more.
type placement func(p *v2beta1.CloudPlacement) (keep bool)

// place changes placements of a pool, unless another process has changed them since the caller read the pool. Counts and conditions may
// have changed. The pool then has the new placements.
func (r *Reconciler) place(ctx context.Context, pool *v2beta1.SpiderIPPool, changes map[netip.Addr]placement) (*v2beta1.SpiderIPPool, error) {
	is, based := pool, pool.Status.Placements
	for attempt := 0; ; attempt++ {
		want := is.DeepCopy()
		want.Status.Placements = placed(want.Status.Placements, changes)
		if equality.Semantic.DeepEqual(is.Status.Placements, want.Status.Placements) {
			return is, nil
		}
		err := r.patchStatus(ctx, is, want)
		if err == nil {
			return want, nil
		}
		latest := &v2beta1.SpiderIPPool{}
		readErr := r.Live.Get(ctx, client.ObjectKeyFromObject(pool), latest)
		if attempt == 3 || readErr != nil || latest.UID != pool.UID || !equality.Semantic.DeepEqual(latest.Status.Placements, based) {
			return nil, fmt.Errorf("write the placements of SpiderIPPool %s: %w", pool.Name, errors.Join(err, readErr))
		}
		is = latest
	}
}

// patchStatus changes the status of an object, unless the object has changed since.
func (r *Reconciler) patchStatus(ctx context.Context, is, want client.Object) error {
	return behind(r.client.Status().Patch(ctx, want, client.MergeFromWithOptions(is, client.MergeFromWithOptimisticLock{})))
}

// placed returns the placements after the changes, in the order of addresses.
func placed(is []v2beta1.CloudPlacement, changes map[netip.Addr]placement) []v2beta1.CloudPlacement {
	byAddr := map[netip.Addr]v2beta1.CloudPlacement{}
	for _, p := range is {
		if a, err := netip.ParseAddr(p.IP); err == nil {
			byAddr[a] = p
		}
	}
	for a, change := range changes {
		p := byAddr[a]
		p.IP = a.String()
		if change(&p) {
			byAddr[a] = p
		} else {
			delete(byAddr, a)
		}
	}
	var out []v2beta1.CloudPlacement
	for _, a := range sortedAddrs(byAddr) {
		out = append(out, byAddr[a])
	}
	return out
}

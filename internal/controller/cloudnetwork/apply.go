package cloudnetwork

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/observe"
)

// maxRanges is the limit of spec.ips of a SpiderReservedIP.
const maxRanges = 4096

var (
	// errForeign is the refusal to change an object of another owner.
	errForeign = errors.New("another owner has it, and the controller leaves it as it is; delete it, or give it another name")
	// errBehind is the end of a write because the cache is behind the API server.
	errBehind = errors.New("the cache is behind")
)

// apply writes the plan. Reservations come first, so that a crash leaves no address in
// service that the cloud has taken away. A refusal of the API server concerns one object
// and is a fault; the others are written. After an error, the caller tries again. It is a fault,
// too, unless the cache was behind.
func (r *Reconciler) apply(ctx context.Context, network *v2beta1.SpiderCloudNetwork, in *input, plan cloud.Plan) ([]cloud.Issue, error) {
	var w writes
	// Discover takes no address out of a pool before it sees the reservation: without one,
	// the pools can be written.
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		w.refused(r.reserve(ctx, network, family, plan.Reserved.And(inet.OfPrefix(family.Everything()))))
	}
	if len(w.errs) > 0 {
		return w.faults, w.err()
	}
	r.announce(in, plan)
	for _, i := range network.Spec.Interfaces {
		if i.Master != "" {
			w.refused(r.attach(ctx, network, i))
		}
	}
	for _, p := range plan.Pools {
		w.refused(r.putPool(ctx, network, in.pools[p.Name], p, in.room[p.Name]))
	}
	for _, name := range plan.Delete {
		w.refused(r.deletePool(ctx, in.pools[name]))
	}
	return w.faults, w.err()
}

// writes collects the errors of writes.
type writes struct {
	faults []cloud.Issue
	errs   []error
}

// refused adds the error of a write, or none.
func (w *writes) refused(err error) {
	switch {
	case err == nil:
	case apierrors.IsConflict(err), errors.Is(err, errBehind):
		w.errs = append(w.errs, err)
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsNotFound(err), errors.Is(err, errForeign):
		w.faults = append(w.faults, cloud.Issue{Reason: "Refused", Text: err.Error()})
	default:
		w.errs = append(w.errs, err)
		w.faults = append(w.faults, cloud.Issue{Reason: "WriteFailed", Text: err.Error()})
	}
}

func (w *writes) err() error { return errors.Join(w.errs...) }

// announce records an event for each pool that loses addresses.
func (r *Reconciler) announce(in *input, plan cloud.Plan) {
	for _, name := range slices.Sorted(maps.Keys(plan.Gone)) {
		gone := plan.Gone[name]
		var holders []string
		for _, l := range in.leases[name] {
			if gone.Contains(l.Addr) {
				holders = append(holders, fmt.Sprintf("%s of %s", l.Addr, l.Pod))
			}
		}
		r.status.Recorder.Record(in.pools[name], nil, observe.AddressesGone(gone.String(), holders))
	}
}

// create creates an object of the network. It returns errForeign if the cache has one of another
// owner with the name, and errBehind if it does not show the present one yet.
func (r *Reconciler) create(ctx context.Context, network *v2beta1.SpiderCloudNetwork, o client.Object) error {
	err := r.client.Create(ctx, o)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	present := o.DeepCopyObject().(client.Object)
	if err := r.client.Get(ctx, client.ObjectKeyFromObject(o), present); err != nil || metav1.IsControlledBy(present, network) {
		return errBehind
	}
	return errForeign
}

// patch changes an object from the cache, unless it has changed since.
func (r *Reconciler) patch(ctx context.Context, is, want client.Object) error {
	return behind(r.client.Patch(ctx, want, client.MergeFromWithOptions(is, client.MergeFromWithOptimisticLock{})))
}

// behind returns errBehind for a change of an object that exists in the cache only.
func behind(err error) error {
	if apierrors.IsNotFound(err) {
		return errBehind
	}
	return err
}

// putPool creates or changes a pool. Fields that the plan does not know stay the user's.
func (r *Reconciler) putPool(ctx context.Context, network *v2beta1.SpiderCloudNetwork, is *v2beta1.SpiderIPPool, p cloud.Device, room int64) error {
	if is == nil {
		pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: p.Name}}
		fill(pool, network, p, room)
		if err := r.create(ctx, network, pool); err != nil {
			return fmt.Errorf("create SpiderIPPool %s: %w", p.Name, err)
		}
		r.log.InfoContext(ctx, "pool created", "pool", p.Name, "node", p.Node, "interface", p.Interface, "ips", p.IPs.String())
		return nil
	}
	want := is.DeepCopy()
	fill(want, network, p, room)
	if equality.Semantic.DeepEqual(is, want) {
		return nil
	}
	// While the cloud answered, pods came and went, and the status of the pool counted them.
	latest := &v2beta1.SpiderIPPool{}
	if r.client.Get(ctx, client.ObjectKeyFromObject(is), latest) == nil && latest.UID == is.UID && equality.Semantic.DeepEqual(latest.Spec, is.Spec) {
		is, want = latest, latest.DeepCopy()
		fill(want, network, p, room)
	}
	if err := r.patch(ctx, is, want); err != nil {
		return fmt.Errorf("change SpiderIPPool %s: %w", p.Name, err)
	}
	r.log.InfoContext(ctx, "pool changed", "pool", p.Name, "ips", p.IPs.String())
	return nil
}

// fill sets the fields of a pool that follow from the cloud.
func fill(pool *v2beta1.SpiderIPPool, network *v2beta1.SpiderCloudNetwork, p cloud.Device, room int64) {
	i := slices.IndexFunc(network.Spec.Interfaces, func(i v2beta1.CloudInterface) bool { return int(i.Device) == p.Device })
	pool.OwnerReferences = ownedBy(network)
	if pool.Labels == nil {
		pool.Labels = map[string]string{}
	}
	pool.Labels[names.LabelCloudNetwork] = network.Name
	pool.Labels[names.LabelCloudInterface] = p.Interface
	delete(pool.Annotations, names.AnnotationPoolAssignable)
	if room > 0 {
		metav1.SetMetaDataAnnotation(&pool.ObjectMeta, names.AnnotationPoolAssignable, strconv.FormatInt(room, 10))
	}
	pool.Spec.Subnet = p.Subnet.String()
	if current, errs := compile.Pool(pool); len(errs) > 0 || !current.IPs.Equal(p.IPs) {
		pool.Spec.IPs = p.IPs.Strings()
	}
	pool.Spec.Gateway = nil
	if p.Gateway.IsValid() {
		pool.Spec.Gateway = new(p.Gateway.String())
	}
	pool.Spec.NodeName = []string{p.Node}
	pool.Spec.MultusName = []string{network.Spec.Interfaces[i].MultusName}
	pool.Spec.Default = network.Spec.Default
	compile.CompletePool(pool)
}

// ownedBy returns the reference with which Kubernetes deletes an object after its network.
func ownedBy(network *v2beta1.SpiderCloudNetwork) []metav1.OwnerReference {
	return []metav1.OwnerReference{{
		APIVersion: v2beta1.GroupVersion.String(), Kind: "SpiderCloudNetwork", Name: network.Name, UID: network.UID, Controller: new(true),
	}}
}

// deletePool deletes a pool. Its finalizer keeps it until its last address is released.
func (r *Reconciler) deletePool(ctx context.Context, pool *v2beta1.SpiderIPPool) error {
	err := r.client.Delete(ctx, pool, client.Preconditions{UID: &pool.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete SpiderIPPool %s: %w", pool.Name, err)
	}
	r.log.InfoContext(ctx, "pool deleted", "pool", pool.Name)
	return nil
}

// reserve makes the network's SpiderReservedIP of a family hold the addresses. It leaves one
// of another owner alone.
func (r *Reconciler) reserve(ctx context.Context, network *v2beta1.SpiderCloudNetwork, family inet.Family, addrs inet.Set) error {
	name := fmt.Sprintf("spiderpool-cloud-%s-ipv%d", network.Name, int(family))
	is := &v2beta1.SpiderReservedIP{}
	err := r.client.Get(ctx, client.ObjectKey{Name: name}, is)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read SpiderReservedIP %s: %w", name, err)
	}
	want, exists := addrs.Strings(), err == nil
	want = want[:min(len(want), maxRanges)]
	switch {
	case exists && !metav1.IsControlledBy(is, network):
		return fmt.Errorf("reserve addresses that the cloud takes away with SpiderReservedIP %s: %w", name, errForeign)
	case exists && slices.Equal(is.Spec.IPs, want), !exists && len(want) == 0:
		return nil
	case len(want) == 0:
		err = client.IgnoreNotFound(r.client.Delete(ctx, is, client.Preconditions{UID: &is.UID}))
	case exists:
		is = is.DeepCopy()
		is.Spec.IPs = want
		err = behind(r.client.Update(ctx, is))
	default:
		err = r.create(ctx, network, &v2beta1.SpiderReservedIP{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{names.LabelCloudNetwork: network.Name}, OwnerReferences: ownedBy(network)},
			Spec:       v2beta1.SpiderReservedIPSpec{IPVersion: new(int64(family)), IPs: want},
		})
	}
	if err != nil {
		return fmt.Errorf("write SpiderReservedIP %s: %w", name, err)
	}
	return nil
}

// attach creates the SpiderMultusConfig of an interface. It changes only its own.
func (r *Reconciler) attach(ctx context.Context, network *v2beta1.SpiderCloudNetwork, i v2beta1.CloudInterface) error {
	namespace, name, _ := strings.Cut(i.MultusName, "/")
	is := &v2beta1.SpiderMultusConfig{}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, is)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read SpiderMultusConfig %s: %w", i.MultusName, err)
	}
	kind := v2beta1.CNIIPvlan
	if err != nil {
		config := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, OwnerReferences: ownedBy(network)}}
		config.Spec.CNIType, config.Spec.IPvlan = &kind, &v2beta1.MasterConfig{Master: []string{i.Master}}
		if err := r.create(ctx, network, config); err != nil {
			return fmt.Errorf("create SpiderMultusConfig %s: %w", i.MultusName, err)
		}
		return nil
	}
	if !metav1.IsControlledBy(is, network) || is.Spec.IPvlan != nil && slices.Equal(is.Spec.IPvlan.Master, []string{i.Master}) {
		return nil
	}
	want := is.DeepCopy()
	want.Spec.CNIType, want.Spec.IPvlan = &kind, &v2beta1.MasterConfig{Master: []string{i.Master}}
	if err := r.patch(ctx, is, want); err != nil {
		return fmt.Errorf("change SpiderMultusConfig %s: %w", i.MultusName, err)
	}
	return nil
}

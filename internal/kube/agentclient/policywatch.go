package agentclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
)

// Kinds of policies, as PolicySink names them.
const (
	NetworkPolicies = "NetworkPolicies"
	ClusterPolicies = "ClusterNetworkPolicies"
)

// PolicySink receives the policies of the cluster.
type PolicySink interface {
	SetPolicy(p *policy.Policy)
	DeletePolicy(name policy.Name)
	SetClusterPolicy(p *policy.ClusterPolicy)
	DeleteClusterPolicy(name policy.Name)
	// Synced is called once all policies of a kind have been received.
	Synced(kind string)
}

// WatchPolicies passes the policies of the cluster to the sink until ctx ends. The controller reports their faults.
func (c *Client) WatchPolicies(ctx context.Context, to PolicySink, log *slog.Logger) {
	network := &mirror[policy.Policy]{
		convert: func(object any) *policy.Policy {
			p, _ := compile.NetworkPolicy(object.(*networkingv1.NetworkPolicy))
			return p
		},
		set: to.SetPolicy, remove: to.DeletePolicy, synced: func() { to.Synced(NetworkPolicies) },
	}
	cluster := &mirror[policy.ClusterPolicy]{
		convert: func(object any) *policy.ClusterPolicy {
			p, _ := compile.ClusterNetworkPolicy(object.(*npv1beta1.ClusterNetworkPolicy))
			return p
		},
		set: to.SetClusterPolicy, remove: to.DeleteClusterPolicy, synced: func() { to.Synced(ClusterPolicies) },
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		watchObjects(ctx, log, c.networking, "networkpolicies", metav1.ListOptions{}, &networkingv1.NetworkPolicy{}, network)
	})
	wg.Go(func() {
		lw := optional(ctx, c.policies, clusterPolicyResource, listWatch(c.policies, clusterPolicyResource, metav1.ListOptions{}), cluster)
		reflect(ctx, log, lw, clusterPolicyResource, &npv1beta1.ClusterNetworkPolicy{}, cluster)
	})
	wg.Wait()
}

const clusterPolicyResource = "clusternetworkpolicies"

// optional returns a ListWatch of a kind that the cluster may not have. It then has no objects, until a later list finds
// some. If the API server serves the kind in another version only, the list is an error: the objects are unknown.
func optional[T any](ctx context.Context, client rest.Interface, resource string, lw *cache.ListWatch, to *mirror[T]) *cache.ListWatch {
	list := lw.ListWithContextFunc
	lw.ListWithContextFunc = func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		objects, err := list(ctx, options)
		if !apierrors.IsNotFound(err) {
			return objects, err
		}
		if other := otherVersion(ctx, client, resource); other != nil {
			return nil, other
		}
		// The deletion of a definition deletes the objects first, so the mirror is empty, unless the watch missed it.
		_ = to.Replace(nil, "")
		return nil, err
	}
	return lw
}

// otherVersion returns an error if a version of the client's API group, other than that of the client, has the resource.
func otherVersion(ctx context.Context, client rest.Interface, resource string) error {
	group := client.APIVersion().Group
	var versions metav1.APIGroup
	err := client.Get().AbsPath("/apis", group).Do(ctx).Into(&versions)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the versions of %s: %w", group, err)
	}
	for _, v := range versions.Versions {
		var resources metav1.APIResourceList
		if err := client.Get().AbsPath("/apis", group, v.Version).Do(ctx).Into(&resources); err != nil {
			return fmt.Errorf("read the resources of %s: %w", v.GroupVersion, err)
		}
		for _, r := range resources.APIResources {
			if r.Name == resource {
				return fmt.Errorf("the API server has %s in version %s, but not in %s; install the definition of network-policy-api v0.3.0", resource, v.GroupVersion, client.APIVersion())
			}
		}
	}
	return nil
}

// mirror passes the objects of a kind on as values. It keeps their names only.
type mirror[T any] struct {
	convert func(object any) *T // nil for an object without effect
	set     func(*T)
	remove  func(policy.Name)
	synced  func()
	names   map[policy.Name]bool
}

// mirrored is an object after its conversion.
type mirrored[T any] struct {
	name  policy.Name
	value *T
}

// Transformer implements cache.TransformingStore: the reflector never holds a list of whole objects.
func (m *mirror[T]) Transformer() cache.TransformFunc {
	return func(object any) (any, error) { return m.of(object), nil }
}

func (m *mirror[T]) of(object any) mirrored[T] {
	if done, ok := object.(mirrored[T]); ok {
		return done
	}
	return mirrored[T]{policyName(object), m.convert(object)}
}

func policyName(object any) policy.Name {
	o := object.(metav1.Object)
	return policy.Name{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// Add implements cache.ReflectorStore.
func (m *mirror[T]) Add(object any) error { return m.Update(object) }

// Resync implements cache.ReflectorStore.
func (*mirror[T]) Resync() error { return nil }

// Update implements cache.ReflectorStore.
func (m *mirror[T]) Update(object any) error {
	is := m.of(object)
	if is.value == nil {
		m.drop(is.name)
		return nil
	}
	if m.names == nil {
		m.names = map[policy.Name]bool{}
	}
	m.names[is.name] = true
	m.set(is.value)
	return nil
}

// Delete implements cache.ReflectorStore.
func (m *mirror[T]) Delete(object any) error {
	m.drop(policyName(object))
	return nil
}

func (m *mirror[T]) drop(name policy.Name) {
	if m.names[name] {
		delete(m.names, name)
		m.remove(name)
	}
}

// Replace implements cache.ReflectorStore.
func (m *mirror[T]) Replace(objects []any, _ string) error {
	listed := make(map[policy.Name]bool, len(objects))
	var errs []error
	for _, object := range objects {
		is := m.of(object)
		listed[is.name] = true
		errs = append(errs, m.Update(is))
	}
	for name := range m.names {
		if !listed[name] {
			m.drop(name)
		}
	}
	m.synced()
	return errors.Join(errs...)
}

// FollowGroup passes the slices of a peer group to changed until ctx ends: nil for a slice that does not exist. Calls are
// serialized.
//
// The API server finds the watchers of one name without comparing selectors, so the first object is watched by its name.
// Few groups have more than a thousand members; their further objects are watched by a label.
func (c *Client) FollowGroup(ctx context.Context, group string, changed func(index int, slice *compile.PeerSlice), log *slog.Logger) {
	f := &groupFollower{client: c, group: group, changed: changed, log: log}
	first := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, group).String()}
	store := f.mirror(func(is *compile.PeerSlice) {
		if is.Slices > 1 {
			f.followOthers(ctx)
		}
	})
	watchObjects(ctx, log, c.spiderpool, peerGroupResource, first, &v2beta1.SpiderPeerGroup{}, store)
	f.others.Wait()
}

const peerGroupResource = "spiderpeergroups"

// groupFollower follows the objects of one group.
type groupFollower struct {
	client *Client
	group  string
	log    *slog.Logger

	mu      sync.Mutex
	changed func(index int, slice *compile.PeerSlice)
	started bool
	others  sync.WaitGroup
}

// followOthers watches the objects behind the first one.
func (f *groupFollower) followOthers(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.started {
		return
	}
	f.started = true
	labeled := metav1.ListOptions{LabelSelector: compile.PeerGroupLabel(f.group)}
	f.others.Go(func() {
		watchObjects(ctx, f.log, f.client.spiderpool, peerGroupResource, labeled, &v2beta1.SpiderPeerGroup{}, f.mirror(func(*compile.PeerSlice) {}))
	})
}

// mirror returns a store that reports the objects. then is called after each.
func (f *groupFollower) mirror(then func(*compile.PeerSlice)) *mirror[compile.PeerSlice] {
	tell := func(index int, slice *compile.PeerSlice) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.changed(index, slice)
	}
	return &mirror[compile.PeerSlice]{
		convert: func(object any) *compile.PeerSlice {
			if slice, ok := compile.PeerGroup(object.(*v2beta1.SpiderPeerGroup)); ok && slice.Group == f.group {
				return &slice
			}
			return nil
		},
		set: func(is *compile.PeerSlice) {
			tell(is.Index, is)
			then(is)
		},
		remove: func(name policy.Name) {
			if _, index, ok := compile.ParsePeerGroupName(name.Name); ok {
				tell(index, nil)
			}
		},
		synced: func() {},
	}
}

// NamedPorts reads the named ports of a pod. A pod with another UID is ipam.ErrNotFound.
func (c *Client) NamedPorts(ctx context.Context, name lease.PodKey, uid string) ([]policy.NamedPort, error) {
	object, err := c.ReadPod(ctx, name.Namespace, name.Name)
	if apierrors.IsNotFound(err) || err == nil && uidOf(object) != uid {
		return nil, fmt.Errorf("pod %s with UID %s: %w", name, uid, ipam.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if pod := compile.PolicyPod(object); pod != nil {
		return pod.Ports, nil
	}
	return nil, nil
}

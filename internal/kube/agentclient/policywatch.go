package agentclient

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
)

// Kinds of policies, as PolicySink names them.
const (
	NetworkPolicies = "NetworkPolicies"
	ClusterPolicies = "ClusterNetworkPolicies"
	MultiPolicies   = "MultiNetworkPolicies"
)

// PolicySink receives the policies of the cluster.
type PolicySink interface {
	// SetPolicy receives NetworkPolicies and MultiNetworkPolicies.
	SetPolicy(p *policy.Policy)
	DeletePolicy(name policy.Name)
	SetClusterPolicy(p *policy.ClusterPolicy)
	DeleteClusterPolicy(name policy.Name)
	// Synced is called once all policies of a kind have been received.
	Synced(kind string)
}

// WatchPolicies passes the policies of the cluster to the sink until ctx ends. The controller reports their faults.
func (c *Client) WatchPolicies(ctx context.Context, to PolicySink, log *slog.Logger) {
	network := policyMirror(to.SetPolicy, to.DeletePolicy, func() { to.Synced(NetworkPolicies) }, false, func(o *networkingv1.NetworkPolicy) *policy.Policy {
		p, _ := compile.NetworkPolicy(o)
		return p
	})
	cluster := policyMirror(to.SetClusterPolicy, to.DeleteClusterPolicy, func() { to.Synced(ClusterPolicies) }, false, func(o *npv1beta1.ClusterNetworkPolicy) *policy.ClusterPolicy {
		p, _ := compile.ClusterNetworkPolicy(o)
		return p
	})
	multi := policyMirror(to.SetPolicy, to.DeletePolicy, func() { to.Synced(MultiPolicies) }, true, func(o *multipolicy.MultiNetworkPolicy) *policy.Policy {
		p, _ := compile.MultiNetworkPolicy(o)
		return p
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		watchObjects(ctx, log, c.networking, "networkpolicies", metav1.ListOptions{}, &networkingv1.NetworkPolicy{}, network)
	})
	wg.Go(func() {
		watchOptional(ctx, log, c.policies, clusterPolicyResource, "install the definition of network-policy-api v0.3.0", &npv1beta1.ClusterNetworkPolicy{}, cluster)
	})
	wg.Go(func() {
		watchOptional(ctx, log, c.multi, multiPolicyResource, "install the definition of the chart (policy.installCRDs.multiNetworkPolicy)", &multipolicy.MultiNetworkPolicy{}, multi)
	})
	wg.Wait()
}

// policyMirror returns the store of a kind of policies. multi is whether their names are those of MultiNetworkPolicies.
func policyMirror[O, T any](set func(*T), remove func(policy.Name), synced func(), multi bool, compile func(O) *T) *mirror[T] {
	return &mirror[T]{
		convert: func(object any) *T { return compile(object.(O)) },
		set:     func(p *T, _ origin) { set(p) },
		remove: func(name key, _ origin) {
			remove(policy.Name{Namespace: name.namespace, Name: name.name, Multi: multi})
		},
		synced: synced,
	}
}

const (
	clusterPolicyResource = "clusternetworkpolicies"
	multiPolicyResource   = "multi-networkpolicies"
)

// watchOptional watches a kind that the cluster may not have. It then has no objects, until a later list finds some. If the
// API server serves the kind in another version only, the list is an error with the way out: the objects are unknown.
func watchOptional[T any](ctx context.Context, log *slog.Logger, client rest.Interface, resource, wayOut string, example runtime.Object, to *mirror[T]) {
	lw := listWatch(client, resource, metav1.ListOptions{})
	list := lw.ListWithContextFunc
	lw.ListWithContextFunc = func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		objects, err := list(ctx, options)
		if !apierrors.IsNotFound(err) {
			return objects, err
		}
		if other := otherVersion(ctx, client, resource, wayOut); other != nil {
			return nil, other
		}
		// The deletion of a definition deletes the objects first, so the mirror is empty, unless the watch missed it.
		_ = to.Replace(nil, "")
		return nil, err
	}
	reflect(ctx, log, lw, resource, example, to)
}

// otherVersion returns an error if a version of the client's API group, other than that of the client, has the resource.
func otherVersion(ctx context.Context, client rest.Interface, resource, wayOut string) error {
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
				return fmt.Errorf("the API server has %s in version %s, but not in %s; %s", resource, v.GroupVersion, client.APIVersion(), wayOut)
			}
		}
	}
	return nil
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
		set: func(is *compile.PeerSlice, _ origin) {
			tell(is.Index, is)
			then(is)
		},
		remove: func(name key, _ origin) {
			if _, index, ok := compile.ParsePeerGroupName(name.name); ok {
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

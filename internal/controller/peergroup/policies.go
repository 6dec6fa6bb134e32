package peergroup

import (
	"context"
	"errors"
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/policy"
)

// policyKind is a kind of policies.
type policyKind struct {
	object func() client.Object
	groups func(client.Object) []policy.Group
	// definition is the name of the CustomResourceDefinition of an optional kind.
	definition string
	kind       schema.GroupVersionKind
}

var policyKinds = map[objectKind]policyKind{
	networkPolicies: {
		object: func() client.Object { return &networkingv1.NetworkPolicy{} },
		groups: func(o client.Object) []policy.Group {
			compiled, _ := compile.NetworkPolicy(o.(*networkingv1.NetworkPolicy))
			return compiled.Groups()
		},
	},
	clusterPolicies: {
		object: func() client.Object { return &npv1beta1.ClusterNetworkPolicy{} },
		groups: func(o client.Object) []policy.Group {
			compiled, _ := compile.ClusterNetworkPolicy(o.(*npv1beta1.ClusterNetworkPolicy))
			return compiled.Groups()
		},
		definition: "clusternetworkpolicies.policy.networking.k8s.io",
		kind:       schema.GroupVersion(npv1beta1.GroupVersion).WithKind("ClusterNetworkPolicy"),
	},
	multiPolicies: {
		object: func() client.Object { return &multipolicy.MultiNetworkPolicy{} },
		groups: func(o client.Object) []policy.Group {
			compiled, _ := compile.MultiNetworkPolicy(o.(*multipolicy.MultiNetworkPolicy))
			return compiled.Groups()
		},
		definition: "multi-networkpolicies.k8s.cni.cncf.io",
		kind:       multipolicy.GroupVersion.WithKind("MultiNetworkPolicy"),
	},
}

// isOptional reports whether o is the CustomResourceDefinition of a kind of policies.
func isOptional(o client.Object) bool {
	for _, k := range policyKinds {
		if k.definition == o.GetName() {
			return true
		}
	}
	return false
}

// watchOptional starts the watches of optional kinds that the API server serves. pending means that a kind is defined, but
// not served yet: the API server serves it about a second after the last event of its definition.
func (r *Reconciler) watchOptional(ctx context.Context) (pending bool, err error) {
	for kind, k := range policyKinds {
		if k.definition == "" || r.watched[kind] {
			continue
		}
		_, mapped := r.mapper.RESTMapping(k.kind.GroupKind(), k.kind.Version)
		switch {
		case meta.IsNoMatchError(mapped):
			found := r.client.Get(ctx, client.ObjectKey{Name: k.definition}, emptyDefinition())
			pending = pending || found == nil
			err = errors.Join(err, client.IgnoreNotFound(found))
		case mapped != nil:
			err = errors.Join(err, fmt.Errorf("look up the kind %s: %w", k.kind.GroupKind(), mapped))
		default:
			if watch := r.controller.Watch(source.Kind(r.cache, k.object(), r.note(kind))); watch != nil {
				err = errors.Join(err, fmt.Errorf("watch %s: %w", k.kind.GroupKind(), watch))
				continue
			}
			r.watched[kind] = true
		}
	}
	return pending, err
}

// loadPolicies reads all policies of a built-in kind.
func (r *Reconciler) loadPolicies(ctx context.Context, kind objectKind) error {
	var list networkingv1.NetworkPolicyList
	if err := r.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	for i := range list.Items {
		r.setPolicy(ctx, change{kind, client.ObjectKeyFromObject(&list.Items[i])}, &list.Items[i])
	}
	return nil
}

func (r *Reconciler) readPolicy(ctx context.Context, c change) error {
	object := policyKinds[c.kind].object()
	err := r.client.Get(ctx, c.key, object, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		delete(r.reported, c)
		r.index.setPolicy(c.policy(), nil, r.clock.Now())
		return nil
	}
	if err != nil {
		return err
	}
	r.setPolicy(ctx, c, object)
	return nil
}

// policy returns the name of a policy.
func (c change) policy() policy.Name {
	return policy.Name{Namespace: c.key.Namespace, Name: c.key.Name, Multi: c.kind == multiPolicies}
}

// setPolicy sets the groups of a policy. Package policyfault reports its invalid parts.
func (r *Reconciler) setPolicy(ctx context.Context, c change, object client.Object) {
	refused := r.index.setPolicy(c.policy(), policyKinds[c.kind].groups(object), r.clock.Now())
	if len(refused) == 0 {
		delete(r.reported, c)
		return
	}
	r.retryAt = r.clock.Now().Add(refusedDelay)
	r.report(ctx, c, object, beyondLimits(c.key.Namespace, refused[0].String(), len(refused)))
}

// beyondLimits says which peers have no addresses.
func beyondLimits(namespace, first string, n int) string {
	return fmt.Sprintf("%d peers, e.g. %q, exceed what the policies of namespace %s may select together, %d pairs of selectors with %d addresses; select fewer pods",
		n, first, namespace, defaultLimits.groups, defaultLimits.members)
}

// report writes an event about a policy, once for each text.
func (r *Reconciler) report(ctx context.Context, c change, object client.Object, text string) {
	if r.reported[c] != text {
		r.reported[c] = text
		r.recorder.RecordOnce(ctx, r.live, object, observe.TooManyPeers(text))
	}
}

// Package policyfault tells the authors of policies which parts of them are invalid: in an event, and for a
// ClusterNetworkPolicy in a condition, too. Such parts fail closed; package compile says how.
package policyfault

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
	"spiderpool.dev/spiderpool/internal/kube/status"
	"spiderpool.dev/spiderpool/internal/observe"
)

// conditionValid is the type of our condition of a ClusterNetworkPolicy. It has a domain, because other implementations of the
// kind write conditions, too.
const conditionValid = "spiderpool.spidernet.io/Valid"

const (
	fieldManager = "spiderpool-controller"
	// maxFaults bounds the faults in one text, and maxMessage the text of a condition, in bytes: an author may write many.
	maxFaults, maxMessage = 10, 4096
)

// kind is a kind of policies.
type kind struct {
	name string // of the controller
	// definition is the name of the CustomResourceDefinition, empty for a kind of every cluster.
	definition string
	object     client.Object
	faults     func(client.Object) field.ErrorList
}

var kinds = []kind{
	{"networkpolicy", "", &networkingv1.NetworkPolicy{}, func(o client.Object) field.ErrorList {
		_, errs := compile.NetworkPolicy(o.(*networkingv1.NetworkPolicy))
		return errs
	}},
	{"clusternetworkpolicy", "clusternetworkpolicies." + npv1beta1.GroupName, &npv1beta1.ClusterNetworkPolicy{}, func(o client.Object) field.ErrorList {
		_, errs := compile.ClusterNetworkPolicy(o.(*npv1beta1.ClusterNetworkPolicy))
		return errs
	}},
	{"multinetworkpolicy", "multi-networkpolicies." + multipolicy.GroupVersion.Group, &multipolicy.MultiNetworkPolicy{}, func(o client.Object) field.ErrorList {
		_, errs := compile.MultiNetworkPolicy(o.(*multipolicy.MultiNetworkPolicy))
		return errs
	}},
}

// Reconciler tells the faults of the policies of one kind.
type Reconciler struct {
	kind
	status     status.Writer
	live       client.Reader
	cache      cache.Cache
	mapper     meta.RESTMapper
	controller controller.Controller

	mu struct {
		sync.Mutex
		watches bool
		told    map[types.NamespacedName]fault
	}
}

// fault is the last event about a policy.
type fault struct {
	uid  types.UID
	text string
}

// All returns a reconciler for each kind; w writes the events and the conditions. live reads from the API server.
func All(w status.Writer, live client.Reader) (all []*Reconciler) {
	for _, k := range kinds {
		r := &Reconciler{kind: k, status: w, live: live}
		r.mu.told = map[types.NamespacedName]fault{}
		all = append(all, r)
	}
	return all
}

// Name is the name of the controller in logs and metrics.
func (r *Reconciler) Name() string { return "policyfault-" + r.name }

// Register adds the reconciler to the manager. A kind without a definition is watched once it has one.
func (r *Reconciler) Register(mgr ctrl.Manager) (err error) {
	r.cache, r.mapper = mgr.GetCache(), mgr.GetRESTMapper()
	b := ctrl.NewControllerManagedBy(mgr).Named(r.Name())
	if r.definition == "" {
		return b.For(r.object).Complete(r)
	}
	definition := &metav1.PartialObjectMetadata{}
	definition.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	isOurs := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetName() == r.definition })
	r.controller, err = b.WatchesMetadata(definition, &handler.EnqueueRequestForObject{}, builder.WithPredicates(isOurs)).Build(r)
	return err
}

// watch watches the kind, whose definition exists. The API server serves a new kind about a second after the last event of
// its definition, so a failure is to be tried again.
func (r *Reconciler) watch() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.definition == "" || r.mu.watches {
		return nil
	}
	gvk, err := r.status.Client.GroupVersionKindFor(r.object)
	if err != nil {
		return err
	}
	if _, err := r.mapper.RESTMapping(gvk.GroupKind(), gvk.Version); err != nil {
		return fmt.Errorf("look up the kind %s: %w", gvk.GroupKind(), err)
	}
	if err := r.controller.Watch(source.Kind[client.Object](r.cache, r.object, &handler.EnqueueRequestForObject{})); err != nil {
		return fmt.Errorf("watch %s: %w", gvk.GroupKind(), err)
	}
	r.mu.watches = true
	return nil
}

// Reconcile tells the faults of one policy. The request may have the name of the definition.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	if r.definition != "" && request.Namespace == "" && request.Name == r.definition {
		return ctrl.Result{}, r.watch()
	}
	object := r.object.DeepCopyObject().(client.Object)
	if err := r.status.Client.Get(ctx, request.NamespacedName, object); err != nil {
		if client.IgnoreNotFound(err) == nil {
			r.forget(request.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	text := ""
	if errs := r.faults(object); len(errs) > 0 {
		text = errs[:min(len(errs), maxFaults)].ToAggregate().Error()
	}
	r.tell(ctx, object, text)
	if cluster, ok := object.(*npv1beta1.ClusterNetworkPolicy); ok {
		return ctrl.Result{}, r.writeCondition(ctx, cluster, text)
	}
	return ctrl.Result{}, nil
}

func (r *Reconciler) forget(name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.mu.told, name)
}

// tell writes an event if the faults changed. An earlier process may have told them.
func (r *Reconciler) tell(ctx context.Context, about client.Object, text string) {
	name, now := client.ObjectKeyFromObject(about), fault{about.GetUID(), text}
	if text == "" {
		r.forget(name)
		return
	}
	r.mu.Lock()
	told := r.mu.told[name] == now
	r.mu.told[name] = now
	r.mu.Unlock()
	if cluster, ok := about.(*npv1beta1.ClusterNetworkPolicy); told || ok && shows(cluster, text) {
		return
	}
	r.status.Recorder.RecordOnce(ctx, r.live, about, observe.InvalidPolicy(text))
}

// shows reports whether our condition has the faults.
func shows(object *npv1beta1.ClusterNetworkPolicy, faults string) bool {
	c := meta.FindStatusCondition(object.Status.Conditions, conditionValid)
	return c != nil && c.Status == metav1.ConditionFalse && c.Message == messageOf(faults)
}

func messageOf(faults string) string {
	return observe.Truncate("invalid parts fail closed: "+faults, maxMessage)
}

// writeCondition writes our condition only, by an apply patch of the status.
func (r *Reconciler) writeCondition(ctx context.Context, object *npv1beta1.ClusterNetworkPolicy, faults string) error {
	want := metav1.Condition{
		Type: conditionValid, Status: metav1.ConditionTrue, Reason: "Valid", Message: "all parts are valid", ObservedGeneration: object.Generation,
	}
	if faults != "" {
		want.Status, want.Reason, want.Message = metav1.ConditionFalse, "Invalid", messageOf(faults)
	}
	conditions := object.Status.DeepCopy().Conditions
	if !meta.SetStatusCondition(&conditions, want) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"apiVersion": npv1beta1.GroupVersion.String(), "kind": "ClusterNetworkPolicy",
		"metadata": map[string]any{"name": object.Name, "uid": object.UID},
		"status":   map[string]any{"conditions": []metav1.Condition{*meta.FindStatusCondition(conditions, conditionValid)}},
	})
	if err != nil {
		return err
	}
	err = r.status.Client.Status().Patch(ctx, object, client.RawPatch(types.ApplyPatchType, patch), client.FieldOwner(fieldManager), client.ForceOwnership)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("write the condition of ClusterNetworkPolicy %s: %w", object.Name, err)
	}
	return nil
}

package startuptaint

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// cloudWorld is a node with a ready agent in a cloud.
type cloudWorld struct {
	node    *corev1.Node
	network *v2beta1.SpiderCloudNetwork
	pool    *v2beta1.SpiderIPPool
	clouds  bool
}

func newCloudWorld() *cloudWorld {
	w := &cloudWorld{node: taintedNode(), network: &v2beta1.SpiderCloudNetwork{ObjectMeta: metav1.ObjectMeta{Name: "aws", UID: "u1"}}, clouds: true}
	w.node.Spec.ProviderID = "aws:///eu-central-1a/i-1"
	w.network.Spec.Provider, w.network.Spec.Region = v2beta1.CloudAWS, "eu-central-1"
	w.pool = &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "aws-a-0-v4", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: v2beta1.GroupVersion.String(), Kind: "SpiderCloudNetwork", Name: "aws", UID: "u1", Controller: new(true)},
	}}}
	w.pool.Spec.NodeName = []string{"a"}
	w.pool.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: metav1.ConditionTrue}}
	return w
}

func TestTaintStaysUntilFirstPool(t *testing.T) {
	for name, test := range map[string]struct {
		edit  func(*cloudWorld)
		stays bool
	}{
		"ready pool":          {func(*cloudWorld) {}, false},
		"no pool":             {func(w *cloudWorld) { w.pool.Spec.NodeName = []string{"b"} }, true},
		"pool not ready":      {func(w *cloudWorld) { w.pool.Status.Conditions[0].Status = metav1.ConditionFalse }, true},
		"pool disabled":       {func(w *cloudWorld) { w.pool.Spec.Disable = new(true) }, true},
		"pool of user":        {func(w *cloudWorld) { w.pool.OwnerReferences = nil }, true},
		"pool of predecessor": {func(w *cloudWorld) { w.network.UID = "u2" }, true},
		"not yet initialized": {func(w *cloudWorld) {
			w.node.Spec.Taints = append(w.node.Spec.Taints, corev1.Taint{Key: taintUninitialized, Effect: corev1.TaintEffectNoSchedule})
		}, true},
		"other cloud":  {func(w *cloudWorld) { w.pool.OwnerReferences, w.node.Spec.ProviderID = nil, "kind://docker/a" }, false},
		"other region": {func(w *cloudWorld) { w.pool.OwnerReferences, w.node.Spec.ProviderID = nil, "aws:///us-west-2a/i-1" }, false},
		"alibaba, own region": {func(w *cloudWorld) {
			w.pool.OwnerReferences, w.node.Spec.ProviderID = nil, "cn-hangzhou.i-1"
			w.network.Spec.Provider, w.network.Spec.Region = v2beta1.CloudAlibaba, "cn-hangzhou"
		}, true},
		"alibaba, other region": {func(w *cloudWorld) {
			w.pool.OwnerReferences, w.node.Spec.ProviderID = nil, "alicloud://cn-beijing.i-1"
			w.network.Spec.Provider, w.network.Spec.Region = v2beta1.CloudAlibaba, "cn-hangzhou"
		}, false},
		"own region": {func(w *cloudWorld) { w.pool.OwnerReferences, w.network.Spec.Region = nil, "" }, true},
		"selected": {func(w *cloudWorld) {
			w.pool.OwnerReferences, w.node.Labels = nil, map[string]string{"pods": "aws"}
			w.network.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: w.node.Labels}
		}, true},
		"not selected": {func(w *cloudWorld) {
			w.pool.OwnerReferences, w.network.Spec.NodeSelector = nil, &metav1.LabelSelector{MatchLabels: map[string]string{"pods": "aws"}}
		}, false},
		"service, known node":   {func(w *cloudWorld) { w.pool.OwnerReferences, w.network.Spec.Provider = nil, v2beta1.CloudIaaS }, true},
		"service, unknown node": {func(w *cloudWorld) { w.network.Spec.Provider, w.node.Spec.ProviderID = v2beta1.CloudIaaS, "" }, false},
		"no clouds":             {func(w *cloudWorld) { w.pool.OwnerReferences, w.clouds = nil, false }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCloudWorld()
			test.edit(w)
			before := w.node.DeepCopy().Spec.Taints
			c := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(w.node, w.network, w.pool, agent(func(*corev1.Pod) {})).Build()
			got, err := reconcileWith(t, c, Options{Namespace: "kube-system", DaemonSet: "agent", Clouds: w.clouds})
			if want := []corev1.Taint{other}; err != nil || !test.stays && cmp.Diff(want, got) != "" || test.stays && cmp.Diff(before, got) != "" {
				t.Errorf("%v, taints %v", err, got)
			}
		})
	}
}

// A pool wakes up its node, and a changed network those with the taint.
func TestPoolsWakeUpTheirNode(t *testing.T) {
	w := newCloudWorld()
	free := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "free"}}
	r := &Reconciler{client: fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(w.node, free).Build()}
	a := []reconcile.Request{{NamespacedName: client.ObjectKey{Name: "a"}}}
	if diff := cmp.Diff(a, nodeOfPool(t.Context(), w.pool)); diff != "" {
		t.Errorf("pool (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(a, r.taintedNodes(t.Context(), w.network)); diff != "" {
		t.Errorf("network (-want +got):\n%s", diff)
	}
}

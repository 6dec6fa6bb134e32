package startuptaint

import (
	"context"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

var other = corev1.Taint{Key: "example.org/maintenance", Effect: corev1.TaintEffectNoExecute}

func taintedNode() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{
		{Key: names.TaintAgentNotReady, Effect: corev1.TaintEffectNoSchedule}, other, {Key: names.TaintAgentNotReady, Effect: corev1.TaintEffectNoExecute},
	}}}
}

// agent returns the ready agent of node a.
func agent(edit func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "agent-x", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "agent", Controller: ptr.To(true)},
		}},
		Spec:   corev1.PodSpec{NodeName: "a"},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	edit(pod)
	return pod
}

func reconcileA(t *testing.T, c client.Client) ([]corev1.Taint, error) {
	t.Helper()
	return reconcileWith(t, c, Options{Namespace: "kube-system", DaemonSet: "agent"})
}

func reconcileWith(t *testing.T, c client.Client, options Options) ([]corev1.Taint, error) {
	t.Helper()
	r := New(c, c, options, slog.New(slog.DiscardHandler))
	_, failure := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: "a"}})
	node := &corev1.Node{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "a"}, node); err != nil {
		t.Fatal(err)
	}
	return node.Spec.Taints, failure
}

func TestReadyAgentEndsStartupTaint(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(*corev1.Pod)
		want []corev1.Taint
	}{
		"ready":     {func(*corev1.Pod) {}, []corev1.Taint{other}},
		"not ready": {func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }, taintedNode().Spec.Taints},
		"unknown":   {func(p *corev1.Pod) { p.Status.Conditions = nil }, taintedNode().Spec.Taints},
		"elsewhere": {func(p *corev1.Pod) { p.Spec.NodeName = "b" }, taintedNode().Spec.Taints},
		"stranger":  {func(p *corev1.Pod) { p.OwnerReferences = nil }, taintedNode().Spec.Taints},
		"not owned": {func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil }, taintedNode().Spec.Taints},
		"namespace": {func(p *corev1.Pod) { p.Namespace = "default" }, taintedNode().Spec.Taints},
		"another":   {func(p *corev1.Pod) { p.OwnerReferences[0].Name = "multus" }, taintedNode().Spec.Taints},
	} {
		c := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(taintedNode(), agent(test.edit)).Build()
		got, err := reconcileA(t, c)
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

// Another client taints the node between our read and our patch.
func TestTaintOfAnotherClientStays(t *testing.T) {
	late, done := corev1.Taint{Key: "example.org/late", Effect: corev1.TaintEffectNoSchedule}, false
	c := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(taintedNode(), agent(func(*corev1.Pod) {})).
		WithInterceptorFuncs(interceptor.Funcs{Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, options ...client.PatchOption) error {
			if !done {
				done = true
				node := &corev1.Node{}
				if err := c.Get(ctx, client.ObjectKeyFromObject(o), node); err != nil {
					return err
				}
				node.Spec.Taints = append(node.Spec.Taints, late)
				if err := c.Update(ctx, node); err != nil {
					return err
				}
			}
			return c.Patch(ctx, o, patch, options...)
		}}).Build()
	if _, err := reconcileA(t, c); err == nil {
		t.Error("the patch did not conflict")
	}
	got, err := reconcileA(t, c)
	if diff := cmp.Diff([]corev1.Taint{other, late}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

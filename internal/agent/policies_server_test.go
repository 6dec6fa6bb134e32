//go:build apiserver

package agent

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/wire"
)

// The sandboxes of this test have no network namespace, so a pod that a policy selects cannot be isolated.
func TestPodWithoutIsolationDoesNotStart(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	w.pool("v4", func(p *v2beta1.SpiderIPPool) { v4("10.1.0.10-10.1.0.40")(p); p.Spec.Default = new(true) })
	a := w.agent(node)
	selected := w.pod("selected", node, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web"} })
	other := w.pod("other", node)
	policy := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "web"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		},
	}
	add := func(to *running, pod *corev1.Pod, container string) error {
		_, err := to.Add(t.Context(), wire.AddRequest{Attachment: attachment(pod, container, "eth0")})
		return err
	}
	if err := add(a, selected, "c1"); err != nil {
		t.Errorf("before the policy: %v", err)
	}
	kubetest.Create(w, w, policy)
	kubetest.Eventually(t, func(context.Context) error {
		if err := add(a, selected, "c2"); err == nil {
			return errors.New("the pod starts although a policy selects it")
		}
		return nil
	})
	refused := add(a, selected, "c3")
	wantCode(t, refused, wire.CodeTryAgainLater, "network policies of pod "+w.namespace+"/selected are not in effect yet", "/run/netns/x")
	if err := add(a, other, "c4"); err != nil {
		t.Errorf("a pod that no policy selects: %v", err)
	}
	if _, err := a.Coordinator(t.Context(), wire.CoordinatorRequest{Attachment: attachment(selected, "c3", "eth0")}); err == nil {
		t.Error("the coordinator's request succeeds")
	} else {
		wantCode(t, err, wire.CodeTryAgainLater, "/run/netns/x")
	}
	if err := a.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment(selected, "c3", "eth0")}); err != nil {
		t.Error(err)
	}
	a.stop()

	off := w.agent(node, func(cfg *config.Agent) { cfg.Policy.Enabled = false })
	if err := add(off, selected, "c5"); err != nil {
		t.Errorf("with policy.enabled=false: %v", err)
	}
	off.stop()
	kubetest.Remove(t, w, policy)
	last := w.agent(node)
	if err := add(last, selected, "c6"); err != nil {
		t.Errorf("without the policy: %v", err)
	}
}

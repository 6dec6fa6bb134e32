//go:build apiserver

package agentclient_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

func clusterOf(t *testing.T, node string) *agentclient.Cluster {
	t.Helper()
	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", ""))
	if err != nil {
		t.Fatal(err)
	}
	return agentclient.NewCluster(kubeClient, node, slog.New(slog.DiscardHandler))
}

// podIn creates a pod with the status. A finalizer keeps it in the API server after its
// deletion.
func podIn(t *testing.T, c client.Client, namespace, name string, status corev1.PodStatus) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Finalizers: []string{"example.com/kept"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.example/app:1"}}},
	}
	kubetest.Create(t, c, pod)
	pod.Status = status
	if err := c.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

func TestPodStateIsReadLive(t *testing.T) {
	c, cluster := kubetest.Client(t), clusterOf(t, "n1")
	namespace := kubetest.Namespace(t, c)
	addressed := []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}
	for name, tc := range map[string]struct {
		status  corev1.PodStatus
		deleted bool
		want    reclaim.Pod // without UID and deadline
	}{
		"without-status": {corev1.PodStatus{}, false, reclaim.Pod{}},
		"addressless":    {corev1.PodStatus{Phase: corev1.PodRunning}, false, reclaim.Pod{Phase: "Running"}},
		"running": {corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: addressed}, false,
			reclaim.Pod{Phase: "Running", HasAddress: true}},
		"succeeded": {corev1.PodStatus{Phase: corev1.PodSucceeded, PodIP: "10.0.0.1", PodIPs: addressed}, false,
			reclaim.Pod{Phase: "Succeeded", HasAddress: true}},
		"failed": {corev1.PodStatus{Phase: corev1.PodFailed}, false, reclaim.Pod{Phase: "Failed"}},
		"terminating": {corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: addressed}, true,
			reclaim.Pod{Phase: "Running", HasAddress: true}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := podIn(t, c, namespace, name, tc.status)
			tc.want.Presence, tc.want.UID = reclaim.Exists, string(pod.UID)
			if tc.deleted {
				if err := c.Delete(t.Context(), pod); err != nil {
					t.Fatal(err)
				}
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
					t.Fatal(err)
				}
				tc.want.Terminating, tc.want.Grace = true, time.Duration(*pod.DeletionGracePeriodSeconds)*time.Second
			}
			got, err := cluster.PodState(t.Context(), lease.PodKey{Namespace: namespace, Name: name})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("pod state (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMissingPodIsGone(t *testing.T) {
	c, cluster := kubetest.Client(t), clusterOf(t, "n1")
	namespace := kubetest.Namespace(t, c)
	pod := podIn(t, c, namespace, "was-here", corev1.PodStatus{Phase: corev1.PodRunning})
	kubetest.Remove(t, c, pod)
	for _, tc := range []lease.PodKey{
		{Namespace: namespace, Name: "was-here"},
		{Namespace: namespace, Name: "never-was"},
		{Namespace: "no-such-namespace", Name: "was-here"},
	} {
		t.Run(tc.String(), func(t *testing.T) {
			got, err := cluster.PodState(t.Context(), tc)
			if err != nil || got != (reclaim.Pod{Presence: reclaim.Gone}) {
				t.Errorf("got %+v, error %v; want gone", got, err)
			}
		})
	}
}

// The watch may be behind a new namespace.
func TestUnknownNamespaceIsReadLive(t *testing.T) {
	c, cluster := kubetest.Client(t), clusterOf(t, "n1")
	name := kubetest.Namespace(t, c)
	if got, err := cluster.Namespace(t.Context(), name); err != nil || got.Labels[corev1.LabelMetadataName] != name {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := cluster.Namespace(t.Context(), name+"-missing"); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("a missing one: got %v", err)
	}
}

func TestNodeStateIsReadLive(t *testing.T) {
	c := kubetest.Client(t)
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: status}
	}
	for name, tc := range map[string]struct {
		conditions []corev1.NodeCondition
		want       reclaim.Node
	}{
		"new": {nil, reclaim.Node{Presence: reclaim.Exists}},
		"ready": {[]corev1.NodeCondition{condition("Ready", "True"), condition("MemoryPressure", "False")},
			reclaim.Node{Presence: reclaim.Exists, Ready: true}},
		"not-ready": {
			[]corev1.NodeCondition{condition("MemoryPressure", "True"), condition("Ready", "False"), condition("DiskPressure", "True")},
			reclaim.Node{Presence: reclaim.Exists}},
		"silent": {[]corev1.NodeCondition{condition("Ready", "Unknown")}, reclaim.Node{Presence: reclaim.Exists}},
	} {
		t.Run(name, func(t *testing.T) {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "state-" + name}}
			kubetest.Create(t, c, node)
			node.Status.Conditions = tc.conditions
			if err := c.Status().Update(t.Context(), node); err != nil {
				t.Fatal(err)
			}
			cluster := clusterOf(t, node.Name)
			if got, err := cluster.NodeState(t.Context()); err != nil || got != tc.want {
				t.Errorf("got %+v, error %v; want %+v", got, err, tc.want)
			}
			kubetest.Remove(t, c, node)
			if got, err := cluster.NodeState(t.Context()); err != nil || got != (reclaim.Node{Presence: reclaim.Gone}) {
				t.Errorf("after its deletion: got %+v, error %v; want gone", got, err)
			}
		})
	}
}

func TestUnreadableObjectIsNotGone(t *testing.T) {
	config := kubetest.Config(t)
	config.Impersonate.UserName = "nobody"
	kubeClient, err := agentclient.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx     context.Context
		cluster *agentclient.Cluster
		want    func(error) bool
	}{
		"forbidden": {t.Context(), agentclient.NewCluster(kubeClient, "n1", slog.New(slog.DiscardHandler)), apierrors.IsForbidden},
		"cancelled": {cancelled, clusterOf(t, "n1"), func(err error) bool { return errors.Is(err, context.Canceled) }},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := tc.cluster.PodState(tc.ctx, lease.PodKey{Namespace: "default", Name: "p"}); !tc.want(err) || got != (reclaim.Pod{}) {
				t.Errorf("pod: got %+v, error %v", got, err)
			}
			if got, err := tc.cluster.NodeState(tc.ctx); !tc.want(err) || got != (reclaim.Node{}) {
				t.Errorf("node: got %+v, error %v", got, err)
			}
		})
	}
}

//go:build apiserver

package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func daemonSet(namespace, name string) *appsv1.DaemonSet {
	labels := map[string]string{"app": name}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec("")},
		},
	}
}

func podSpec(node string) corev1.PodSpec {
	return corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "example.org/c"}}}
}

// leased is a block whose leases belong to the pods.
func leased(name string, pods ...*corev1.Pod) *v2beta1.SpiderIPBlock {
	block := &v2beta1.SpiderIPBlock{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v2beta1.SpiderIPBlockSpec{CIDR: name + "/28"}}
	for i, pod := range pods {
		block.Spec.Leases = append(block.Spec.Leases, v2beta1.Lease{
			IP: fmt.Sprintf("%s%d", strings.TrimSuffix(name, "0"), i), State: v2beta1.LeaseInUse,
			Pod: pod.Namespace + "/" + pod.Name, PodUID: compile.PodUID(pod.UID, pod.Annotations), ContainerID: "c", Interface: "eth0",
		})
	}
	return block
}

func TestStopRefusesWhilePodsRun(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	account := under(t, "spiderpool-init-remove", namespace)
	running := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "running"}, Spec: podSpec("n")}
	static := running.DeepCopy() // the API server has its mirror
	static.Name, static.Annotations = "static", map[string]string{corev1.MirrorPodAnnotationKey: "of-file"}
	agent := daemonSet(namespace, "spiderpool-agent")
	kubetest.Create(t, c, running, static, agent)
	gone := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "gone", UID: "u"}}
	former := running.DeepCopy() // an earlier pod of the same name
	former.Name, former.UID = "running", "former"
	kubetest.Create(t, c, leased("10.77.0.0", gone, running, static), leased("10.77.1.0", former))

	kubetest.Create(t, c, marker(namespace)) // of an earlier removal
	marked := func() bool {
		err := c.Get(t.Context(), client.ObjectKeyFromObject(marker(namespace)), &corev1.ConfigMap{})
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		return err == nil
	}

	r := Removal{Namespace: namespace, Stopped: []string{"spiderpool-agent", "spiderpool-multus"}}
	err := r.Stop(t.Context(), slog.New(slog.DiscardHandler), account)
	if err == nil || !strings.Contains(err.Error(), "2 pods have addresses of Spiderpool: "+namespace+"/running, "+namespace+"/static.") {
		t.Fatalf("error %v", err)
	}
	get(t, c, namespace, "spiderpool-agent", agent)
	if agent.DeletionTimestamp != nil {
		t.Fatal("the agent was deleted although the removal was refused")
	}
	if marked() {
		t.Error("the nodes are cleaned although the removal was refused")
	}

	r.WithRunningPods = true
	finish(t, c, agent)
	if err := r.Stop(t.Context(), slog.New(slog.DiscardHandler), account); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(agent), agent); !apierrors.IsNotFound(err) {
		t.Errorf("the agent is still there: %v", err)
	}
	if !marked() {
		t.Error("the cleaner never starts")
	}
}

// finish ends the foreground deletion of a DaemonSet in place of the garbage collector,
// which does not run here.
func finish(t *testing.T, c client.Client, set *appsv1.DaemonSet) {
	t.Helper()
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		kubetest.Eventually(t, func(ctx context.Context) error {
			now := &appsv1.DaemonSet{}
			if err := c.Get(ctx, client.ObjectKeyFromObject(set), now); err != nil {
				return client.IgnoreNotFound(err)
			}
			if now.DeletionTimestamp == nil {
				return errors.New("not being deleted")
			}
			now.Finalizers = nil
			return client.IgnoreNotFound(c.Update(ctx, now))
		})
	}()
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

func TestAwaitNamesUncleanNodes(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	account := under(t, "spiderpool-init-remove", namespace)
	cleaner := daemonSet(namespace, "spiderpool-init-clean")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "cleaner-1", Labels: map[string]string{"app": "spiderpool-init-clean"}}, Spec: podSpec("node-1")}
	kubetest.Create(t, c, cleaner, pod)
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "clean", LastTerminationState: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "read-only file system\n"},
	}}}
	if err := c.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	cleaner.Status = appsv1.DaemonSetStatus{ObservedGeneration: cleaner.Generation, DesiredNumberScheduled: 2, NumberReady: 1}
	if err := c.Status().Update(t.Context(), cleaner); err != nil {
		t.Fatal(err)
	}
	r := Removal{Namespace: namespace, Cleaner: "spiderpool-init-clean"}
	ctx, cancel := context.WithCancelCause(t.Context())
	// The first look at the DaemonSet is the last one.
	looked := slog.New(slog.NewTextHandler(writer(func(line []byte) {
		if bytes.Contains(line, []byte("1 of 2 nodes are clean")) {
			cancel(errors.New("timeout of this test"))
		}
	}), nil))
	err := r.Await(ctx, looked, account)
	for _, want := range []string{"1 of 2 nodes are clean", "timeout of this test", "not clean: node-1 (read-only file system)."} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}

	cleaner.Status.NumberReady = 2
	if err := c.Status().Update(t.Context(), cleaner); err != nil {
		t.Fatal(err)
	}
	var out output
	if err := r.Await(t.Context(), out.logger(), account); err != nil || !strings.Contains(out.String(), "all nodes are clean") {
		t.Errorf("%v\n%s", err, &out)
	}
}

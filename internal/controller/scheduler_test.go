//go:build apiserver

package controller_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// scheduler runs the real kube-scheduler until the end of the test.
func scheduler(t *testing.T, c client.Client) {
	t.Helper()
	account := kubetest.Account(t, "kube-system", "kube-scheduler", "")
	kubetest.Create(t, c, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "test-kube-scheduler"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "kube-system", Name: "kube-scheduler"}},
	})
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, kubetest.Kubeconfig(t, account), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	output := &lockedBuffer{}
	// The directory of the API server has it, too.
	command := exec.CommandContext(ctx, filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kube-scheduler"),
		"--kubeconfig="+file, "--leader-elect=false", "--secure-port=0")
	command.Stdout, command.Stderr = output, output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("kube-scheduler: %s", output)
		}
	})
}

// sched is a node with two addresses, with a controller and a scheduler.
type sched struct {
	*testing.T
	client.Client
	namespace, resource string
	block               *v2beta1.SpiderIPBlock
}

// pod returns a pod of the network, or of none.
func (s *sched) pod(name string, ours bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}}
	if ours {
		p.Annotations = map[string]string{"v1.multus-cni.io/default-network": s.namespace + "/ens5"}
	}
	p.Spec = corev1.PodSpec{
		Containers:  []corev1.Container{{Name: "c", Image: "i"}},
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, // the taints of nodes without a kubelet
	}
	return p
}

// create creates a pod with a request of addresses.
func (s *sched) create(name string) *corev1.Pod {
	s.Helper()
	var p *corev1.Pod
	kubetest.Eventually(s.T, func(ctx context.Context) error {
		p = s.pod(name, true)
		if err := s.Create(ctx, p, client.DryRunAll); err != nil {
			return err
		}
		if got := p.Spec.Containers[0].Resources.Requests[corev1.ResourceName(s.resource)]; got.Value() != 1 {
			return fmt.Errorf("the webhook requests %s of %s", got.String(), s.resource)
		}
		p = s.pod(name, true)
		return s.Create(ctx, p)
	})
	s.Cleanup(func() { kubetest.Remove(s.T, s.Client, p) })
	return p
}

func (s *sched) placed(p *corev1.Pod) {
	s.Helper()
	kubetest.Eventually(s.T, func(ctx context.Context) error {
		if err := s.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if p.Spec.NodeName == "" {
			return fmt.Errorf("pod %s waits: %+v", p.Name, p.Status.Conditions)
		}
		return nil
	})
}

// refused waits until the scheduler has refused a pod, and returns its message.
func (s *sched) refused(p *corev1.Pod) (message string) {
	s.Helper()
	kubetest.Eventually(s.T, func(ctx context.Context) error {
		if err := s.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				message = c.Message
				return nil
			}
		}
		return fmt.Errorf("pod %s is on node %q", p.Name, p.Spec.NodeName)
	})
	return message
}

func (s *sched) offers(want int64) {
	s.Helper()
	kubetest.Eventually(s.T, func(ctx context.Context) error {
		node := &corev1.Node{}
		if err := s.Get(ctx, client.ObjectKey{Name: "sched-1"}, node); err != nil {
			return err
		}
		for _, list := range []corev1.ResourceList{node.Status.Capacity, node.Status.Allocatable} {
			if got, ok := list[corev1.ResourceName(s.resource)]; !ok || got.Value() != want {
				return fmt.Errorf("the node offers %s, want %d", got.String(), want)
			}
		}
		return nil
	})
}

// lease makes the pods the holders of addresses, as the agent does.
func (s *sched) lease(pods ...*corev1.Pod) {
	s.Helper()
	s.block.Spec.Leases = nil
	for i, p := range pods {
		s.block.Spec.Leases = append(s.block.Spec.Leases, v2beta1.Lease{
			IP: fmt.Sprintf("10.77.0.%d", 16+i), State: v2beta1.LeaseInUse, Pool: "sched-1-v4", Pod: s.namespace + "/" + p.Name, PodUID: string(p.UID),
			ContainerID: "c-" + p.Name, Interface: "eth0", Node: "sched-1", Since: metav1.NewTime(time.Now()),
		})
	}
	write := s.Update
	if s.block.ResourceVersion == "" {
		write = func(ctx context.Context, o client.Object, _ ...client.UpdateOption) error { return s.Create(ctx, o) }
	}
	if err := write(s.Context(), s.block); err != nil {
		s.Fatal(err)
	}
}

// Two addresses, three pods, and the real kube-scheduler. The node of the controller offers none.
func TestPodWithoutAddressStaysPending(t *testing.T) {
	c := kubetest.Client(t)
	s := &sched{T: t, Client: c, namespace: kubetest.Namespace(t, c)}
	s.resource = "addresses.ipam.spidernet.io/" + s.namespace + ".ens5"
	s.block = &v2beta1.SpiderIPBlock{ObjectMeta: metav1.ObjectMeta{Name: "10.77.0.16"}, Spec: v2beta1.SpiderIPBlockSpec{CIDR: "10.77.0.16/28", Node: "sched-1"}}
	cfg := configuration(t, s.namespace)
	cfg.AddressResource.Enabled = true
	kubetest.WebhooksWith(t, c, "secure", s.namespace, cfg.Webhook.Port)
	r := runAt(t, kubetest.RoleWith(t, "secure", "spiderpool-controller", s.namespace, "controller-node"), cfg)
	kubetest.Eventually(t, r.ready)
	scheduler(t, c)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "sched-1"}}
	kubetest.Create(t, c, node)
	node.Status.Capacity = corev1.ResourceList{"cpu": resource.MustParse("8"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("110")}
	node.Status.Allocatable = node.Status.Capacity
	if err := c.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "sched-1-v4"}}
	pool.Spec.Subnet, pool.Spec.IPs = "10.77.0.0/24", []string{"10.77.0.16-10.77.0.17"}
	pool.Spec.Default, pool.Spec.NodeName, pool.Spec.MultusName = new(true), []string{"sched-1"}, []string{s.namespace + "/ens5"}
	kubetest.Create(t, c, pool)
	s.offers(2)

	// They have no addresses yet when the third one comes.
	first, second := s.create("first"), s.create("second")
	s.placed(first)
	s.placed(second)
	third := s.create("third")
	message := s.refused(third)
	t.Log(message)
	if want := "2 Insufficient " + s.resource + "."; !strings.Contains(message, want) {
		t.Errorf("the scheduler says %q, want %q", message, want)
	}
	s.lease(first, second)
	t.Cleanup(func() { kubetest.Remove(t, c, s.block) })
	s.offers(2)

	// A pod of another network needs no address.
	other := s.pod("other", false)
	kubetest.Create(t, c, other)
	if len(other.Spec.Containers[0].Resources.Requests) > 0 {
		t.Errorf("a pod of another network requests %v", other.Spec.Containers[0].Resources.Requests)
	}
	s.placed(other)

	// The first one ends as the kubelet ends it.
	s.lease(second)
	if err := c.Delete(t.Context(), first, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	s.placed(third)
}

//go:build apiserver

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/wire"
	"spiderpool.dev/spiderpool/test/docblocks"
)

// labSymptoms are the objects of TestSymptoms in test/e2e. There, the kubelet starts the pods.
const labSymptoms = "../../test/e2e/testdata/l2/symptoms/"

// shows compares an output with the block of the pages.
func shows(t *testing.T, name, printed string) {
	t.Helper()
	if err := docblocks.Shows(name, printed); err != nil {
		t.Error(err)
	}
}

// told waits for an event about an object, and returns it in the order of kubectl describe: type, reason, text. The
// namespace of a node is empty.
func (w *world) told(kind, namespace, name, reason string) (line string) {
	w.Helper()
	kubetest.Eventually(w, func(ctx context.Context) error {
		var list eventsv1.EventList
		if err := w.List(ctx, &list); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.Kind == kind && e.Regarding.Namespace == namespace && e.Regarding.Name == name && e.Reason == reason {
				line = fmt.Sprintf("%s %s %s", e.Type, e.Reason, e.Note)
				return nil
			}
		}
		return fmt.Errorf("no event %s is about %s %s", reason, kind, name)
	})
	return line
}

// createLab creates the objects of a file of labSymptoms, with the pods on a node, and returns the pods.
func (w *world) createLab(file, node string) (pods []*corev1.Pod) {
	w.Helper()
	content, err := os.ReadFile(labSymptoms + file)
	if err != nil {
		w.Fatal(err)
	}
	for document := range bytes.SplitSeq(content, []byte("\n---\n")) {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal(document, &head); err != nil {
			w.Fatal(err)
		}
		switch head.Kind {
		case "SpiderIPPool":
			pool := &v2beta1.SpiderIPPool{}
			err = yaml.UnmarshalStrict(document, pool)
			kubetest.Create(w, w, pool)
		case "Pod":
			pod := &corev1.Pod{}
			err = yaml.UnmarshalStrict(document, pod)
			inDefault(pod)
			pod.Spec.NodeName = node
			kubetest.Create(w, w, pod)
			pods = append(pods, pod)
		default:
			err = fmt.Errorf("%s has a %s", file, head.Kind)
		}
		if err != nil {
			w.Fatal(err)
		}
	}
	return pods
}

// TestPagesShowWhyPodsWait gives the pods of the lab to an agent. What it answers is in the event FailedCreatePodSandBox
// of the kubelet.
func TestPagesShowWhyPodsWait(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	for name, address := range map[string]func(*v2beta1.SpiderIPPool){"lan-v4": v4("10.1.128.10-10.1.128.99"), "lan-v6": v6("fd00:1::10-fd00:1::6f")} {
		pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{names.LabelPoolUnbound: "true"}}}
		address(pool)
		pool.Spec.Default = new(true)
		kubetest.Create(t, w, pool)
	}
	net1 := labAttachment()
	kubetest.Create(t, w, net1)
	a := w.agent(node)
	for _, holder := range w.createLab("10-holder.yaml", node) {
		if _, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(holder, holder.Name, "eth0")}); err != nil {
			t.Fatal(err)
		}
	}
	waiting := w.createLab("20-waiting.yaml", node)
	for _, pod := range waiting {
		t.Run(pod.Name, func(t *testing.T) {
			_, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(pod, pod.Name, "eth0")})
			if err == nil {
				t.Fatal("the pod gets its addresses")
			}
			shows(t, pod.Annotations["example.org/symptom"], err.Error())
		})
	}
	if len(waiting) < 7 {
		t.Errorf("only %d pods wait", len(waiting))
	}
}

// labAttachment is the network of net1 in the lab.
func labAttachment() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"namespace": "kube-system", "name": "macvlan-ens5"},
		"spec":     map[string]any{"config": `{"cniVersion":"1.0.0","name":"macvlan-ens5","plugins":[{"type":"macvlan","master":"ens5","ipam":{"type":"spiderpool"}}]}`},
	}}
}

// inDefault makes a pod one of namespace default that ends at once, because no kubelet terminates it.
func inDefault(p *corev1.Pod) {
	p.Namespace, p.Spec.TerminationGracePeriodSeconds = metav1.NamespaceDefault, new(int64(0))
}

// add creates a pod in namespace default and runs its ADD.
func (w *world) add(a *running, node, name string, change ...func(*corev1.Pod)) (*corev1.Pod, wire.AddRequest, wire.AddReply, error) {
	w.Helper()
	pod := w.pod(name, node, append(change, inDefault)...)
	req := wire.AddRequest{Attachment: attachment(pod, string(pod.UID), "eth0")}
	reply, err := a.Add(w.Context(), req)
	return pod, req, reply, err
}

func TestPagesShowPodWithoutPool(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	_, _, _, err := w.add(w.agent(node), node, "web-0")
	if err == nil {
		t.Fatal("the pod gets an address")
	}
	shows(t, "no-default-pool", w.told("Pod", "default", "web-0", "FailedAllocateIP"))
	if !strings.Contains(err.Error(), "no SpiderIPPool has spec.default: true") {
		t.Errorf("the CNI error is %v", err)
	}
}

// lan creates a pool of the network 10.6.0.0/16.
func (w *world) lan(name string, ips ...string) {
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{names.LabelPoolUnbound: "true"}}}
	pool.Spec.Subnet, pool.Spec.IPs, pool.Spec.Gateway = "10.6.0.0/16", ips, new("10.6.0.1")
	kubetest.Create(w, w, pool)
}

func fromPool(name string) func(*corev1.Pod) {
	return annotated(names.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q]}`, name))
}

func TestPagesShowOutage(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	w.lan("lan-v4", "10.6.128.10-10.6.128.99")
	pod := w.pod("web-0", node, fromPool("lan-v4"), inDefault) // the agent's first list has it
	away := newSwitch(t)
	a := w.agentAt(away.config(t, node), node)
	away.off()
	_, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(pod, "c1", "eth0")})
	wantCode(t, err, wire.CodeTryAgainLater)
	shows(t, "api-server-away", err.Error())
}

func TestPagesShowUnlistedPodOfVirtualMachine(t *testing.T) {
	w := newWorld(t)
	definitions := envtest.CRDInstallOptions{Paths: []string{"../controller/leasereclaim/testdata/kubevirt.yaml"}, ErrorIfPathMissing: true}
	if _, err := envtest.InstallCRDs(kubetest.Config(t), definitions); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := envtest.UninstallCRDs(kubetest.Config(t), definitions); err != nil {
			t.Error(err)
		}
	})
	instance := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance"}}
	instance.SetNamespace(metav1.NamespaceDefault)
	instance.SetName("vm")
	kubetest.Create(t, w, instance)
	node := w.node("n1")
	w.lan("lan-v4", "10.6.128.10-10.6.128.99")
	_, _, _, err := w.add(w.agent(node), node, "virt-launcher-vm-x7k2p", fromPool("lan-v4"), func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: "vm", UID: instance.GetUID(), Controller: new(true)}}
	})
	wantCode(t, err, wire.CodeTryAgainLater)
	shows(t, "kubevirt-pod-unlisted", err.Error())
}

// TestPagesShowConflicts reports what the plugin reports. The kernel tests of test/chains let it find another host.
func TestPagesShowConflicts(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	w.lan("lan-v4", "10.6.128.10")
	w.lan("storage", "10.6.129.10")
	a := w.agent(node)
	conflict := func(pod, pool string, control netip.Addr) error {
		_, req, reply, err := w.add(a, node, pod, fromPool(pool))
		if err != nil {
			t.Fatal(err)
		}
		return a.Conflict(t.Context(), wire.ConflictRequest{Attachment: req.Attachment, Address: reply.Addresses[0].Prefix.Addr(), MAC: "02:00:00:00:00:99", Control: control})
	}
	if err := conflict("web-0", "lan-v4", netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	shows(t, "ip-conflict", w.told("Pod", "default", "web-0", "IPConflict"))
	wantCode(t, conflict("web-1", "storage", netip.MustParseAddr("203.0.113.7")), wire.CodeTryAgainLater, "an address that no host can have")
	shows(t, "network-not-trusted", w.told("Node", "", node, "NetworkNotTrusted"))
}

func TestPagesShowAddressThatNoLongerFits(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	w.lan("web-v4", "10.6.128.10")
	w.lan("shop-v4", "10.6.129.10-10.6.129.19")
	a := w.agent(node)
	labels := map[string]string{"app": "web"}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "web"}, Spec: appsv1.StatefulSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		},
	}}
	kubetest.Create(t, w, set)
	owned := func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", UID: set.UID, Controller: new(true)}}
	}
	first, req, _, err := w.add(a, node, "web-0", fromPool("web-v4"), owned)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(t.Context(), wire.DeleteRequest{Attachment: req.Attachment}); err != nil {
		t.Fatal(err)
	}
	w.kill(first)
	if _, _, _, err := w.add(a, node, "web-0", fromPool("shop-v4"), owned); err != nil {
		t.Fatal(err)
	}
	shows(t, "owner-has-another", w.told("Pod", "default", "web-0", "ReclaimedIP"))
}

// TestPagesShowSilentRuntime looks a minute ahead, because a runtime may be silent for 30 s.
func TestPagesShowSilentRuntime(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	a := w.agent(node, func(cfg *config.Agent) { cfg.CRISockets = []string{"/run/crio/crio-of-test.sock"} })
	kubetest.Eventually(t, func(context.Context) error {
		if a.runtime.answers() {
			return errors.New("the agent has not asked the runtime yet")
		}
		return nil
	})
	a.runtime.mu.Lock()
	a.runtime.now = func() time.Time { return time.Now().Add(time.Minute) }
	a.runtime.mu.Unlock()
	if _, err := a.service.Runtime.Sandboxes(t.Context()); err == nil {
		t.Fatal("there is a runtime")
	}
	shows(t, "runtime-unavailable", w.told("Node", "", node, "RuntimeUnavailable"))
}

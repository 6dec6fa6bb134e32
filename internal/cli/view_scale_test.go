//go:build apiserver && scale

package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
)

const (
	manyPools     = 5000
	leasesPerPool = 4 // 20,000 in all, in 5,000 blocks
	attempts      = 5
)

// unmeasured are the commands that do not read the cluster, or do not end by themselves.
var unmeasured = []string{"connectivity probe", "connectivity serve", "connectivity test", "node", "observe", "service watch"}

// TestViewsOfLargeCluster measures each command as a process of its own, with 5,000 nodes, 5,000 pools, 20,000 leases, 20,000
// endpoints and 20,000 pods.
//
//	go test -tags 'apiserver scale' -run ViewsOfLargeCluster -v ./internal/cli
func TestViewsOfLargeCluster(t *testing.T) {
	namespace := createPools(t)
	kubetest.Create(t, kubetest.Client(t), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: configMap},
		Data:       map[string]string{configKey: "{apiVersion: config.spiderpool.spidernet.io/v1, kind: SpiderpoolConfiguration, multus: {defaultNetwork: kube-system/ipvlan}}"},
	}, &nadv1.NetworkAttachmentDefinition{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "ipvlan"},
		Spec:       nadv1.NetworkAttachmentDefinitionSpec{Config: `{"cniVersion":"1.0.0","name":"ipvlan","plugins":[{"type":"ipvlan","master":"eth0","ipam":{"type":"spiderpool","default_ipv4_ippool":["pool-*"]}}]}`},
	})
	startPod(t, namespace, "web-17-0", "10.0.1.17")
	file, dir := policyFile(t), t.TempDir()
	reader, admin := writeKubeconfig(t, kubetest.User(t, "spiderpool-reader")), writeKubeconfig(t, administrator(t))
	program := kubetest.Program(t, "spiderpoolctl")
	pod := namespace + "/web-17-0"
	measured := map[string]bool{}
	for _, command := range []string{
		"capacity --pods 5 --node node-17", "capacity --pods 5", "check --settle 0s", "ip list", "ip list -o wide", "ip list --node node-17", "ip who 10.0.1.18", "ip who 02:42:0a:00:01:12",
		"node show node-17", "pod explain " + pod, "policy diff --file " + file, "policy show " + pod, "policy trace --from " + pod + " --to 192.0.2.1:80",
		"pool list", "pool show pool-17", "pool usage pool-17", "preflight", "reclaim --dry-run", "release 10.0.1.18 --dry-run", "service explain default/kubernetes --node node-17",
		"service list --node node-17", "status", "support-bundle --output " + dir + "/bundle-%d.tar.gz",
	} {
		for known := range badInputs {
			measured[known] = measured[known] || strings.HasPrefix(command+" ", known+" ")
		}
		kubeconfig := reader
		if command == "preflight" {
			kubeconfig = admin
		}
		var took []time.Duration
		for n := range attempts {
			arguments := append(strings.Fields(strings.ReplaceAll(command, "%d", fmt.Sprint(n))), "--kubeconfig", kubeconfig)
			began := time.Now()
			out, err := exec.CommandContext(t.Context(), program, arguments...).CombinedOutput()
			took = append(took, time.Since(began))
			if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != exitFound) {
				t.Fatalf("%s: %v\n%s", command, err, out)
			}
		}
		slices.Sort(took)
		t.Logf("%-36s %s (median of %d), %s at most", strings.NewReplacer(namespace, "NS", dir, "DIR").Replace(command), took[attempts/2].Round(time.Millisecond), attempts, took[attempts-1].Round(time.Millisecond))
	}
	for command := range badInputs {
		if !measured[command] && !slices.Contains(unmeasured, command) {
			t.Errorf("%s is not measured", command)
		}
	}
}

// startPod makes a pod run, as its kubelet would. Policies concern running pods.
func startPod(t *testing.T, namespace, name, addr string) {
	t.Helper()
	c, pod := kubetest.Client(t), &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, pod); err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, addr, []corev1.PodIP{{IP: addr}}
	if err := c.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}

// createPools creates the pools, each with a node, a block, and its pods, and returns the namespace of the pods.
func createPools(t *testing.T) (namespace string) {
	t.Helper()
	c := kubetest.Client(t)
	namespace = kubetest.Namespace(t, c)
	kubetest.Each(t, manyPools, func(ctx context.Context, i int) error {
		objects, block := objectsOfPool(namespace, i)
		for _, object := range objects {
			if err := c.Create(ctx, object); err != nil {
				return err
			}
		}
		for k := range leasesPerPool {
			pod := podOfPool(namespace, i, k)
			if err := c.Create(ctx, pod); err != nil {
				return err
			}
			endpoint := lease.PodKey{Namespace: namespace, Name: pod.Name}
			block.Leases = append(block.Leases, lease.Lease{
				Addr: inet.BlockAddr(block.Base, k+1), State: lease.InUse, Pool: fmt.Sprintf("pool-%d", i), Since: threeAtNight(),
				Holder: lease.Holder{Attachment: lease.Attachment{ContainerID: strings.Repeat("0123456789abcdef", 4), Interface: "eth0"}, Pod: endpoint, PodUID: string(pod.UID), Node: block.Node},
			})
			if err := c.Create(ctx, endpointOfPool(block.Leases[k])); err != nil {
				return err
			}
		}
		return c.Create(ctx, compile.BlockObject(block))
	})
	return namespace
}

// objectsOfPool returns a pool and its node, and its block without leases.
func objectsOfPool(namespace string, i int) ([]client.Object, lease.Block) {
	base := netip.AddrFrom4([4]byte{10, byte(i >> 12), byte(i >> 4), byte(i << 4)})
	node := fmt.Sprintf("node-%d", i)
	return []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}},
		&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pool-%d", i)}, Spec: v2beta1.SpiderIPPoolSpec{
			AddressSpace: v2beta1.AddressSpace{Subnet: inet.BlockPrefix(base).String(), IPs: v2beta1.AddressRanges{base.Next().String() + "-" + inet.BlockAddr(base, 14).String()}},
			NodeName:     []string{node}, MultusName: []string{"kube-system/ipvlan"},
		}},
	}, lease.Block{Base: base, Node: node}
}

// podOfPool returns a pod with the annotation of Multus.
func podOfPool(namespace string, i, k int) *corev1.Pod {
	addr := netip.AddrFrom4([4]byte{10, byte(i >> 12), byte(i >> 4), byte(i<<4 + k + 1)})
	status := fmt.Sprintf(`[{"name":"kube-system/ipvlan","interface":"eth0","ips":["%s"],"mac":"%s","default":true,"dns":{}}]`, addr, macOf(addr))
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: fmt.Sprintf("web-%d-%d", i, k), Labels: map[string]string{"app": "web"}, Annotations: map[string]string{names.AnnotationMultusNetworkStatus: status},
		},
		Spec: corev1.PodSpec{NodeName: fmt.Sprintf("node-%d", i), Containers: []corev1.Container{{Name: "web", Image: "registry.example/web:1", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}}},
	}
}

func endpointOfPool(l lease.Lease) *v2beta1.SpiderEndpoint {
	return &v2beta1.SpiderEndpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.Pod.Namespace, Name: l.Pod.Name},
		Status: v2beta1.SpiderEndpointStatus{OwnerControllerType: "Pod", OwnerControllerName: l.Pod.Name, Current: v2beta1.EndpointAllocation{UID: l.PodUID, Node: l.Node, IPs: []v2beta1.EndpointIP{{
			Interface: "eth0", IPv4: ptr.To(l.Addr.String() + "/28"), IPv4Pool: &l.Pool, MAC: ptr.To(macOf(l.Addr)),
		}}}},
	}
}

func macOf(addr netip.Addr) string {
	b := addr.As4()
	return fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

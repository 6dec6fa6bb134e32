//go:build apiserver && scale

package controller_test

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
)

var clusterPods = flag.Int("pods", 100_000, "the number of pods of TestControllerOfLargeCluster, a multiple of 5,000")

const (
	clusterNodes, clusterNamespaces, policiesOfEach = 5000, 100, 20
	podsOfSet                                       = 20
	// clusterMemory is the maximum of 100,000 pods, and the limit of the chart.
	clusterMemory = 1 << 30
	clusterLimit  = 10 * time.Minute
)

// TestControllerOfLargeCluster measures a controller in a process of its own, in a cluster of 5,000 nodes with two pools each,
// 2,000 NetworkPolicies in 100 namespaces, and 100,000 dual-stack pods with SpiderEndpoints and leases: once without
// SpiderPeerGroups, and once with those of the first start.
//
//	go test -tags 'apiserver scale' -run LargeCluster -v ./internal/controller -pods 10000
func TestControllerOfLargeCluster(t *testing.T) {
	c := kubetest.Client(t)
	began := time.Now()
	groups := fillCluster(t, c)
	t.Logf("%d nodes, %d pools, %d policies with %d groups, %d pods created in %s",
		clusterNodes, 2*clusterNodes, clusterNamespaces*policiesOfEach, len(groups), *clusterPods, time.Since(began).Round(time.Second))
	program := kubetest.Program(t, "spiderpool-controller")
	namespace := kubetest.Namespace(t, c)
	for _, start := range []string{"first", "second"} {
		// The process sets this limit itself in a container of clusterMemory.
		p := launch(t, program, namespace, longLead, fmt.Sprint("GOMEMLIMIT=", clusterMemory/10*9))
		deadline := time.Now().Add(clusterLimit)
		for err := error(fmt.Errorf("just started")); err != nil; {
			time.Sleep(2 * time.Second)
			if err = p.followsCluster(t.Context(), c, groups); err != nil && time.Now().After(deadline) {
				t.Fatalf("%s start: after %s still: %v\n%s", start, clusterLimit, err, p.output)
			}
		}
		took := time.Since(p.started)
		time.Sleep(30 * time.Second)
		peak, resident := kubetest.Memory(t, p.command.Process.Pid, "VmHWM"), kubetest.Memory(t, p.command.Process.Pid, "VmRSS")
		t.Logf("%s start: all groups and statuses written after %s; peak %d MiB, half a minute later %d MiB, CPU %s", start, took.Round(time.Second), peak>>20, resident>>20, p.cpu(t))
		if peak > clusterMemory {
			t.Errorf("%s start: the peak is %d MiB, want at most %d", start, peak>>20, clusterMemory>>20)
		}
		p.stop(t)
	}
}

// longLead keeps the lead while the API server, which shares this machine's processors, answers slowly.
func longLead(file *config.File) {
	e := &file.ControllerProcess.LeaderElection
	e.LeaseDuration.Duration, e.RenewDeadline.Duration = 5*time.Minute, 4*time.Minute
}

// fillCluster creates the objects, and returns the names of the groups of the policies.
func fillCluster(t *testing.T, c client.Client) map[string]bool {
	t.Helper()
	for n := range clusterNamespaces {
		kubetest.Create(t, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", n), Labels: map[string]string{"team": fmt.Sprint(n % 10)}}})
	}
	const ours = "spiderpool.spidernet.io/"
	kubetest.Store(t, "minions", clusterNodes, clusterNode)
	kubetest.Store(t, ours+"spiderippools", 2*clusterNodes, clusterPool)
	kubetest.Store(t, "pods", *clusterPods, func(i int) client.Object { return clusterPod(i) })
	kubetest.Store(t, ours+"spiderendpoints", *clusterPods, clusterEndpoint)
	var blocks []client.Object
	for node := range clusterNodes {
		for _, family := range bothFamilies {
			blocks = append(blocks, blocksOfNode(node, family)...)
		}
	}
	kubetest.Store(t, ours+"spideripblocks", len(blocks), func(i int) client.Object { return blocks[i] })
	groups := map[string]bool{}
	for n := range clusterNamespaces {
		for i := range policiesOfEach {
			compiled, errs := compile.NetworkPolicy(clusterPolicy(n, i))
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			for _, g := range compiled.Groups() {
				groups[g.Name()] = true
			}
		}
	}
	kubetest.Each(t, clusterNamespaces*policiesOfEach, func(ctx context.Context, i int) error {
		return c.Create(ctx, clusterPolicy(i%clusterNamespaces, i/clusterNamespaces))
	})
	return groups
}

// followsCluster returns an error until all groups and the statuses of all pools are written, and nothing is queued.
func (p *process) followsCluster(ctx context.Context, c client.Client, groups map[string]bool) error {
	if err := p.queued(ctx); err != nil {
		return err
	}
	var written v2beta1.SpiderPeerGroupList
	if err := c.List(ctx, &written); err != nil {
		return err
	}
	found, most := 0, 0
	members := map[string]int{}
	for i := range written.Items {
		slice, ok := compile.PeerGroup(&written.Items[i])
		if !ok || !groups[slice.Group] {
			return fmt.Errorf("SpiderPeerGroup %s is of no policy", written.Items[i].Name)
		}
		if slice.Index == 0 {
			found++
		}
		members[slice.Group] += len(slice.Members)
		most = max(most, members[slice.Group])
	}
	if found < len(groups) || most != 2**clusterPods {
		return fmt.Errorf("%d of %d groups are written; the largest has %d addresses, want %d", found, len(groups), most, 2**clusterPods)
	}
	var pools v2beta1.SpiderIPPoolList
	if err := c.List(ctx, &pools); err != nil {
		return err
	}
	for i := range pools.Items {
		if n := pools.Items[i].Status.AllocatedIPCount; n == nil || *n != int64(*clusterPods/clusterNodes) {
			return fmt.Errorf("the status of pool %s is %+v", pools.Items[i].Name, pools.Items[i].Status)
		}
	}
	return nil
}

var bothFamilies = []inet.Family{inet.IPv4, inet.IPv6}

func nodeName(node int) string { return fmt.Sprintf("worker-%04d.cluster.example", node) }

func poolName(node int, family inet.Family) string {
	return fmt.Sprintf("worker-%04d-eth1-%s", node, strings.ToLower(family.String()))
}

// clusterAddr returns the n-th address of the node, which has 32.
func clusterAddr(node, n int, family inet.Family) netip.Addr {
	at := node*32 + n
	if family == inet.IPv4 {
		return netip.AddrFrom4([4]byte{10, byte(at >> 16), byte(at >> 8), byte(at)})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(at >> 16), 14: byte(at >> 8), 15: byte(at)})
}

func clusterNode(i int) client.Object {
	labels, images := map[string]string{}, []corev1.ContainerImage{}
	for n := range 12 {
		labels[fmt.Sprintf("topology.example/label-%d", n)] = fmt.Sprint("value-", i%7)
	}
	for n := range 30 {
		images = append(images, corev1.ContainerImage{Names: []string{fmt.Sprintf("registry.example/team/image-%d@sha256:%064d", n, i), fmt.Sprintf("registry.example/team/image-%d:v1", n)}, SizeBytes: 1 << 27})
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: labels, ManagedFields: managedFields("kubelet")}}
	node.Status = corev1.NodeStatus{
		Images: images, Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: clusterAddr(i, 31, inet.IPv4).String()}, {Type: corev1.NodeHostName, Address: node.Name}},
		Capacity: corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("110")},
	}
	for _, of := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady} {
		node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{Type: of, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"})
	}
	return node
}

func clusterPool(i int) client.Object {
	node, family := i/2, bothFamilies[i%2]
	first := clusterAddr(node, 0, family)
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: poolName(node, family), ManagedFields: managedFields("spiderpool-controller")},
		Spec: v2beta1.SpiderIPPoolSpec{
			AddressSpace: v2beta1.AddressSpace{
				Subnet: netip.PrefixFrom(first, first.BitLen()-5).String(),
				IPs:    []string{fmt.Sprintf("%s-%s", first, clusterAddr(node, 29, family))}, Gateway: new(clusterAddr(node, 30, family).String()),
			},
			NodeName: []string{nodeName(node)}, MultusName: []string{"kube-system/ipvlan-eth1"},
		},
	}
	compile.CompletePool(pool) // as admission does
	return pool
}

// place returns where a pod is. Pods of one set are in one namespace, on different nodes.
func place(i int) (namespace, app, name string, node int) {
	perNamespace := *clusterPods / clusterNamespaces
	n, at := i/perNamespace, i%perNamespace
	app = fmt.Sprint("app", at/podsOfSet)
	return fmt.Sprint("n", n), app, fmt.Sprintf("%s-5b8d34ac1a-%05x", app, i), i % clusterNodes
}

func podUID(i int) string { return fmt.Sprintf("3f2c51cb-0f5b-4d34-ac1a-%012d", i) }

func clusterPod(i int) *corev1.Pod {
	namespace, app, name, node := place(i)
	v4, v6 := clusterAddr(node, i/clusterNodes, inet.IPv4).String(), clusterAddr(node, i/clusterNodes, inet.IPv6).String()
	set := fmt.Sprint(app, "-5b8d34ac1a")
	var env []corev1.EnvVar
	for n := range 12 {
		env = append(env, corev1.EnvVar{Name: fmt.Sprint("APPLICATION_SETTING_", n), Value: fmt.Sprintf("https://%s.%s.svc/%d", app, namespace, n)})
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID(podUID(i)), ManagedFields: managedFields("kube-controller-manager"),
			Labels: map[string]string{"app": app, "pod-template-hash": "5b8d34ac1a", "app.kubernetes.io/managed-by": "Helm", "tier": "x"},
			Annotations: map[string]string{
				names.AnnotationMultusNetworks: "kube-system/ipvlan-eth1", "checksum/config": strings.Repeat("0123456789abcdef", 4),
				names.AnnotationMultusNetworkStatus: fmt.Sprintf(`[{"name":"kube-system/ipvlan-eth1","interface":"eth0","ips":["%s","%s"],"mac":"02:42:0a:00:00:01","default":true,"dns":{},"gateway":["10.0.0.1"]}]`, v4, v6),
			},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: set, UID: types.UID(fmt.Sprintf("4f2c51cb-0f5b-4d34-ac1a-%012d", i/podsOfSet)), Controller: new(true), BlockOwnerDeletion: new(true)}},
		},
		Spec: corev1.PodSpec{
			NodeName: nodeName(node), RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, ServiceAccountName: app,
			Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: new(int64(300))}, {Key: "node.kubernetes.io/unreachable", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: new(int64(300))}},
			Volumes:     []corev1.Volume{{Name: "kube-api-access", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}}}},
			Containers: []corev1.Container{{
				Name: "app", Image: "registry.example/team/app:v1.2.3", Env: env, ImagePullPolicy: corev1.PullIfNotPresent,
				Ports:        []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}, {Name: "metrics", ContainerPort: 9090, Protocol: corev1.ProtocolTCP}},
				Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")}},
				VolumeMounts: []corev1.VolumeMount{{Name: "kube-api-access", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}},
			}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, HostIP: clusterAddr(node, 31, inet.IPv4).String(), PodIP: v4, PodIPs: []corev1.PodIP{{IP: v4}, {IP: v6}}, QOSClass: corev1.PodQOSBurstable},
	}
	for _, of := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: of, Status: corev1.ConditionTrue})
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", Ready: true, Image: "registry.example/team/app:v1.2.3", ImageID: fmt.Sprintf("registry.example/team/app@sha256:%064d", 1), ContainerID: fmt.Sprintf("containerd://%064d", i)}}
	return pod
}

// managedFields are about as long as those of a pod.
func managedFields(manager string) []metav1.ManagedFieldsEntry {
	var fields []string
	for n := range 40 {
		fields = append(fields, fmt.Sprintf(`"f:field-%d":{"f:value":{}}`, n))
	}
	return []metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1("{" + strings.Join(fields, ",") + "}")}}
}

func clusterEndpoint(i int) client.Object {
	namespace, app, name, node := place(i)
	return &v2beta1.SpiderEndpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, ManagedFields: managedFields("spiderpool-agent")},
		Status: v2beta1.SpiderEndpointStatus{OwnerControllerType: "Deployment", OwnerControllerName: app, Current: v2beta1.EndpointAllocation{
			UID: podUID(i), Node: nodeName(node), IPs: []v2beta1.EndpointIP{{
				Interface: "eth0", Network: "kube-system/ipvlan-eth1", Vlan: new(int64(0)), CleanGateway: new(false),
				IPv4: new(clusterAddr(node, i/clusterNodes, inet.IPv4).String() + "/27"), IPv4Pool: new(poolName(node, inet.IPv4)), IPv4Gateway: new(clusterAddr(node, 30, inet.IPv4).String()),
				IPv6: new(clusterAddr(node, i/clusterNodes, inet.IPv6).String() + "/123"), IPv6Pool: new(poolName(node, inet.IPv6)), IPv6Gateway: new(clusterAddr(node, 30, inet.IPv6).String()),
			}},
		}},
	}
}

// blocksOfNode returns the blocks of a family with the leases of the node's pods.
func blocksOfNode(node int, family inet.Family) (objects []client.Object) {
	var blocks []lease.Block
	for n := range *clusterPods / clusterNodes {
		i := n*clusterNodes + node
		namespace, _, name, _ := place(i)
		addr := clusterAddr(node, n, family)
		if base := inet.BlockOf(addr); len(blocks) == 0 || blocks[len(blocks)-1].Base != base {
			blocks = append(blocks, lease.Block{Base: base, Node: nodeName(node)})
		}
		b := &blocks[len(blocks)-1]
		b.Leases = append(b.Leases, lease.Lease{
			Addr: addr, State: lease.InUse, Pool: poolName(node, family), Since: time.Now().UTC().Truncate(time.Second),
			Holder: lease.Holder{Pod: lease.PodKey{Namespace: namespace, Name: name}, PodUID: podUID(i), Node: nodeName(node), Attachment: lease.Attachment{ContainerID: fmt.Sprintf("%064d", i), Interface: "eth0"}},
		})
	}
	for _, b := range blocks {
		objects = append(objects, compile.BlockObject(b))
	}
	return objects
}

// clusterPolicy returns the i-th policy of the n-th namespace. It admits an application of the namespace, those of a team, and
// one application of all namespaces, and the first policy all pods of the cluster.
func clusterPolicy(n, i int) *networkingv1.NetworkPolicy {
	equals := func(key, value string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
	rules := []networkingv1.NetworkPolicyIngressRule{
		{From: []networkingv1.NetworkPolicyPeer{{PodSelector: equals("app", fmt.Sprint("app", i))}, {NamespaceSelector: equals("team", fmt.Sprint(i%10))}}},
		{From: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: equals("app", "app1")}}},
	}
	if i == 0 {
		rules = append(rules, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}}}})
	}
	if i == 1 {
		rules[0].Ports = []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromString("http"))}}
	}
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("n", n), Name: fmt.Sprint("policy-", i)},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: *equals("app", fmt.Sprint("app", i+1)), Ingress: rules},
	}
}

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

// TestViewsOfLargeCluster measures each command as a process of its own, with 5,000 pools, 20,000
// leases and 20,000 endpoints.
//
//	go test -tags 'apiserver scale' -run ViewsOfLargeCluster -v ./internal/cli
func TestViewsOfLargeCluster(t *testing.T) {
	createPools(t)
	kubetest.Create(t, kubetest.Client(t), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: configMap},
		Data:       map[string]string{configKey: "{apiVersion: config.spiderpool.spidernet.io/v1, kind: SpiderpoolConfiguration, multus: {defaultNetwork: kube-system/ipvlan}}"},
	}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-17"}}, &nadv1.NetworkAttachmentDefinition{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "ipvlan"},
		Spec:       nadv1.NetworkAttachmentDefinitionSpec{Config: `{"cniVersion":"1.0.0","name":"ipvlan","plugins":[{"type":"ipvlan","master":"eth0","ipam":{"type":"spiderpool","default_ipv4_ippool":["pool-*"]}}]}`},
	})
	kubeconfig := writeKubeconfig(t, kubetest.User(t, "spiderpool-reader"))
	program := kubetest.Program(t, "spiderpoolctl")
	for _, command := range []string{
		"pool list", "pool show pool-17", "pool usage pool-17", "ip who 10.0.0.18", "ip who 02:42:0a:00:00:12", "ip list", "ip list -o wide", "ip list --node node-17",
		"node show node-17", "capacity --pods 5 --node node-17", "status",
	} {
		var took []time.Duration
		for range attempts {
			began := time.Now()
			out, err := exec.CommandContext(t.Context(), program, append(strings.Fields(command), "--kubeconfig", kubeconfig)...).CombinedOutput()
			took = append(took, time.Since(began))
			if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != exitFound) {
				t.Fatalf("%s: %v\n%s", command, err, out)
			}
		}
		slices.Sort(took)
		t.Logf("%-26s %s (median of %d), %s at most", command, took[attempts/2].Round(time.Millisecond), attempts, took[attempts-1].Round(time.Millisecond))
	}
}

// createPools creates the pools, each with one block.
func createPools(t *testing.T) {
	t.Helper()
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	kubetest.Each(t, manyPools, func(ctx context.Context, i int) error {
		for _, object := range objectsOfPool(namespace, i) {
			if err := c.Create(ctx, object); err != nil {
				return err
			}
		}
		return nil
	})
}

func objectsOfPool(namespace string, i int) []client.Object {
	base := netip.AddrFrom4([4]byte{10, byte(i >> 12), byte(i >> 4), byte(i << 4)})
	node := fmt.Sprintf("node-%d", i)
	name := fmt.Sprintf("pool-%d", i)
	objects := []client.Object{&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v2beta1.SpiderIPPoolSpec{
		AddressSpace: v2beta1.AddressSpace{Subnet: inet.BlockPrefix(base).String(), IPs: v2beta1.AddressRanges{base.Next().String() + "-" + inet.BlockAddr(base, 14).String()}},
		NodeName:     []string{node}, MultusName: []string{"kube-system/ipvlan"},
	}}}
	block := lease.Block{Base: base, Node: node}
	for k := range leasesPerPool {
		pod := lease.PodKey{Namespace: namespace, Name: fmt.Sprintf("web-%d-%d", i, k)}
		addr := inet.BlockAddr(base, k+1)
		uid := fmt.Sprintf("00000000-0000-4000-8000-%06d%06d", i, k)
		block.Leases = append(block.Leases, lease.Lease{
			Addr: addr, State: lease.InUse, Pool: name, Since: threeAtNight(),
			Holder: lease.Holder{Attachment: lease.Attachment{ContainerID: strings.Repeat("0123456789abcdef", 4), Interface: "eth0"}, Pod: pod, PodUID: uid, Node: node},
		})
		objects = append(objects, &v2beta1.SpiderEndpoint{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod.Name},
			Status: v2beta1.SpiderEndpointStatus{OwnerControllerType: "Deployment", OwnerControllerName: "web", Current: v2beta1.EndpointAllocation{UID: uid, Node: node, IPs: []v2beta1.EndpointIP{{
				Interface: "eth0", IPv4: ptr.To(addr.String() + "/28"), IPv4Pool: &name, MAC: ptr.To(fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", addr.As4()[0], addr.As4()[1], addr.As4()[2], addr.As4()[3])),
			}}}},
		})
	}
	return append(objects, compile.BlockObject(block))
}

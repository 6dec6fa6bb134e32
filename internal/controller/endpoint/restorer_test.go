//go:build apiserver

package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/endpoint"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// shown is an endpoint that shows the address for the pod.
func shown(name, uid, addr string) *v2beta1.SpiderEndpoint {
	return &v2beta1.SpiderEndpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Status: v2beta1.SpiderEndpointStatus{
			Current: v2beta1.EndpointAllocation{UID: uid, Node: "n1", IPs: []v2beta1.EndpointIP{{
				Interface: "eth0", Vlan: new(int64(0)), IPv4: new(addr + "/24"), IPv4Pool: new("p"), Routes: []v2beta1.Route{{Dst: "192.0.2.0/24", Gw: "10.6.0.1"}},
			}}},
			OwnerControllerType: "Deployment", OwnerControllerName: "web",
		},
	}
}

func held(addr, pod, uid string, state lease.State) lease.Lease {
	return lease.Lease{
		Addr: netip.MustParseAddr(addr), State: state, Pool: "p", Since: time.Now().UTC().Truncate(time.Second),
		Holder: lease.Holder{Pod: lease.ParsePodKey("default/" + pod), PodUID: uid, Node: "n1", Attachment: lease.Attachment{ContainerID: "c-" + pod, Interface: "eth0"}},
	}
}

// untilDeletionsAreSeen creates and deletes a SpiderEndpoint with held addresses until
// it is recreated.
func untilDeletionsAreSeen(t *testing.T, c client.Client, name, uid, addr string) {
	t.Helper()
	t.Cleanup(func() { kubetest.Remove(t, c, shown(name, uid, addr)) })
	var mine *v2beta1.SpiderEndpoint
	kubetest.Eventually(t, func(ctx context.Context) error {
		var found v2beta1.SpiderEndpoint
		err := c.Get(ctx, client.ObjectKey{Namespace: "default", Name: name}, &found)
		if err == nil && mine != nil && found.UID != mine.UID {
			return nil
		}
		mine = shown(name, uid, addr)
		if err := c.Create(ctx, mine); err != nil {
			return err
		}
		return errors.Join(c.Delete(ctx, mine), errors.New("not made again yet"))
	})
}

func TestDeletedEndpointIsRestored(t *testing.T) {
	c := kubetest.Client(t)
	kept := held("10.6.0.5", "kept", "u5", lease.Retained)
	kept.FixedFor = lease.ParseOwner("Pod/default/kept")
	block := compile.BlockObject(lease.Block{Base: netip.MustParseAddr("10.6.0.0"), Node: "n1", Leases: []lease.Lease{
		held("10.6.0.1", "probe", "u1", lease.InUse), held("10.6.0.2", "lives", "u2", lease.InUse), held("10.6.0.3", "replaced", "new", lease.InUse), kept,
	}})
	lives, released, replaced, waits := shown("lives", "u2", "10.6.0.2"), shown("released", "u4", "10.6.0.4"), shown("replaced", "old", "10.6.0.3"), shown("kept", "u5", "10.6.0.5")
	kubetest.Create(t, c, block, lives, released, replaced, waits)
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		return errors.Join(blockindex.IndexBlocksByHolder(t.Context(), mgr.GetFieldIndexer()), endpoint.NewRestorer(mgr.GetClient(), mgr.GetAPIReader(), slog.New(slog.DiscardHandler)).Register(mgr))
	})
	untilDeletionsAreSeen(t, c, "probe", "u1", "10.6.0.1")
	// Deletions are handled in order: once the last one is back, the others would be,
	// too.
	for _, e := range []*v2beta1.SpiderEndpoint{released, replaced, waits, lives} {
		if err := c.Delete(t.Context(), e); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []*v2beta1.SpiderEndpoint{lives, waits} {
		kubetest.Eventually(t, func(ctx context.Context) error {
			var again v2beta1.SpiderEndpoint
			if err := c.Get(ctx, client.ObjectKeyFromObject(e), &again); err != nil {
				return err
			}
			if again.UID == e.UID || !equality.Semantic.DeepEqual(again.Status, e.Status) {
				return fmt.Errorf("shows %+v, want again %+v", again.Status, e.Status)
			}
			return nil
		})
	}
	for _, e := range []*v2beta1.SpiderEndpoint{released, replaced} {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(e), e); !apierrors.IsNotFound(err) {
			t.Errorf("endpoint %s, whose pod does not hold its addresses: %v", e.Name, err)
		}
	}
}

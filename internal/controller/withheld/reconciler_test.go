package withheld

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// The network is gone, and created again, and gone.
func TestAddressesOfDeletedNetworkAreFreed(t *testing.T) {
	network := &v2beta1.SpiderCloudNetwork{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}
	c := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(&v2beta1.SpiderCloudNetwork{ObjectMeta: metav1.ObjectMeta{Name: "here"}}).Build()
	clock := clocktesting.NewFakePassiveClock(time.Date(2026, 11, 30, 5, 0, 0, 0, time.UTC))
	store := &ipamtest.Store{}
	holds := withhold.New(store, clock.Now, slog.New(slog.DiscardHandler))
	for name, piece := range map[string]string{"gone": "10.0.0.0/28", "here": "10.0.0.16/28"} {
		ipamtest.MustWithhold(t, holds, withhold.Piece{Network: name, Pool: "p", Addrs: inet.OfPrefix(netip.MustParsePrefix(piece))})
	}
	r := New(c, c, holds, slog.New(slog.DiscardHandler))
	r.clock = clock
	pass := func(after time.Duration, want ...string) {
		t.Helper()
		clock.SetTime(clock.Now().Add(after))
		for _, b := range store.All() {
			for _, request := range networksOf(t.Context(), compile.BlockObject(b)) {
				if _, err := r.Reconcile(t.Context(), request); err != nil {
					t.Fatal(err)
				}
			}
		}
		all, err := holds.List(t.Context())
		var got []string
		for _, h := range all {
			got = append(got, h.Network)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("after %s: got %v, %v, want %v", after, got, err, want)
		}
	}
	pass(0, "gone", "here")
	pass(freeAfter-time.Second, "gone", "here")
	if err := c.Create(t.Context(), network); err != nil {
		t.Fatal(err)
	}
	pass(time.Hour, "gone", "here")
	if err := c.Delete(t.Context(), network); err != nil {
		t.Fatal(err)
	}
	pass(time.Hour, "gone", "here")
	pass(freeAfter, "here")
	result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "gone"}})
	if err != nil || result.RequeueAfter != freeAfter {
		t.Errorf("a deletion without withheld addresses: got %+v, %v", result, err)
	}
}

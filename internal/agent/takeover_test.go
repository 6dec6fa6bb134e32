//go:build apiserver

package agent

import (
	"context"
	"fmt"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/wire"
)

// setStatus writes the status of a pool, as a merge patch.
func (w *world) setStatus(pool, status string) {
	w.Helper()
	object := &v2beta1.SpiderIPPool{}
	object.Name = pool
	if err := w.Status().Patch(w.Context(), object, client.RawPatch("application/merge-patch+json", []byte(`{"status":`+status+`}`))); err != nil {
		w.Fatal(err)
	}
}

// Spiderpool 1.2 keeps its allocations in the status of the pool, so a pod of it may have
// any address of the pool.
func TestAllocationsOfAnotherReleaseBlockPool(t *testing.T) {
	for _, watched := range []bool{true, false} {
		t.Run(fmt.Sprintf("watched %t", watched), func(t *testing.T) {
			w := newWorld(t)
			node := w.node("n1")
			pool := w.pool("p", func(p *v2beta1.SpiderIPPool) {
				v4("10.1.0.10-10.1.0.20")(p)
				if !watched {
					p.Labels = map[string]string{}
				}
			})
			w.setStatus(pool, `{"allocatedIPCount":1,"allocatedIPs":"{\"10.1.0.10\":{\"pod\":\"default/old\",\"podUid\":\"1\"}}"}`)
			a := w.agent(node)
			pod := w.pod("a", node, annotated(names.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q]}`, pool)))
			req := wire.AddRequest{Attachment: attachment(pod, "c1", "eth0")}
			_, err := a.Add(t.Context(), req)
			wantCode(t, err, wire.CodeNoAddress, pool+": status.allocatedIPs has 1 addresses, e.g. 10.1.0.10 of pod default/old")
			if got := w.leases(); len(got) != 0 {
				t.Errorf("leases %v, want none", got)
			}

			w.setStatus(pool, `{"allocatedIPCount":null,"allocatedIPs":null}`)
			kubetest.Eventually(t, func(ctx context.Context) error {
				_, err := a.Add(ctx, req)
				return err
			})
		})
	}
}

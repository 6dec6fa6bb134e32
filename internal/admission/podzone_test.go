package admission

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/lease"
)

// blockIndexer adds indexes to a fake client before it is built.
type blockIndexer struct{ *fake.ClientBuilder }

func (x blockIndexer) IndexField(_ context.Context, o client.Object, field string, values client.IndexerFunc) error {
	x.WithIndex(o, field, values)
	return nil
}

// zoned has the retained address of shop/db-0 in a pool of zone a, and that of shop/web-0 in a pool of a node.
func zoned(t *testing.T) client.Client {
	t.Helper()
	lent := func(addr, pod, pool string) lease.Lease {
		key := lease.ParsePodKey("shop/" + pod)
		return lease.Lease{Addr: netip.MustParseAddr(addr), State: lease.Retained, Pool: pool, Holder: lease.Holder{
			Pod: key, PodUID: "u", Node: "n", Attachment: lease.Attachment{ContainerID: "c", Interface: "eth0"},
			FixedFor: lease.Owner{Kind: lease.KindPod, Namespace: "shop", Name: pod},
		}}
	}
	block := compile.BlockObject(lease.Block{Base: netip.MustParseAddr("10.0.0.0"), Leases: []lease.Lease{
		lent("10.0.0.1", "db-0", "fixed"), lent("10.0.0.2", "web-0", "node"), lent("10.0.0.3", "old-0", "gone"),
	}})
	b := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(block,
		&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "fixed", Labels: map[string]string{"ipam.spidernet.io/cloud-zone": "a"}}},
		&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "node"}})
	if err := blockindex.IndexBlocksByHolder(t.Context(), blockIndexer{b}); err != nil {
		t.Fatal(err)
	}
	return b.Build()
}

func TestPodStaysInZoneOfItsAddress(t *testing.T) {
	inZone := corev1.NodeSelectorRequirement{Key: "topology.kubernetes.io/zone", Operator: "In", Values: []string{"a"}}
	ssd := corev1.NodeSelectorRequirement{Key: "disk", Operator: "In", Values: []string{"ssd"}}
	gpu := corev1.NodeSelectorRequirement{Key: "gpu", Operator: "Exists"}
	terms := func(all ...[]corev1.NodeSelectorRequirement) (out []corev1.NodeSelectorTerm) {
		for _, one := range all {
			out = append(out, corev1.NodeSelectorTerm{MatchExpressions: one})
		}
		return out
	}
	type list = []corev1.NodeSelectorRequirement
	for name, test := range map[string]struct {
		pod, kind string
		have      []corev1.NodeSelectorTerm
		want      []corev1.NodeSelectorTerm
	}{
		"fixed address":        {"db-0", "StatefulSet", nil, terms(list{inZone})},
		"other alternatives":   {"db-0", "StatefulSet", terms(list{ssd}, list{gpu}), terms(list{ssd, inZone}, list{gpu, inZone})},
		"matches no node":      {"db-0", "StatefulSet", terms(nil, list{ssd}), terms(nil, list{ssd, inZone})},
		"zone is required":     {"db-0", "StatefulSet", terms(list{inZone}), terms(list{inZone})},
		"address of a node":    {"web-0", "StatefulSet", nil, nil},
		"pool is gone":         {"old-0", "StatefulSet", nil, nil},
		"no address yet":       {"db-1", "StatefulSet", nil, nil},
		"not of a StatefulSet": {"db-0", "ReplicaSet", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: test.pod, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "apps/v1", Kind: test.kind, Name: "db", UID: "x", Controller: new(true)},
			}}}
			if test.have != nil {
				pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
					RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: test.have},
				}}
			}
			w := &podZones{reader: zoned(t), log: slog.New(slog.DiscardHandler)}
			if err := w.Default(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
			var got []corev1.NodeSelectorTerm
			if a := pod.Spec.Affinity; a != nil {
				got = a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("required of the node (-want +got)\n%s", diff)
			}
		})
	}
}

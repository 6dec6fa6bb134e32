package controller

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/observe/observetest"
)

func poolWith(name string, total, free int64, nodes ...string) v2beta1.SpiderIPPool {
	p := v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.NodeName = nodes
	p.Status.TotalIPCount, p.Status.FreeIPCount = ptr.To(total), ptr.To(free)
	return p
}

func blockWith(leases ...v2beta1.Lease) v2beta1.SpiderIPBlock {
	return v2beta1.SpiderIPBlock{Spec: v2beta1.SpiderIPBlockSpec{Leases: leases}}
}

func TestFullestPoolsHaveTimeSeries(t *testing.T) {
	var s snapshot
	s.pools.Items = []v2beta1.SpiderIPPool{
		poolWith("half", 10, 5), poolWith("empty", 0, 0), poolWith("full", 100, 1, "a"), poolWith("free", 8, 8, "a", "b"), poolWith("vast", 1000, 999),
	}
	s.blocks.Items = []v2beta1.SpiderIPBlock{blockWith(
		v2beta1.Lease{Pool: "full", State: v2beta1.LeaseInUse}, v2beta1.Lease{Pool: "full", State: v2beta1.LeaseInUse},
		v2beta1.Lease{Pool: "full", State: v2beta1.LeaseRetained}, v2beta1.Lease{Pool: "gone", State: v2beta1.LeaseInUse},
		v2beta1.Lease{Pool: "free", State: v2beta1.LeaseQuarantined},
	)}
	var got []string
	for _, u := range s.byPool(3) {
		got = append(got, fmt.Sprint(u.name, "@", u.node, " ", u.free, "/", u.total, " ", u.leases))
	}
	want := []string{
		"full@a 1/100 map[InUse:2 Retained:1]", "half@ 5/10 map[]", "vast@ 999/1000 map[]", "(other)@ 8/8 map[InUse:1 Quarantined:1]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

func TestVastPoolsSortByFreeShare(t *testing.T) {
	const slash80, all = 1 << 48, math.MaxInt64
	var s snapshot
	s.pools.Items = []v2beta1.SpiderIPPool{
		poolWith("all", all, all), poolWith("unused", slash80, slash80), poolWith("node", slash80, 0, "a"), poolWith("shared", 4, 0),
		poolWith("half", slash80, slash80/2), poolWith("one", slash80, slash80-1), poolWith("none", 0, 0),
	}
	var got []string
	for _, u := range s.byPool(4) {
		got = append(got, u.name)
	}
	if diff := cmp.Diff([]string{"shared", "node", "half", "one", otherPools}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if other := s.byPool(4)[4]; other.total != all || other.free != all {
		t.Errorf("the others have %d of %d addresses free", other.free, other.total)
	}
}

// A time series that a scrape has twice makes Prometheus refuse the whole scrape.
func TestPoolNamedOtherKeepsScrape(t *testing.T) {
	pool := poolWith("other", 10, 9)
	block := blockWith(v2beta1.Lease{Pool: "other", State: v2beta1.LeaseInUse}, v2beta1.Lease{Pool: "gone", State: v2beta1.LeaseInUse})
	block.Name = "10.0.0.0"
	reader := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(&pool, &block).Build()
	registry := prometheus.NewRegistry()
	registry.MustRegister(newMetrics(reader, false, observetest.Certificate(t)))
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

func TestConditionsOfEveryKindAreServed(t *testing.T) {
	name := metav1.ObjectMeta{Name: "a"}
	notReady := []metav1.Condition{{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Test"}}
	reader := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(
		&v2beta1.SpiderIPPool{ObjectMeta: name, Status: v2beta1.SpiderIPPoolStatus{Conditions: notReady}},
		&v2beta1.SpiderSubnet{ObjectMeta: name, Status: v2beta1.SpiderSubnetStatus{Conditions: notReady}},
		&v2beta1.SpiderReservedIP{ObjectMeta: name, Status: v2beta1.SpiderReservedIPStatus{Conditions: notReady}},
		&v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}, Status: v2beta1.SpiderMultusConfigStatus{Conditions: notReady}},
		&v2beta1.SpiderCoordinator{ObjectMeta: name, Status: v2beta1.SpiderCoordinatorStatus{Conditions: notReady}},
		&v2beta1.SpiderCloudNetwork{ObjectMeta: name, Status: v2beta1.SpiderCloudNetworkStatus{Conditions: notReady}},
	).Build()
	registry := prometheus.NewRegistry()
	registry.MustRegister(newMetrics(reader, false, observetest.Certificate(t)))
	var want strings.Builder
	want.WriteString("# HELP spiderpool_object_conditions Objects with a condition, e.g. kind=\"SpiderIPPool\", type=\"Ready\", status=\"False\".\n# TYPE spiderpool_object_conditions gauge\n")
	for _, kind := range []string{"SpiderCloudNetwork", "SpiderCoordinator", "SpiderIPPool", "SpiderMultusConfig", "SpiderReservedIP", "SpiderSubnet"} {
		fmt.Fprintf(&want, "spiderpool_object_conditions{kind=%q,reason=\"Test\",status=\"False\",type=\"Ready\"} 1\n", kind)
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want.String()), "spiderpool_object_conditions"); err != nil {
		t.Error(err)
	}
}

func TestOnlyLongOrphansAreBlocked(t *testing.T) {
	now := time.Unix(0, 0)
	o := &orphans{now: func() time.Time { return now }}
	var s snapshot
	s.uids = map[string]string{"default/alive": "1"}
	s.blocks.Items = []v2beta1.SpiderIPBlock{blockWith(
		v2beta1.Lease{IP: "10.0.0.1", State: v2beta1.LeaseInUse, Pod: "default/alive", PodUID: "1", ContainerID: "a"},
		v2beta1.Lease{IP: "10.0.0.2", State: v2beta1.LeaseInUse, Pod: "default/alive", PodUID: "0", ContainerID: "b"},
		v2beta1.Lease{IP: "10.0.0.3", State: v2beta1.LeaseInUse, Pod: "default/gone", PodUID: "2", ContainerID: "c"},
		v2beta1.Lease{IP: "10.0.0.4", State: v2beta1.LeaseRetained, Pod: "default/gone", PodUID: "2", ContainerID: "c"},
	)}
	for _, step := range []struct {
		after time.Duration
		want  int64
	}{{0, 0}, {blockedAfter - time.Second, 0}, {time.Second, 2}} {
		now = now.Add(step.after)
		if got := o.blocked(s.orphans()); got != step.want {
			t.Errorf("after %s: %d blocked, want %d", step.after, got, step.want)
		}
	}
	s.blocks.Items[0].Spec.Leases[2].ContainerID = "d" // another pod has the address
	if got := o.blocked(s.orphans()); got != 1 {
		t.Errorf("%d blocked, want 1", got)
	}
}

// TestStaticPodIsNoOrphan has the mirror of a static pod, whose lease has the UID of the pod in the kubelet's file.
func TestStaticPodIsNoOrphan(t *testing.T) {
	mirror := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "kube-system", Name: "proxy", UID: "of-mirror", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "of-file"},
	}}
	block := blockWith(v2beta1.Lease{IP: "10.0.0.1", State: v2beta1.LeaseInUse, Pod: "kube-system/proxy", PodUID: "of-file", ContainerID: "a"})
	block.Name = "10.0.0.0"
	s, err := readSnapshot(t.Context(), fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(mirror, &block).Build())
	if err != nil {
		t.Fatal(err)
	}
	if found := s.orphans(); len(found) > 0 {
		t.Errorf("orphans: %v", found)
	}
}

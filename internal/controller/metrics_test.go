package controller

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/observe/observetest"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

func TestReferenceListsMetrics(t *testing.T) {
	pool := poolWith("pool-1", 100, 20, "worker1")
	pool.Status.AllocatedIPCount = ptr.To(int64(80))
	pool.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: metav1.ConditionTrue, Reason: "InUse"}}
	block := blockWith(v2beta1.Lease{IP: "10.0.0.1", State: v2beta1.LeaseInUse, Pool: "pool-1", Pod: "default/web-0", PodUID: "1"})
	block.Name = "10.0.0.0"
	reader := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(&pool, &block,
		&v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: "subnet-1"}}).Build()
	m := newMetrics(reader, true, observetest.Certificate(t))
	m.Reclaimed(reclaim.PodGone, nil)
	m.Reclaimed(reclaim.PodGone, errors.New("conflict"))
	if _, err := m.clouds.Measure("aws", cloudtest.NewFake()).Instances(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	observetest.ReferenceListsMetrics(t, "controller", registry)
}

package controller

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/observe/observetest"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

func TestReferenceListsMetrics(t *testing.T) {
	reader := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(
		&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: "b"}},
	).Build()
	m := newMetrics(reader, true)
	m.Reclaimed(reclaim.PodGone, nil)
	m.Reclaimed(reclaim.PodGone, errors.New("conflict"))
	if _, err := m.clouds.Measure("aws", cloudtest.NewFake()).Instances(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	observetest.ReferenceListsMetrics(t, "controller", registry)
}

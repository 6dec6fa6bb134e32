//go:build e2e

// Package clusterpolicy runs the conformance tests of sigs.k8s.io/network-policy-api on the cluster of the kubeconfig.
package clusterpolicy

import (
	"context"
	"flag"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	policyapi "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
)

var sctp = flag.Bool("sctp", true, "the kernel of the nodes has SCTP")

// withSCTP are the tests with associations.
var withSCTP = []string{
	"CNPAdminTierEgressInlineCIDRPeers", "CNPAdminTierEgressSCTP", "CNPAdminTierGress", "CNPAdminTierIngressSCTP", "CNPAdminTierPortRange",
	"CNPBaselineTierEgressInlineCIDRPeers", "CNPBaselineTierEgressSCTP", "CNPBaselineTierGress", "CNPBaselineTierIngressSCTP", "CNPBaselineTierPortRange",
}

// TestClusterNetworkPolicy runs each test of the module as a subtest. Those with experimental fields skip
// themselves: the chart installs the standard definition, which lacks the fields.
func TestClusterNetworkPolicy(t *testing.T) {
	cfg, err := config.GetConfig()
	if err != nil {
		t.Fatal(err)
	}
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, policyapi.Install} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	objects, err := client.NewWithWatch(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	if !*sctp {
		objects = withoutServers(objects)
	}
	s := suite.New(suite.Options{
		Client: objects, ClientSet: clients, KubeConfig: *cfg, CleanupBaseResources: true,
		SupportedFeatures: sets.New(suite.SupportClusterNetworkPolicy),
	})
	s.Setup(t)
	for _, test := range tests.ConformanceTests {
		t.Run(test.ShortName, func(t *testing.T) {
			if !*sctp && slices.Contains(withSCTP, test.ShortName) {
				t.Skip("the kernel of the nodes has no SCTP")
			}
			test.Run(t, s)
		})
	}
}

// withoutServers leaves the SCTP servers out of the pods: without SCTP, they would end at once, and no pod would become
// ready.
func withoutServers(objects client.WithWatch) client.WithWatch {
	return interceptor.NewClient(objects, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
			u, ok := object.(*unstructured.Unstructured)
			if !ok || u.GetKind() != "StatefulSet" {
				return c.Create(ctx, object, options...)
			}
			var set appsv1.StatefulSet
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &set); err != nil {
				return err
			}
			pod := &set.Spec.Template.Spec
			pod.Containers = slices.DeleteFunc(pod.Containers, func(container corev1.Container) bool {
				return strings.HasSuffix(strings.Join(container.Command, " "), "porter")
			})
			return c.Create(ctx, &set, options...)
		},
	})
}

//go:build apiserver

package cli

import (
	"context"
	"errors"
	"fmt"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/clustercidr"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/status"
	"spiderpool.dev/spiderpool/test/docblocks"
)

// brokenCluster has an installation where nothing works: an agent without its image, webhooks without endpoints, and a
// coordinator that looks for Calico.
const brokenCluster = `apiVersion: v1
kind: ConfigMap
metadata: {namespace: kube-system, name: spiderpool-conf}
data:
  config.yaml: "{apiVersion: config.spiderpool.spidernet.io/v1, kind: SpiderpoolConfiguration}"
---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: kube-system, name: spiderpool-controller, labels: {app.kubernetes.io/version: 0.1.0}}
spec: {replicas: 1, selector: {matchLabels: &c {component: controller}}, template: {metadata: {labels: *c}, spec: {containers: [{name: c, image: registry.example/controller}]}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: kube-system, name: spiderpool-agent}
spec: {selector: {matchLabels: &a {component: agent}}, template: {metadata: {labels: *a}, spec: {containers: [{name: c, image: registry.example/agent}]}}}
status: {currentNumberScheduled: 1, desiredNumberScheduled: 1, updatedNumberScheduled: 1, numberReady: 0, numberMisscheduled: 0}
---
apiVersion: v1
kind: Node
metadata: {name: worker1}
status: {conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: kube-system, name: spiderpool-agent-x7k2p, labels: {component: agent}}
spec: {nodeName: worker1, hostNetwork: true, terminationGracePeriodSeconds: 0, containers: [{name: c, image: registry.example/agent}]}
status: {phase: Pending, containerStatuses: [{name: c, image: i, imageID: "", ready: false, restartCount: 0, state: {waiting: {reason: ImagePullBackOff}}}]}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderCoordinator
metadata: {name: default}
spec: {podCIDRType: calico}
`

// shows runs a command and compares its output with blocks of the pages.
func shows(t *testing.T, kubeconfig, command string, outputs ...string) {
	t.Helper()
	printed, code := act(t, kubeconfig, command)
	if code != 1 {
		t.Errorf("%s: exit code %d, want 1", command, code)
	}
	for _, name := range outputs {
		if err := docblocks.Shows(name, printed); err != nil {
			t.Error(err)
		}
	}
}

func TestPagesShowFindingsOfStatus(t *testing.T) {
	ageDefinition(t, "spiderippools.spiderpool.spidernet.io", "v0.0.9")
	createCluster(t, []byte(brokenCluster))
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		return clustercidr.New(status.NewWriter(mgr), mgr.GetAPIReader(), clustercidr.Options{
			Name: "default", CiliumConfigMap: client.ObjectKey{Namespace: "kube-system", Name: "cilium-config"},
		}).Register(mgr)
	})
	kubetest.Eventually(t, func(ctx context.Context) error {
		var coordinator v2beta1.SpiderCoordinator
		if err := kubetest.Client(t).Get(ctx, client.ObjectKey{Name: "default"}, &coordinator); err != nil || coordinator.Status.Phase != "" {
			return err
		}
		return errors.New("the controller has not judged the coordinator yet")
	})
	shows(t, writeKubeconfig(t, kubetest.User(t, "spiderpool-reader")), "status", "status-webhooks", "status-failures")
}

// ageDefinition makes a definition that of an earlier release, until the test ends.
func ageDefinition(t *testing.T, name, release string) {
	t.Helper()
	c := kubetest.Client(t)
	if err := apiextensionsv1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	stamp := func(ctx context.Context, value string) error {
		definition := &apiextensionsv1.CustomResourceDefinition{}
		definition.Name = name
		return c.Patch(ctx, definition, client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"annotations":{"ipam.spidernet.io/release":%s}}}`, value)))
	}
	if err := stamp(t.Context(), `"`+release+`"`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stamp(context.Background(), "null"); err != nil {
			t.Error(err)
		}
	})
}

func TestPagesShowPodsOfAnotherRelease(t *testing.T) {
	createCluster(t, []byte(`apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: blue}
spec: {subnet: 10.6.0.0/24, ips: [10.6.0.1-10.6.0.10]}
status: {allocatedIPCount: 1, allocatedIPs: '{"10.6.0.1":{"pod":"shop/web-0","podUid":"1"}}'}
`))
	shows(t, writeKubeconfig(t, administrator(t)), "preflight", "preflight-other-release")
}

func TestPagesShowAddressThatStaysLeased(t *testing.T) {
	createCluster(t, []byte(`apiVersion: v1
kind: ConfigMap
metadata: {namespace: kube-system, name: spiderpool-conf}
data:
  config.yaml: "{apiVersion: config.spiderpool.spidernet.io/v1, kind: SpiderpoolConfiguration}"
---
apiVersion: v1
kind: Node
metadata: {name: worker1}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: symptom-full, finalizers: [`+v2beta1.Finalizer+`]}
spec: {subnet: 10.6.0.0/16, ips: [10.6.131.50]}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPBlock
metadata: {name: 10.6.131.48}
spec:
  cidr: 10.6.131.48/28
  node: worker1
  leases:
  - {ip: 10.6.131.50, state: InUse, pool: symptom-full, pod: default/symptom-holder, podUID: u2, containerID: 0123456789abcdef, interface: eth0, node: worker1, since: "2026-11-28T02:00:00Z"}
`))
	startReconcilers(t)
	shows(t, writeKubeconfig(t, administrator(t)), "release 10.6.131.50 --force", "address-not-released")

	c, pool := kubetest.Client(t), &v2beta1.SpiderIPPool{}
	pool.Name = "symptom-full"
	if err := c.Delete(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
			return err
		}
		ready := meta.FindStatusCondition(pool.Status.Conditions, status.ConditionReady)
		if ready == nil || ready.Status == metav1.ConditionTrue {
			return fmt.Errorf("the condition is %+v", ready)
		}
		return docblocks.Shows("pool-terminating", ready.Reason+": "+ready.Message)
	})
}

//go:build apiserver

package cli

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/endpoint"
	"spiderpool.dev/spiderpool/internal/controller/leasereclaim"
	"spiderpool.dev/spiderpool/internal/controller/poolstatus"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/kube/status"
	reclaimmetrics "spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// actCluster has three discrepancies that the controller repairs, and two retained addresses. The StatefulSet of
// default/db-0 exists.
const actCluster = `apiVersion: v1
kind: ConfigMap
metadata: {namespace: kube-system, name: spiderpool-conf}
data:
  config.yaml: "{apiVersion: config.spiderpool.spidernet.io/v1, kind: SpiderpoolConfiguration}"
---
apiVersion: v1
kind: Node
metadata: {name: t1}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {namespace: default, name: db}
spec:
  replicas: 1
  selector: {matchLabels: {a: db}}
  template: {metadata: {labels: {a: db}}, spec: {containers: [{name: c, image: registry.example/db}]}}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: amber}
spec: {subnet: 10.17.0.0/24, ips: [10.17.0.2-10.17.0.10]}
status: {totalIPCount: 9, allocatedIPCount: 7, conditions: [{type: Ready, status: "True", reason: InUse, message: ready, lastTransitionTime: "2026-11-29T02:00:00Z"}]}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPBlock
metadata: {name: 10.17.0.0}
spec:
  cidr: 10.17.0.0/28
  node: t1
  leases:
  - {ip: 10.17.0.3, state: InUse, pool: amber, pod: default/gone, podUID: u2, containerID: c2, interface: eth0, node: t1, since: "2026-11-28T02:00:00Z"}
  - {ip: 10.17.0.4, state: InUse, pool: amber, pod: default/dead, podUID: u3, containerID: c3, interface: eth0, node: t9, since: "2026-11-28T02:00:00Z"}
  - {ip: 10.17.0.5, state: Retained, pool: amber, pod: default/db-0, podUID: u4, interface: eth0, node: t1, fixedFor: Pod/default/db-0, since: "2026-11-28T02:00:00Z"}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderEndpoint
metadata: {namespace: default, name: stale}
status:
  ownerControllerType: Pod
  ownerControllerName: stale
  current: {uid: u9, node: t1, ips: [{interface: eth0, ipv4: 10.17.0.9/24}]}
`

// startReconcilers starts those that repair and release.
func startReconcilers(t *testing.T) {
	t.Helper()
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		log, w, index := slog.New(slog.DiscardHandler), status.NewWriter(mgr), poolindex.New()
		err := errors.Join(
			blockindex.IndexBlocksByHolder(t.Context(), mgr.GetFieldIndexer()), blockindex.IndexBlocksByPool(t.Context(), mgr.GetFieldIndexer()),
			poolstatus.New(w, mgr.GetAPIReader(), index, log).Register(mgr),
			endpoint.New(mgr.GetClient(), mgr.GetAPIReader(), log).Register(mgr),
			leasereclaim.New(w, mgr.GetAPIReader(), leasereclaim.Options{
				Policy:   reclaim.Policy{Enabled: true, FixedForStatefulSet: true, FixedForKubeVirt: true, ScaledDownRetention: time.Hour},
				Interval: time.Hour, Idle: time.Hour, Observer: reclaimmetrics.NewReclaims(),
			}, log).Register(mgr),
		)
		return errors.Join(err, index.Watch(t.Context(), mgr.GetCache()))
	})
}

// administrator returns the configuration of an account with all rights.
func administrator(t *testing.T) *rest.Config {
	t.Helper()
	config := kubetest.Account(t, "default", "administrator", "")
	kubetest.Create(t, kubetest.Client(t), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "administrator"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "administrator"}},
	})
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error { // the API server learns of the binding by a watch
		return c.List(ctx, &networkingv1.ServiceCIDRList{})
	})
	return config
}

// TestCheckAsksControllerToRepair leaves the lease of the living node, which only its agent can judge.
func TestCheckAsksControllerToRepair(t *testing.T) {
	createCluster(t, []byte(actCluster))
	kubeconfig := writeKubeconfig(t, administrator(t))
	wantOutput(t, kubeconfig, "check --settle 0s", 1,
		"LeaseWithoutPod: SpiderIPBlock 10.17.0.0, 10.17.0.4: it is leased to pod default/dead, and there is no such pod, and node t9 does not exist",
		"EndpointWithoutPod: SpiderEndpoint default/stale", "PoolCountsDiffer: SpiderIPPool amber: its status counts 7 of 9 addresses in use; by the leases, it is 3 of 9")
	wantOutput(t, writeKubeconfig(t, kubetest.User(t, "spiderpool-reader")), "check --settle 0s --repair", 2, "you may not ask the controller to repair", "the right to patch this kind")
	startReconcilers(t)
	wantOutput(t, kubeconfig, "check --settle 0s --repair --wait 20s", 1,
		"LeaseWithoutPod: SpiderIPBlock 10.17.0.0, 10.17.0.3: it is leased to pod default/gone, and there is no such pod; the pool lacks the address. The agent of node t1 frees it")
	wantOutput(t, kubeconfig, "check --settle 0s -o name", 1, "spideripblock/10.17.0.0\n")
}

// TestRepairWithoutControllerChangesNothing asks in vain: the annotation is all that is written.
func TestRepairWithoutControllerChangesNothing(t *testing.T) {
	createCluster(t, []byte(actCluster))
	kubeconfig := writeKubeconfig(t, administrator(t))
	wantOutput(t, kubeconfig, "check --settle 0s --repair --wait 0s", 1, "PoolCountsDiffer", "EndpointWithoutPod", "LeaseWithoutPod")
	block := readBlock(t)
	if len(block.Spec.Leases) != 3 || block.Annotations[names.AnnotationCheck] == "" {
		t.Errorf("block is %+v", block)
	}
}

func readBlock(t *testing.T) *v2beta1.SpiderIPBlock {
	t.Helper()
	block := &v2beta1.SpiderIPBlock{}
	if err := kubetest.Client(t).Get(t.Context(), client.ObjectKey{Name: "10.17.0.0"}, block); err != nil {
		t.Fatal(err)
	}
	return block
}

// TestReleaseWithoutControllerIsWithdrawn waits in vain for an answer.
func TestReleaseWithoutControllerIsWithdrawn(t *testing.T) {
	createCluster(t, []byte(actCluster))
	kubeconfig := writeKubeconfig(t, administrator(t))
	wantOutput(t, kubeconfig, "release 10.17.0.5 --force --wait 0s", 2, "no controller answered within 0s, and the request is withdrawn")
	block := readBlock(t)
	if _, waits := block.Annotations[names.AnnotationReleaseAddress]; waits || block.Spec.Leases[2].State != v2beta1.LeaseRetained {
		t.Errorf("block is %+v", block)
	}
	wantOutput(t, writeKubeconfig(t, kubetest.User(t, "spiderpool-reader")), "release 10.17.0.5 --force", 2, "you may not patch SpiderIPBlock 10.17.0.0")
}

func TestReleaseIsAnsweredByController(t *testing.T) {
	createCluster(t, []byte(actCluster))
	kubeconfig := writeKubeconfig(t, administrator(t))
	startReconcilers(t)
	wantOutput(t, kubeconfig, "release 10.17.0.3 --force", 1, "10.17.0.3 is not released", "default/gone", "t1", "not even --force replaces them")
	wantOutput(t, kubeconfig, "release 10.17.0.5", 1, "10.17.0.5 is not released: reserved for Pod/default/db-0", "--force releases it nevertheless")
	wantOutput(t, kubeconfig, "release 10.17.0.5 --force --dry-run", 0, "10.17.0.5 would be released")
	if state := readBlock(t).Spec.Leases[2].State; state != v2beta1.LeaseRetained {
		t.Fatalf("the dry run made the lease %s", state)
	}
	wantOutput(t, kubeconfig, "release 10.17.0.5 --force", 0, "10.17.0.5 is released: a user asked for the release of the address of Pod/default/db-0")
	if state := readBlock(t).Spec.Leases[2].State; state != v2beta1.LeaseReleased {
		t.Errorf("the lease is %s", state)
	}
	former := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-0", UID: "u4"}}
	kubetest.Event(t, kubetest.Client(t), former, "ReclaimedIP", "reclaimed 10.17.0.5 of pool amber (UserRequest)")
}

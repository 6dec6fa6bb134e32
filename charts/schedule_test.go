//go:build apiserver

package charts

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/names"
)

const observed = "observability.enabled=true,observability.relay.enabled=true"

// deploymentValues are the Deployments of the chart with the prefix of their values.
var deploymentValues = map[string]string{"spiderpool-controller": "spiderpoolController", "spiderpool-hubble-relay": "observability.relay"}

func TestConstraintsSpreadOwnPods(t *testing.T) {
	for name, prefix := range deploymentValues {
		first := prefix + ".topologySpreadConstraints[0]."
		set := first + "topologyKey=topology.kubernetes.io/zone," + first + "maxSkew=1," + first + "whenUnsatisfiable=ScheduleAnyway"
		d := objectsOf[appsv1.Deployment](t, render(t, "--set", observed, "--set", set), "Deployment")[name]
		want := []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: "topology.kubernetes.io/zone", WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: d.Spec.Selector,
		}}
		if diff := cmp.Diff(want, d.Spec.Template.Spec.TopologySpreadConstraints); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		set += "," + first + "labelSelector.matchLabels.app=x"
		d = objectsOf[appsv1.Deployment](t, render(t, "--set", observed, "--set", set), "Deployment")[name]
		want[0].LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
		if diff := cmp.Diff(want, d.Spec.Template.Spec.TopologySpreadConstraints); diff != "" {
			t.Errorf("%s with a selector (-want +got):\n%s", name, diff)
		}
	}
}

func TestBudgetSelectsOwnPods(t *testing.T) {
	for name, prefix := range deploymentValues {
		manifest := render(t, "--set", observed, "--set", prefix+".podDisruptionBudget.enabled=true,"+prefix+".podDisruptionBudget.minAvailable=2")
		budgets := objectsOf[policyv1.PodDisruptionBudget](t, manifest, "PodDisruptionBudget")
		budget := budgets[name]
		if len(budgets) != 1 || budget.Spec.MinAvailable.IntValue() != 2 {
			t.Fatalf("%s: got %+v", name, budgets)
		}
		if diff := cmp.Diff(objectsOf[appsv1.Deployment](t, manifest, "Deployment")[name].Spec.Selector, budget.Spec.Selector); diff != "" {
			t.Errorf("%s: the budget selects other pods:\n%s", name, diff)
		}
	}
}

// Without the toleration, no node with the taint starts the controller, which removes the taint.
func TestControllerToleratesStartupTaint(t *testing.T) {
	const none = `spiderpoolController.tolerations=[]`
	startup := corev1.Toleration{Key: names.TaintAgentNotReady, Operator: corev1.TolerationOpExists}
	for _, c := range []struct {
		enabled, values string
		want            int
	}{
		{"false", none, 0}, {"true", none, 1}, {"true", `spiderpoolController.tolerations=null`, 1},
		{"true", `spiderpoolController.replicas=1`, 1}, // the default tolerations have it
		{"true", `spiderpoolController.tolerations=[{"key":"team","operator":"Exists"}]`, 1},
	} {
		manifest := render(t, "--set", "startupTaint.enabled="+c.enabled, "--set-json", c.values)
		count := 0
		for _, toleration := range objectsOf[appsv1.Deployment](t, manifest, "Deployment")["spiderpool-controller"].Spec.Template.Spec.Tolerations {
			if toleration == startup {
				count++
			}
		}
		if count != c.want {
			t.Errorf("startupTaint.enabled=%s, %s: %d times, want %d", c.enabled, c.values, count, c.want)
		}
	}
}

// The controller may write the status of nodes, and is asked about pods, only if the scheduler counts addresses.
func TestAddressRightsFollowSwitch(t *testing.T) {
	const hook = "addresses.pod.mutate.spiderpool.spidernet.io"
	for _, c := range []struct {
		set        string
		conditions []string // of the webhook, nil for none
		excluded   []string
	}{
		{"addressResource.enabled=false", nil, nil},
		{"addressResource.enabled=true", []string{"pod-network", "attachments"}, []string{"kube-system"}},
		{"addressResource.enabled=true,multus.multusCNI.defaultCniCRName=ens5", []string{"pod-network"}, []string{"kube-system"}},
		{"addressResource.enabled=true,multus.defaultNetworks={a/b},addressResource.namespacesExclude={x}", []string{"pod-network"}, []string{"x", "kube-system"}},
	} {
		manifest, enabled := render(t, "--set", c.set), c.conditions != nil
		if got := configuration(t, manifest).ControllerProcess.AddressResource.Enabled; got != enabled {
			t.Errorf("%s: the configuration says %v", c.set, got)
		}
		writes := slices.ContainsFunc(objectsOf[rbacv1.ClusterRole](t, manifest, "ClusterRole")["spiderpool-controller"].Rules, func(rule rbacv1.PolicyRule) bool {
			return slices.Contains(rule.Resources, "nodes/status")
		})
		if writes != enabled {
			t.Errorf("%s: the controller may write the status of nodes: %v", c.set, writes)
		}
		var conditions, excluded []string
		for _, h := range objectsOf[admissionv1.MutatingWebhookConfiguration](t, manifest, "MutatingWebhookConfiguration")["spiderpool-controller"].Webhooks {
			if h.Name != hook {
				continue
			}
			excluded = h.NamespaceSelector.MatchExpressions[0].Values
			for _, condition := range h.MatchConditions {
				conditions = append(conditions, condition.Name)
			}
			if *h.FailurePolicy != admissionv1.Ignore || *h.TimeoutSeconds != 3 {
				t.Errorf("%s: the webhook has the policy %s and waits %d s", c.set, *h.FailurePolicy, *h.TimeoutSeconds)
			}
		}
		if !slices.Equal(conditions, c.conditions) || !slices.Equal(excluded, c.excluded) {
			t.Errorf("%s: the webhook has the conditions %v and excludes %v", c.set, conditions, excluded)
		}
	}
}

// notes returns what helm prints after an installation.
func notes(t *testing.T, args ...string) string {
	t.Helper()
	out, failure := helm(t, append([]string{"install", "spiderpool", "spiderpool", "--namespace", "kube-system", "--dry-run=client"}, args...)...)
	if failure != "" {
		t.Fatal(failure)
	}
	_, text, ok := strings.Cut(string(out), "\nNOTES:\n")
	if !ok {
		t.Fatalf("no notes in %s", out)
	}
	return text
}

func TestNotesFitInstallation(t *testing.T) {
	for values, want := range map[string]struct{ has, lacks string }{
		"multus.multusCNI.defaultCniCRName=net":                                                 {"SpiderMultusConfig kube-system/net", "observ"},
		"multus.enableMultusConfig=false":                                                       {"NetworkAttachmentDefinition", "SpiderMultusConfig for each"},
		"ipam.enableStatefulSet=true":                                                           {"SpiderMultusConfig for each", "PodDisruptionBudget"},
		"spiderpoolController.podDisruptionBudget.enabled=true":                                 {"spiderpoolController.replicas", ""},
		"spiderpoolController.replicas=2,spiderpoolController.podDisruptionBudget.enabled=true": {"", "PodDisruptionBudget"},
		"observability.enabled=true":                                                            {"hubble", "SpiderCloudNetwork"},
		"cloud.enabled=true":                                                                    {"a SpiderCloudNetwork makes the networks", ""},
		"clusterDefaultPool.installIPv4IPPool=true,clusterDefaultPool.ipv4Subnet=10.1.0.0/16,clusterDefaultPool.ipv4IPRanges={10.1.0.5-10.1.0.9}": {"default-v4-ippool", ""},
		"policy.enabled=false": {"policy.enabled is false", ""},
	} {
		text := notes(t, "--set", values)
		if !strings.Contains(text, want.has) || want.lacks != "" && strings.Contains(text, want.lacks) || !strings.Contains(text, "spiderpoolctl status --wait") {
			t.Errorf("%s: want %q and not %q in\n%s", values, want.has, want.lacks, text)
		}
	}
}

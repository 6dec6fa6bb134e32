//go:build apiserver

package charts

import (
	"reflect"
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"spiderpool.dev/spiderpool/internal/config"
)

// The controller may create pools only if it follows a cloud.
func TestCloudRightsFollowSwitch(t *testing.T) {
	for _, enabled := range []string{"true", "false"} {
		manifest := render(t, "--set", "cloud.enabled="+enabled)
		if got := configuration(t, manifest).Cloud.Enabled; got != (enabled == "true") {
			t.Errorf("cloud.enabled=%s: the configuration says %v", enabled, got)
		}
		creates := slices.ContainsFunc(objectsOf[rbacv1.ClusterRole](t, manifest, "ClusterRole")["spiderpool-controller"].Rules, func(rule rbacv1.PolicyRule) bool {
			return slices.Contains(rule.Resources, "spiderippools") && slices.Contains(rule.Verbs, "create")
		})
		if creates != (enabled == "true") {
			t.Errorf("cloud.enabled=%s: the controller may create pools: %v", enabled, creates)
		}
	}
}

// The controller may read the Secret of the service, and no other.
func TestServiceSecretIsReadable(t *testing.T) {
	const url = "iaasNetworkProvider.serverUrl=https://iaas.example"
	manifest := render(t, "--set", "cloud.enabled=true,"+url+",iaasNetworkProvider.tlsSecret.name=iaas,iaasNetworkProvider.tlsSecret.namespace=clouds")
	if got := configuration(t, manifest).IaaS; got.ServerURL != "https://iaas.example" || got.TLSSecret != (config.ObjectName{Namespace: "clouds", Name: "iaas"}) {
		t.Errorf("the configuration has %+v", got)
	}
	role := objectsOf[rbacv1.Role](t, manifest, "Role")["spiderpool-controller-iaas"]
	want := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"iaas"}, Verbs: []string{"get"}}}
	if role.Namespace != "clouds" || !reflect.DeepEqual(role.Rules, want) {
		t.Errorf("the Role in %q has the rules %+v", role.Namespace, role.Rules)
	}
}

// The controller may read the events about Nodes, and no others.
func TestNewsOfAgentsIsReadable(t *testing.T) {
	for enabled, want := range map[string]bool{"true": true, "false": false} {
		manifest := render(t, "--set", "cloud.enabled="+enabled)
		role, exists := objectsOf[rbacv1.Role](t, manifest, "Role")["spiderpool-controller-cloud-news"]
		if exists != want || want && role.Namespace != "default" {
			t.Errorf("cloud.enabled=%s: the Role exists: %v, in the namespace %q", enabled, exists, role.Namespace)
		}
	}
}

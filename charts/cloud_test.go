//go:build apiserver

package charts

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
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

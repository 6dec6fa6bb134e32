//go:build apiserver

package charts

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// The agent keeps its two capabilities for links, routes and bandwidth. spiderpoolctl policy lists policies in any case.
func TestPolicyRightsFollowSwitch(t *testing.T) {
	for _, enabled := range []string{"true", "false"} {
		manifest := render(t, "--set", "policy.enabled="+enabled)
		if got := configuration(t, manifest).Policy.Enabled; got != (enabled == "true") {
			t.Errorf("policy.enabled=%s: the configuration says %v", enabled, got)
		}
		for _, role := range []string{"spiderpool-agent", "spiderpool-controller"} {
			for _, rule := range objectsOf[rbacv1.ClusterRole](t, manifest, "ClusterRole")[role].Rules {
				about := slices.ContainsFunc(rule.Resources, func(resource string) bool {
					return resource == "spiderpeergroups" || strings.Contains(resource, "networkpolicies")
				})
				follows := about && slices.ContainsFunc(rule.Verbs, func(verb string) bool { return verb != "list" && verb != "delete" })
				if follows && enabled == "false" {
					t.Errorf("without policies, %s has the rule %+v", role, rule)
				}
			}
		}
	}
}

// An uninstallation removes the packet filters from running pods, too.
func TestRemovalReachesPodNamespaces(t *testing.T) {
	cleaner := objectsOf[appsv1.DaemonSet](t, render(t), "DaemonSet")["spiderpool-init-clean"].Spec.Template.Spec
	c := cleaner.InitContainers[0]
	if !slices.Contains(c.Args, "--remove-policies=/run/netns") {
		t.Errorf("arguments: %q", c.Args)
	}
	sees := func(m corev1.VolumeMount) bool {
		return m.MountPath == "/run/netns" && m.ReadOnly && m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationHostToContainer
	}
	if !slices.ContainsFunc(c.VolumeMounts, sees) {
		t.Errorf("mounts: %+v", c.VolumeMounts)
	}
}

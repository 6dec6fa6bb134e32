//go:build apiserver

package charts

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"spiderpool.dev/spiderpool/internal/kube/definitions"
)

func TestHookMayWriteEveryDefinition(t *testing.T) {
	var want []string
	wanted, err := definitions.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range wanted {
		want = append(want, d.GetName())
	}
	want = append(want, "network-attachment-definitions.k8s.cni.cncf.io") // if it is missing
	for _, rule := range objectsOf[rbacv1.ClusterRole](t, render(t), "ClusterRole")["spiderpool-init-definitions"].Rules {
		if slices.Contains(rule.Resources, "customresourcedefinitions") {
			if diff := cmp.Diff(want, rule.ResourceNames); diff != "" {
				t.Errorf("definitions of the role (-want +got):\n%s", diff)
			}
			return
		}
	}
	t.Error("the role has no rule for definitions")
}

func TestNoWorkloadNeedsPodNetwork(t *testing.T) {
	manifest := render(t, guide...)
	specs := map[string]corev1.PodSpec{}
	for name, ds := range objectsOf[appsv1.DaemonSet](t, manifest, "DaemonSet") {
		specs[name] = ds.Spec.Template.Spec
	}
	for name, d := range objectsOf[appsv1.Deployment](t, manifest, "Deployment") {
		specs[name] = d.Spec.Template.Spec
	}
	if len(specs) != 4 {
		t.Fatalf("%d workloads, want agent, multus, controller and the cleaner of the removal", len(specs))
	}
	notReady := corev1.Taint{Key: "node.kubernetes.io/not-ready", Effect: corev1.TaintEffectNoSchedule}
	for name, spec := range specs {
		if !spec.HostNetwork {
			t.Errorf("%s needs a pod network", name)
		}
		tolerated := false
		for _, toleration := range spec.Tolerations {
			tolerated = tolerated || toleration.Operator == corev1.TolerationOpExists &&
				(toleration.Key == "" || toleration.Key == notReady.Key) && (toleration.Effect == "" || toleration.Effect == notReady.Effect)
		}
		if !tolerated {
			t.Errorf("%s does not start on a NotReady node: %+v", name, spec.Tolerations)
		}
	}
}

func TestAgentHasTwoCapabilities(t *testing.T) {
	agent := func(args ...string) corev1.Container {
		return objectsOf[appsv1.DaemonSet](t, render(t, args...), "DaemonSet")["spiderpool-agent"].Spec.Template.Spec.Containers[0]
	}
	c := agent()
	want := &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN", "SYS_ADMIN"}}
	if sc := c.SecurityContext; sc.Privileged != nil || !reflect.DeepEqual(sc.Capabilities, want) || !*sc.ReadOnlyRootFilesystem ||
		*sc.AllowPrivilegeEscalation || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the agent has %+v", sc)
	}
	for _, mount := range c.VolumeMounts {
		if writable := slices.Contains([]string{"socket", "state", "sysctls", "bpffs"}, mount.Name); mount.ReadOnly == writable {
			t.Errorf("mount %s: read-only is %v", mount.Name, mount.ReadOnly)
		}
	}
	// AppArmor's default profile denies the programs and maps of services.
	if p := c.SecurityContext.AppArmorProfile; p == nil || p.Type != corev1.AppArmorProfileTypeUnconfined {
		t.Errorf("the agent has the AppArmor profile %v", p)
	}
	if p := agent("--set", "service.mode=kubeproxy").SecurityContext.AppArmorProfile; p != nil {
		t.Errorf("with service.mode=kubeproxy, the agent has the AppArmor profile %v", p)
	}
	// The API server refuses privileged together with allowPrivilegeEscalation: false.
	if sc := agent("--set", "spiderpoolAgent.securityContext.privileged=true").SecurityContext; !*sc.Privileged || sc.AllowPrivilegeEscalation != nil {
		t.Errorf("a privileged agent has %+v", sc)
	}
}

func TestInstallersAreNotPrivileged(t *testing.T) {
	manifest := render(t, "-f", "testdata/everything.values.yaml")
	for name, ds := range objectsOf[appsv1.DaemonSet](t, manifest, "DaemonSet") {
		containers := ds.Spec.Template.Spec.InitContainers
		if name == "spiderpool-multus" {
			containers = append(containers, ds.Spec.Template.Spec.Containers...)
		}
		add := []corev1.Capability{"DAC_OVERRIDE"}
		if name == "spiderpool-init-clean" {
			add = append(add, "NET_ADMIN", "SYS_ADMIN")
		}
		for _, c := range containers {
			sc := c.SecurityContext
			if sc == nil || sc.Privileged != nil && *sc.Privileged || sc.Capabilities == nil ||
				!slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) || !slices.Equal(sc.Capabilities.Add, add) {
				t.Errorf("%s/%s has %+v", name, c.Name, sc)
			}
		}
		for _, c := range ds.Spec.Template.Spec.Containers {
			for _, mount := range c.VolumeMounts {
				if strings.HasPrefix(mount.Name, "cri-") && !mount.ReadOnly {
					t.Errorf("%s/%s may write to the directory of the runtime's socket", name, c.Name)
				}
			}
		}
	}
}

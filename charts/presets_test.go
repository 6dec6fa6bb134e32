//go:build apiserver

package charts

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// presets are the facts of each distribution that a pod's specification must show.
var presets = map[string]struct {
	bin, conf, socket string
	plugins, multus   bool // whether the chart installs them
}{
	"k3s":       {"/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d", "/run/k3s/containerd/containerd.sock", true, true},
	"rke2":      {"/opt/cni/bin", "/etc/cni/net.d", "/run/k3s/containerd/containerd.sock", true, true},
	"openshift": {"/var/lib/cni/bin", "/etc/kubernetes/cni/net.d", "/run/crio/crio.sock", false, false},
	"eks":       {"/opt/cni/bin", "/etc/cni/net.d", "/run/containerd/containerd.sock", true, true},
	"kind":      {"/opt/cni/bin", "/etc/cni/net.d", "/run/containerd/containerd.sock", true, true},
	"microk8s":  {"/var/snap/microk8s/current/opt/cni/bin", "/var/snap/microk8s/current/args/cni-network", "/var/snap/microk8s/common/run/containerd.sock", true, true},
}

func presetFile(name string) string { return "spiderpool/presets/" + name + ".yaml" }

func TestEveryPresetHasTestAndCommand(t *testing.T) {
	files, err := filepath.Glob(presetFile("*"))
	if err != nil || len(files) != len(presets) {
		t.Errorf("%d presets with a test, files %q, %v", len(presets), files, err)
	}
	page := read(t, "../docs/guides/platforms.md")
	for name := range presets {
		if !strings.Contains(page, "-f charts/"+presetFile(name)) {
			t.Errorf("docs/guides/platforms.md has no command with %s", presetFile(name))
		}
	}
}

func TestPresetsPassLint(t *testing.T) {
	for name := range presets {
		if out, failure := helm(t, "lint", "--strict", "spiderpool", "-f", presetFile(name)); failure != "" {
			t.Errorf("%s: %s\n%s", name, failure, out)
		}
	}
}

// hostPaths returns the path of each volume of the node, by the volume's name.
func hostPaths(spec corev1.PodSpec) map[string]string {
	paths := map[string]string{}
	for _, v := range spec.Volumes {
		if v.HostPath != nil {
			paths[v.Name] = v.HostPath.Path
		}
	}
	return paths
}

func TestPresetsReachNodes(t *testing.T) {
	for name, want := range presets {
		manifest := render(t, "-f", presetFile(name))
		sets := objectsOf[appsv1.DaemonSet](t, manifest, "DaemonSet")
		agent := sets["spiderpool-agent"].Spec.Template.Spec
		paths := hostPaths(agent)
		if paths["cni-bin"] != want.bin {
			t.Errorf("%s: CNI plugins go to %s", name, paths["cni-bin"])
		}
		socket := filepath.Dir(want.socket)
		if !slices.ContainsFunc(agent.Volumes, func(v corev1.Volume) bool { return v.HostPath != nil && v.HostPath.Path == socket }) {
			t.Errorf("%s: the agent has no volume for %s", name, want.socket)
		}
		if got := configuration(t, manifest).AgentProcess.CRISockets; !slices.Equal(got, []string{want.socket}) {
			t.Errorf("%s: the agent asks %q", name, got)
		}
		installs := slices.ContainsFunc(agent.InitContainers, func(c corev1.Container) bool { return c.Name == "install-cni-plugins" })
		if installs != want.plugins {
			t.Errorf("%s: installs the plugins of containernetworking: %t", name, installs)
		}
		multus, ok := sets["spiderpool-multus"]
		if ok != want.multus || ok && hostPaths(multus.Spec.Template.Spec)["cni-conf"] != want.conf {
			t.Errorf("%s: Multus %t, in %s", name, ok, hostPaths(multus.Spec.Template.Spec)["cni-conf"])
		}
		cleaner := hostPaths(sets["spiderpool-init-clean"].Spec.Template.Spec)
		if cleaner["cni-bin"] != want.bin || cleaner["cni-conf"] != want.conf {
			t.Errorf("%s: the removal cleans %v", name, cleaner)
		}
	}
}

// OpenShift admits a pod by the SecurityContextConstraints of its account.
func TestOpenShiftPermitsNodePods(t *testing.T) {
	manifest := render(t, "--namespace", "spiderpool", "-f", presetFile("openshift"))
	constraints := objectsOf[struct {
		metav1.TypeMeta
		metav1.ObjectMeta `json:"metadata"`

		AllowHostDirVolumePlugin, AllowHostIPC, AllowHostNetwork, AllowHostPID, AllowHostPorts bool
		AllowPrivilegeEscalation, AllowPrivilegedContainer, ReadOnlyRootFilesystem             bool

		AllowedCapabilities, DefaultAddCapabilities, RequiredDropCapabilities []corev1.Capability
		RunAsUser, SELinuxContext, FSGroup, SupplementalGroups                struct{ Type string }

		Priority                                int
		SeccompProfiles, Volumes, Users, Groups []string
	}](t, manifest, "SecurityContextConstraints")["spiderpool-node"]
	if !constraints.AllowHostNetwork || !constraints.AllowHostDirVolumePlugin || constraints.SELinuxContext.Type != "RunAsAny" || constraints.AllowHostPID {
		t.Errorf("got %+v", constraints)
	}
	var accounts []string
	for _, subject := range objectsOf[rbacv1.RoleBinding](t, manifest, "RoleBinding")["spiderpool-node"].Subjects {
		accounts = append(accounts, subject.Name)
	}
	for name, set := range objectsOf[appsv1.DaemonSet](t, manifest, "DaemonSet") {
		spec := set.Spec.Template.Spec
		if !slices.Contains(accounts, spec.ServiceAccountName) {
			t.Errorf("%s: the account %q is not among %q", name, spec.ServiceAccountName, accounts)
		}
		for _, c := range append(spec.InitContainers, spec.Containers...) {
			sc := c.SecurityContext
			if sc.Privileged != nil && *sc.Privileged {
				if !constraints.AllowPrivilegedContainer {
					t.Errorf("%s/%s is privileged", name, c.Name)
				}
				continue
			}
			for _, capability := range sc.Capabilities.Add {
				if !slices.Contains(constraints.AllowedCapabilities, capability) {
					t.Errorf("%s/%s needs %s", name, c.Name, capability)
				}
			}
		}
	}
	// All others run with restricted-v2, which chooses the user and permits nothing of the node.
	specs := map[string]corev1.PodSpec{}
	for name, d := range objectsOf[appsv1.Deployment](t, manifest, "Deployment") {
		specs[name] = d.Spec.Template.Spec
	}
	for name, j := range objectsOf[batchv1.Job](t, manifest, "Job") {
		specs[name] = j.Spec.Template.Spec
	}
	if len(specs) != 6 {
		t.Errorf("%d workloads, want the controller and five jobs", len(specs))
	}
	for name, spec := range specs {
		sc := spec.Containers[0].SecurityContext
		if spec.HostNetwork || len(hostPaths(spec)) > 0 || sc.RunAsUser != nil || sc.RunAsGroup != nil || !*sc.RunAsNonRoot || *sc.AllowPrivilegeEscalation ||
			cmp.Diff(sc.Capabilities, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}) != "" {
			t.Errorf("%s does not fit restricted-v2: host network %t, volumes %v, %+v", name, spec.HostNetwork, hostPaths(spec), sc)
		}
	}
}

// createConstraintsKind creates a kind that accepts any SecurityContextConstraints.
func createConstraintsKind(t *testing.T) {
	t.Helper()
	s := scheme.New()
	if err := apiextensionsv1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(kubetest.Config(t), client.Options{Scheme: s})
	if err != nil {
		t.Fatal(err)
	}
	kubetest.Create(t, c, kubetest.Definition(
		schema.GroupVersionKind{Group: "security.openshift.io", Version: "v1", Kind: "SecurityContextConstraints"}, "securitycontextconstraints"))
}

func TestAPIServerAcceptsPresets(t *testing.T) {
	createConstraintsKind(t)
	access := kubeconfig(t)
	for name := range presets {
		if _, failure := helm(t, "install", "spiderpool", "spiderpool", "--namespace", "kube-system", "--kubeconfig", access,
			"--dry-run=server", "-f", presetFile(name)); failure != "" {
			t.Errorf("%s: %s", name, failure)
		}
	}
}

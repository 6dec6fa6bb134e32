//go:build apiserver

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestBundleHoldsInstallationWithoutSecrets(t *testing.T) {
	createCluster(t, []byte(actCluster))
	c := kubetest.Client(t)
	labels := map[string]string{"app.kubernetes.io/name": "spiderpool", "app.kubernetes.io/component": "controller"}
	container := corev1.Container{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "PROXY_PASSWORD", Value: "hunter2-env"}}, Args: []string{"--token=hunter2-arg"}}
	kubetest.Create(t, c, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "spiderpool-controller", Labels: labels},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{container}}}},
	}, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "spiderpool-tls", Labels: labels}, StringData: map[string]string{"tls.key": "hunter2-password"}})
	files, m := writeBundle(t, writeKubeconfig(t, administrator(t)))
	for name, part := range map[string]string{
		"objects/spiderippools.json": `"amber"`, "objects/spideripblocks.json": "10.17.0.4", "objects/spiderendpoints.json": "stale", "objects/nodes.json": `"t1"`,
		"installation/deployments.json": removed, "installation/configuration.json": "SpiderpoolConfiguration", "definitions/spiderippools.json": "spiderippools.spiderpool.spidernet.io",
		"versions/kubernetes.json": "gitVersion", "findings/check.json": "LeaseWithoutPod",
	} {
		if !strings.Contains(files[name], part) {
			t.Errorf("%s: no %q in %.500s", name, part, files[name])
		}
	}
	for name, text := range files {
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s has a secret", name)
		}
	}
	for _, left := range m.LeftOut {
		if !strings.HasPrefix(left.Source, "nodes: links") && left.Why != "this kind is not installed" && left.Why != "there is none" {
			t.Errorf("left out %+v", left)
		}
	}
}

// TestBundleNotesMissingRights has the rights of a reader: no logs, no lists of leases and peer groups.
func TestBundleNotesMissingRights(t *testing.T) {
	createCluster(t, []byte(actCluster))
	removeDefinition(t, "spiderreservedips.spiderpool.spidernet.io")
	files, m := writeBundle(t, writeKubeconfig(t, kubetest.User(t, "spiderpool-reader")))
	if !strings.Contains(files["objects/spiderippools.json"], `"amber"`) {
		t.Errorf("pools: %.300s", files["objects/spiderippools.json"])
	}
	why := map[string]string{}
	for _, left := range m.LeftOut {
		why[left.Source] = left.Why
	}
	for source, part := range map[string]string{
		"/apis/spiderpool.spidernet.io/v2beta1/spiderpeergroups":                                                       "you may not read it",
		"/apis/spiderpool.spidernet.io/v2beta1/spiderreservedips":                                                      "this kind is not installed",
		"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases?fieldSelector=metadata.name=spiderpool-controller": "you may not read it",
	} {
		if !strings.Contains(why[source], part) {
			t.Errorf("%s: %q, want %q; all: %v", source, why[source], part, why)
		}
	}
}

func TestBundleOverwritesNothing(t *testing.T) {
	kubeconfig, dir := writeKubeconfig(t, administrator(t)), t.TempDir()
	taken := filepath.Join(dir, "taken.tar.gz")
	if err := os.WriteFile(taken, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantOutput(t, kubeconfig, "support-bundle --output "+taken, 2, taken+" exists: name another file with --output")
	wantOutput(t, kubeconfig, "support-bundle --output "+filepath.Join(dir, "no", "b.tar.gz"), 2, "name a file in a writable directory")
}

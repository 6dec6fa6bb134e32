//go:build apiserver

package charts

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestAPIServerAcceptsEveryObject(t *testing.T) {
	access := kubeconfig(t)
	for name, args := range map[string][]string{
		"guide": guide,
		// Without the objects of kinds that cert-manager and the Prometheus operator define.
		"most": {"-f", "testdata/everything.values.yaml",
			"--set", "spiderpoolController.tls.method=auto",
			"--set", "spiderpoolAgent.prometheus.serviceMonitor.install=false,spiderpoolAgent.prometheus.prometheusRule.install=false",
			"--set", "spiderpoolController.prometheus.serviceMonitor.install=false,spiderpoolController.prometheus.prometheusRule.install=false"},
	} {
		t.Run(name, func(t *testing.T) {
			_, failure := helm(t, append([]string{"install", "spiderpool", "spiderpool", "--namespace", "kube-system",
				"--kubeconfig", access, "--dry-run=server"}, args...)...)
			if failure != "" {
				t.Error(failure)
			}
		})
	}
}

// Helm must not take over the Secret created by the controller.
func TestUpgradeToProvidedCertificate(t *testing.T) {
	base := []string{"spiderpool", "--namespace", "kube-system", "--kubeconfig", kubeconfig(t), "--no-hooks"}
	if _, failure := helm(t, append([]string{"install", "spiderpool"}, base...)...); failure != "" {
		t.Fatal(failure)
	}
	kubetest.Create(t, kubetest.Client(t), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "spiderpool-controller-server-certs"},
		Type:       corev1.SecretTypeTLS, Data: map[string][]byte{corev1.TLSCertKey: {}, corev1.TLSPrivateKeyKey: {}},
	})
	provided := []string{"-f", "testdata/provided.values.yaml", "--set", "spiderpoolController.tls.secretName="}
	if _, failure := helm(t, append(append([]string{"upgrade", "spiderpool"}, base...), provided...)...); failure != "" {
		t.Error(failure)
	}
	if _, failure := helm(t, append([]string{"uninstall"}, base...)...); failure != "" {
		t.Error(failure)
	}
}

func TestInstallAndUninstallWithoutHooks(t *testing.T) {
	access := kubeconfig(t)
	base := []string{"spiderpool", "--namespace", "kube-system", "--kubeconfig", access, "--no-hooks"}
	if _, failure := helm(t, append(append([]string{"install", "spiderpool"}, base...), guide...)...); failure != "" {
		t.Fatal(failure)
	}
	if _, failure := helm(t, append(append([]string{"upgrade", "spiderpool"}, base...), "--set", "spiderpoolController.replicas=2")...); failure != "" {
		t.Error(failure)
	}
	if _, failure := helm(t, append([]string{"uninstall"}, base...)...); failure != "" {
		t.Error(failure)
	}
}

//go:build apiserver

package charts

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

const provided = "spiderpoolController.tls.method=provided,spiderpoolController.tls.provided."

func TestExistingSecretReplacesCertificate(t *testing.T) {
	manifest := render(t, "--set", provided+"existingSecret=mine,"+provided[len("spiderpoolController.tls.method=provided,"):]+"tlsCa=Y2E=")
	for name, secret := range objectsOf[corev1.Secret](t, manifest, "Secret") {
		if secret.Type == corev1.SecretTypeTLS {
			t.Errorf("the chart creates the Secret %s", name)
		}
	}
	for _, volume := range objectsOf[appsv1.Deployment](t, manifest, "Deployment")["spiderpool-controller"].Spec.Template.Spec.Volumes {
		if volume.Name == "tls" && volume.Secret.SecretName != "mine" {
			t.Errorf("the controller uses the Secret %s", volume.Secret.SecretName)
		}
	}
	if !strings.Contains(string(manifest), "caBundle: Y2E=") {
		t.Error("the webhooks have no certificate authority")
	}
}

func TestContradictoryCertificatesAreRefused(t *testing.T) {
	const rest = "spiderpoolController.tls.provided."
	for values, want := range map[string]string{
		provided + "existingSecret=mine":                                                "tlsCa",
		provided + "existingSecret=mine," + rest + "tlsCa=Y2E=," + rest + "tlsKey=a2V5": "leave tlsCert and tlsKey empty",
	} {
		if _, failure := helm(t, "template", "spiderpool", "spiderpool", "--set", values); !strings.Contains(failure, want) {
			t.Errorf("%s: got %q, want %q", values, failure, want)
		}
	}
}

func TestClusterIssuerSignsCertificates(t *testing.T) {
	const certmanager = "spiderpoolController.tls.method=certmanager,spiderpoolController.tls.certmanager."
	for values, want := range map[string]string{
		certmanager + "issuerName=ca,spiderpoolController.tls.certmanager.issuerKind=ClusterIssuer": "ClusterIssuer ca",
		certmanager + "issuerName=ca":            "Issuer ca",
		certmanager + "issuerKind=ClusterIssuer": "Issuer spiderpool-controller-self-signed", // the chart creates it
	} {
		for name, c := range objectsOf[map[string]any](t, render(t, "--set", values), "Certificate") {
			ref := c["spec"].(map[string]any)["issuerRef"].(map[string]any)
			if got := ref["kind"].(string) + " " + ref["name"].(string); got != want {
				t.Errorf("%s: %s is signed by %s, want %s", values, name, got, want)
			}
		}
	}
}

package kubetest

import (
	"bytes"
	"net"
	"strconv"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// FreePort returns a TCP port of 127.0.0.1 without a listener.
func FreePort(tb testing.TB) int {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("kubetest: find a free port: %v", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// Webhooks creates the webhook configurations of the chart under the given name.
// They differ from the chart in one point: the API server connects to a port of
// 127.0.0.1.
func Webhooks(tb testing.TB, c client.Client, name string, port int) {
	tb.Helper()
	WebhooksWith(tb, c, "default", name, port)
}

// WebhooksWith is Webhooks with another golden file of the chart, e.g. "secure".
func WebhooksWith(tb testing.TB, c client.Client, values, name string, port int) {
	tb.Helper()
	mutating, validating := chartWebhooks(tb, values, name, port)
	Create(tb, c, mutating, validating)
}

// PodWebhook creates the chart's webhook for pods under the given name. Helm value
// podResourceInject enables it; here it covers the namespace "ai".
func PodWebhook(tb testing.TB, c client.Client, name string, port int) *admissionv1.MutatingWebhookConfiguration {
	tb.Helper()
	mutating, _ := chartWebhooks(tb, "everything", name, port)
	for _, hook := range mutating.Webhooks {
		if hook.Rules[0].Resources[0] == "pods" {
			mutating.Webhooks = []admissionv1.MutatingWebhook{hook}
			Create(tb, c, mutating)
			return mutating
		}
	}
	tb.Fatal("kubetest: the chart has no webhook of pods")
	return nil
}

// chartWebhooks reads the webhook configurations from a golden file of the chart,
// e.g. charts/testdata/default.golden.yaml. The tests of the chart keep it up to date.
func chartWebhooks(tb testing.TB, rendered, name string, port int) (*admissionv1.MutatingWebhookConfiguration, *admissionv1.ValidatingWebhookConfiguration) {
	tb.Helper()
	mutating, validating := &admissionv1.MutatingWebhookConfiguration{}, &admissionv1.ValidatingWebhookConfiguration{}
	for _, document := range chartDocuments(tb, rendered) {
		for kind, into := range map[string]any{"MutatingWebhookConfiguration": mutating, "ValidatingWebhookConfiguration": validating} {
			if !bytes.Contains(document, []byte("\nkind: "+kind+"\n")) {
				continue
			}
			if err := yaml.UnmarshalStrict(document, into); err != nil {
				tb.Fatalf("kubetest: read the %s of the chart: %v", kind, err)
			}
		}
	}
	if len(mutating.Webhooks) == 0 || len(validating.Webhooks) == 0 {
		tb.Fatal("kubetest: the chart has no webhooks")
	}
	mutating.ObjectMeta, validating.ObjectMeta = metav1.ObjectMeta{Name: name}, metav1.ObjectMeta{Name: name}
	for i := range mutating.Webhooks {
		reachAt(&mutating.Webhooks[i].ClientConfig, port)
	}
	for i := range validating.Webhooks {
		reachAt(&validating.Webhooks[i].ClientConfig, port)
	}
	return mutating, validating
}

// reachAt replaces the Service of a webhook by a port of 127.0.0.1.
func reachAt(config *admissionv1.WebhookClientConfig, port int) {
	url := "https://127.0.0.1:" + strconv.Itoa(port) + *config.Service.Path
	*config = admissionv1.WebhookClientConfig{URL: &url}
}

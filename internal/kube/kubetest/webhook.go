package kubetest

import (
	"net"
	"strconv"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// webhookKinds are the resources that have webhooks, by kind in lower case.
var webhookKinds = map[string]string{
	"spiderippool": "spiderippools", "spidersubnet": "spidersubnets", "spiderreservedip": "spiderreservedips",
	"spidermultusconfig": "spidermultusconfigs", "spidercoordinator": "spidercoordinators",
}

// FreePort returns a port of 127.0.0.1 that nobody listens on now.
func FreePort(tb testing.TB) int {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("kubetest: find a free port: %v", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// Webhooks creates the webhook configurations of the given name as the chart
// does, except that the API server reaches them at a port of 127.0.0.1.
func Webhooks(tb testing.TB, c client.Client, name string, port int) {
	tb.Helper()
	none, fail := admissionv1.SideEffectClassNone, admissionv1.Fail
	mutating := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}}
	validating := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for kind, resource := range webhookKinds {
		config := func(action string) admissionv1.WebhookClientConfig {
			url := "https://127.0.0.1:" + strconv.Itoa(port) + "/" + action + "-spiderpool-spidernet-io-v2beta1-" + kind
			return admissionv1.WebhookClientConfig{URL: &url}
		}
		rules := func(operations ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
			return []admissionv1.RuleWithOperations{{Operations: operations, Rule: admissionv1.Rule{
				APIGroups: []string{v2beta1.GroupVersion.Group}, APIVersions: []string{v2beta1.GroupVersion.Version}, Resources: []string{resource},
			}}}
		}
		mutating.Webhooks = append(mutating.Webhooks, admissionv1.MutatingWebhook{
			Name: kind + ".mutate.spiderpool.spidernet.io", ClientConfig: config("mutate"), FailurePolicy: &fail, SideEffects: &none,
			AdmissionReviewVersions: []string{"v1"}, Rules: rules(admissionv1.Create, admissionv1.Update),
		})
		validating.Webhooks = append(validating.Webhooks, admissionv1.ValidatingWebhook{
			Name: kind + ".validate.spiderpool.spidernet.io", ClientConfig: config("validate"), FailurePolicy: &fail, SideEffects: &none,
			AdmissionReviewVersions: []string{"v1"}, Rules: rules(admissionv1.Create, admissionv1.Update, admissionv1.Delete),
		})
	}
	Create(tb, c, mutating, validating)
}

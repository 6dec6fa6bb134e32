package controller

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudmetrics"
	"spiderpool.dev/spiderpool/internal/config"
)

func TestServiceIsAskedWithItsSecret(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"instances":[]}`)) }))
	t.Cleanup(server.Close)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "iaas"}, Data: map[string][]byte{"tls.crt": []byte("x")}}
	for name, test := range map[string]struct {
		tls  config.ObjectName
		want string
	}{
		"no Secret":     {config.ObjectName{}, "certificate"}, // of an unknown authority
		"missing":       {config.ObjectName{Namespace: "kube-system", Name: "other"}, `secrets "other" not found`},
		"without a key": {config.ObjectName{Namespace: "kube-system", Name: "iaas"}, "tls.crt and tls.key"},
	} {
		t.Run(name, func(t *testing.T) {
			service := config.IaaS{ServerURL: server.URL, HTTPRequestTimeout: metav1.Duration{Duration: time.Minute}, TLSSecret: test.tls}
			p, err := clouds(service, fake.NewClientBuilder().WithObjects(secret).Build(), cloudmetrics.New())(t.Context(), v2beta1.CloudIaaS, "")
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Instances(t.Context(), []string{"i-1"})
			if cloud.KindOf(err) != cloud.Unknown || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestServiceNeedsItsURL(t *testing.T) {
	_, err := clouds(config.IaaS{}, nil, cloudmetrics.New())(t.Context(), v2beta1.CloudIaaS, "")
	if err == nil || !strings.Contains(err.Error(), "iaasNetworkProvider.serverUrl") {
		t.Errorf("error %v, want one that names the Helm value", err)
	}
}

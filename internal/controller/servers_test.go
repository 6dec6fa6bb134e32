//go:build apiserver

package controller_test

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestSecureMetricsNeedPermittedToken(t *testing.T) {
	c := kubetest.Client(t)
	cfg := configuration(t, kubetest.Namespace(t, c))
	cfg.Metrics.Secure = true
	cfg.AgentTLS = &config.Default().AgentProcess.TLS
	kubetest.Webhooks(t, c, cfg.PodNamespace, cfg.Webhook.Port)
	r := runAt(t, kubetest.RoleWith(t, "secure", "spiderpool-controller", cfg.PodNamespace, "controller-node"), cfg)
	kubetest.Eventually(t, r.ready)
	own, agents := &corev1.Secret{}, &corev1.Secret{}
	kubetest.Eventually(t, func(ctx context.Context) error {
		for name, secret := range map[string]*corev1.Secret{cfg.Webhook.TLS.SecretName: own, cfg.AgentTLS.SecretName: agents} {
			if err := c.Get(ctx, client.ObjectKey{Namespace: cfg.PodNamespace, Name: name}, secret); err != nil {
				return fmt.Errorf("%w\n%s", err, r.output)
			}
		}
		return nil
	})
	host := func(service string) string { return service + "." + cfg.PodNamespace + ".svc" }
	kubetest.ScrapesAreProtected(t, cfg.PodNamespace, net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Metrics.Port)), host(cfg.Webhook.ServiceName), own.Data["ca.crt"])
	if string(agents.Data["ca.crt"]) == string(own.Data["ca.crt"]) {
		t.Error("agents and webhooks have the same authority")
	}
}

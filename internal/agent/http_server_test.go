//go:build apiserver

package agent

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	certutil "k8s.io/client-go/util/cert"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestSecureMetricsNeedPermittedToken(t *testing.T) {
	w := newWorld(t)
	node := w.node("n")
	dir := t.TempDir()
	certificate, key, err := certutil.GenerateSelfSignedCertKey("spiderpool-agent.kube-system.svc", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string][]byte{"tls.crt": certificate, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := kubetest.FreePort(t)
	w.agentAt(kubetest.RoleWith(t, "secure", "spiderpool-agent", w.namespace, node), node, func(cfg *config.Agent) {
		cfg.Metrics, cfg.CertDir = config.Metrics{Enabled: true, Secure: true, Port: port}, dir
	})
	kubetest.ScrapesAreProtected(t, w.namespace, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), "spiderpool-agent.kube-system.svc", certificate)
}

package sim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// Addresses of the control plane in the network namespace from Isolate.
const (
	etcdURL     = "http://127.0.0.1:2379"
	etcdPeerURL = "http://127.0.0.1:2380"
	apiHost     = "127.0.0.1:6443"
)

// token is the administrator's token, valid for this API server only.
const token = "simulation"

// ControlPlane is an etcd that syncs its writes to disk, and a kube-apiserver.
type ControlPlane struct {
	Etcd      *Process
	APIServer *Process
	dir       string
	ca        []byte
}

// StartControlPlane starts etcd and kube-apiserver from the directory assets, with their
// state in dir. It waits until they are ready and installs the CRDs in the directories.
// The caller must call Stop.
func StartControlPlane(ctx context.Context, dir, assets string, crds []string) (*ControlPlane, error) {
	// The client for CRDs requires a logger; its errors contain everything useful.
	log.SetLogger(logr.Discard())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	c := &ControlPlane{dir: dir}
	if err := c.credentials(); err != nil {
		return nil, err
	}
	c.Etcd = &Process{Name: "etcd", Log: filepath.Join(dir, "etcd.log"), Dir: dir, Argv: []string{
		filepath.Join(assets, "etcd"), "--data-dir", filepath.Join(dir, "etcd"),
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", etcdPeerURL, "--initial-advertise-peer-urls", etcdPeerURL,
		"--initial-cluster", "default=" + etcdPeerURL, "--log-level", "warn",
	}}
	c.APIServer = &Process{Name: "kube-apiserver", Log: filepath.Join(dir, "kube-apiserver.log"), Dir: dir, Argv: []string{
		filepath.Join(assets, "kube-apiserver"), "--etcd-servers", etcdURL,
		"--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--secure-port", "6443",
		"--tls-cert-file", filepath.Join(dir, "server.crt"), "--tls-private-key-file", filepath.Join(dir, "server.key"),
		"--token-auth-file", filepath.Join(dir, "tokens.csv"), "--authorization-mode", "RBAC",
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", filepath.Join(dir, "service-account.key"),
		"--service-account-signing-key-file", filepath.Join(dir, "service-account.key"),
		"--service-cluster-ip-range", "10.96.0.0/16,fd00:10:96::/112",
		// No controller creates the service accounts required by this admission plugin.
		"--disable-admission-plugins", "ServiceAccount",
	}}
	if err := c.start(ctx, crds); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *ControlPlane) start(ctx context.Context, crds []string) error {
	for _, p := range []*Process{c.Etcd, c.APIServer} {
		if err := p.Start(); err != nil {
			return err
		}
	}
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	if len(crds) == 0 {
		return nil
	}
	_, err := envtest.InstallCRDs(c.Config(), envtest.CRDInstallOptions{
		Paths: crds, ErrorIfPathMissing: true, MaxTime: time.Minute, PollInterval: 20 * time.Millisecond,
	})
	if err != nil {
		return fmt.Errorf("install the CRDs of %v: %w", crds, err)
	}
	return nil
}

// WaitReady waits until the API server is ready.
func (c *ControlPlane) WaitReady(ctx context.Context) error {
	return WaitFor(ctx, "kube-apiserver", c.Ready, c.Etcd, c.APIServer)
}

// Ready returns an error until the API server is ready.
func (c *ControlPlane) Ready(ctx context.Context) error {
	client, err := discovery.NewDiscoveryClientForConfig(c.Config())
	if err != nil {
		return err
	}
	return client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// Stop kills both programs. Their data is no longer needed, so they get no time for a
// clean exit.
func (c *ControlPlane) Stop() {
	c.APIServer.Kill()
	c.Etcd.Kill()
}

// Config is the administrator's client configuration, without a rate limit.
func (c *ControlPlane) Config() *rest.Config {
	return &rest.Config{
		Host: "https://" + apiHost, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: c.ca},
		QPS: -1, UserAgent: "spiderpool-sim",
	}
}

// Kubeconfig returns the path of a kubeconfig with the same content as Config.
func (c *ControlPlane) Kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// credentials writes the server's certificate, the service accounts' key, and the
// administrator's token and kubeconfig.
func (c *ControlPlane) credentials() error {
	certificate, key, err := certutil.GenerateSelfSignedCertKey("127.0.0.1", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		return fmt.Errorf("make the certificate of kube-apiserver: %w", err)
	}
	c.ca = certificate
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	accountsDER, err := x509.MarshalECPrivateKey(accounts)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"server.crt":          certificate,
		"server.key":          key,
		"service-account.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: accountsDER}),
		"tokens.csv":          []byte(token + ",admin,admin,system:masters\n"),
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"sim": {Server: "https://" + apiHost, CertificateAuthorityData: certificate}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"admin": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"sim": {Cluster: "sim", AuthInfo: "admin"}},
		CurrentContext: "sim",
	}, c.Kubeconfig())
}

// metricsClient has a short timeout, because it reads over the loopback device.
var metricsClient = http.Client{Timeout: 10 * time.Second}

//go:build apiserver

package controller_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// judges waits until the webhooks reject an invalid pool.
func judges(t *testing.T, c client.Client) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		bad := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "10.0.0.0/24", IPs: []string{"10.0.0.9-10.0.0.5"}}}}
		if err := c.Create(ctx, bad, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "is inverted") {
			return fmt.Errorf("an inverted range gave: %v", err)
		}
		return nil
	})
}

// serves waits until the replica serves the certificate, given in PEM.
func (r *replica) serves(t *testing.T, certificate []byte) {
	t.Helper()
	wanted, _ := pem.Decode(certificate)
	if wanted == nil {
		t.Fatal("the wanted certificate is not in PEM")
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // the test compares the certificate itself
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.cfg.Webhook.Port)))
		if err != nil {
			return err
		}
		defer conn.Close()
		if got := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]; !bytes.Equal(got.Raw, wanted.Bytes) {
			return fmt.Errorf("the webhooks have the certificate of %s, not the wanted one", got.NotBefore)
		}
		return nil
	})
}

// mount writes certificate and key into the directory like the kubelet does with a
// Secret: it replaces a symbolic link.
func mount(t *testing.T, dir, version string, certificate, key []byte) {
	t.Helper()
	err := os.Mkdir(filepath.Join(dir, version), 0o700)
	for name, content := range map[string][]byte{corev1.TLSCertKey: certificate, corev1.TLSPrivateKeyKey: key} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, version, name), content, 0o600))
		if link := filepath.Join(dir, name); err == nil {
			if linkErr := os.Symlink(filepath.Join("..data", name), link); !errors.Is(linkErr, os.ErrExist) {
				err = linkErr
			}
		}
	}
	err = errors.Join(err, os.Symlink(version, filepath.Join(dir, "..new")), os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
	if err != nil {
		t.Fatal(err)
	}
}

func TestProvidedCertificateIsReloaded(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	cfg := configuration(t, namespace)
	certificate, key, err := certutil.GenerateSelfSignedCertKey("127.0.0.1", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Webhook.TLS.Method, cfg.Webhook.TLS.CertDir = config.TLSProvided, t.TempDir()
	mount(t, cfg.Webhook.TLS.CertDir, "..1", certificate, key)
	kubetest.Webhooks(t, c, namespace, cfg.Webhook.Port)
	trust(t, c, namespace, certificate)
	r := run(t, cfg)
	kubetest.Eventually(t, r.ready)
	judges(t, c)
	r.serves(t, certificate)

	replacement, replacementKey, err := certutil.GenerateSelfSignedCertKey("127.0.0.1", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	trust(t, c, namespace, append(certificate, replacement...))
	mount(t, cfg.Webhook.TLS.CertDir, "..2", replacement, replacementKey)
	r.serves(t, replacement)
	trust(t, c, namespace, replacement)
	judges(t, c)
	var secrets corev1.SecretList
	if err := c.List(t.Context(), &secrets, client.InNamespace(namespace)); err != nil || len(secrets.Items) > 0 {
		t.Errorf("the controller made %d Secrets, %v", len(secrets.Items), err)
	}
}

// trust writes the authority into the webhook configurations, like the chart.
func trust(t *testing.T, c client.Client, name string, authority []byte) {
	t.Helper()
	mutating, validating := &admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistrationv1.ValidatingWebhookConfiguration{}
	for _, object := range []client.Object{mutating, validating} {
		if err := c.Get(t.Context(), client.ObjectKey{Name: name}, object); err != nil {
			t.Fatal(err)
		}
	}
	for i := range mutating.Webhooks {
		mutating.Webhooks[i].ClientConfig.CABundle = authority
		validating.Webhooks[i].ClientConfig.CABundle = authority
	}
	if err := errors.Join(c.Update(t.Context(), mutating), c.Update(t.Context(), validating)); err != nil {
		t.Fatal(err)
	}
}

func TestLostCertificateIsReissued(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	cfg := configuration(t, namespace)
	kubetest.Webhooks(t, c, namespace, cfg.Webhook.Port)
	r := run(t, cfg)
	kubetest.Eventually(t, r.ready)
	var former corev1.Secret
	key := client.ObjectKey{Namespace: namespace, Name: cfg.Webhook.TLS.SecretName}
	if err := c.Get(t.Context(), key, &former); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), &former); err != nil {
		t.Fatal(err)
	}
	var made corev1.Secret
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, key, &made); err != nil {
			return err
		}
		var config admissionregistrationv1.ValidatingWebhookConfiguration
		if err := c.Get(ctx, client.ObjectKey{Name: namespace}, &config); err != nil {
			return err
		}
		if !bytes.Equal(config.Webhooks[0].ClientConfig.CABundle, made.Data["ca.crt"]) {
			return errors.New("the webhook configuration does not have the new authority yet")
		}
		return nil
	})
	if !bytes.HasSuffix(made.Data["ca.crt"], former.Data["ca.crt"]) {
		t.Error("the authority of the former certificate, which is served for a while, is not trusted any more")
	}
	judges(t, c)
	r.serves(t, made.Data[corev1.TLSCertKey])
	judges(t, c)

	// An unusable one, e.g. after a wrong edit, is replaced, too.
	broken := made.DeepCopy()
	broken.Data[corev1.TLSPrivateKeyKey] = former.Data[corev1.TLSPrivateKeyKey]
	if err := c.Update(t.Context(), broken); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, key, &made); err != nil {
			return err
		}
		if _, err := tls.X509KeyPair(made.Data[corev1.TLSCertKey], made.Data[corev1.TLSPrivateKeyKey]); err != nil {
			return fmt.Errorf("the Secret still has %w", err)
		}
		return nil
	})
}

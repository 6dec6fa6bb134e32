package observe

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// certificateUntil returns a certificate that ends then.
func certificateUntil(t *testing.T, end time.Time) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestCertificateExpiryFollowsTheFile(t *testing.T) {
	var current *tls.Certificate
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCertificateExpiry("webhooks", func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if current == nil {
			return nil, errors.New("no such file")
		}
		return current, nil
	}))
	value := func() (float64, bool) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if len(families) == 0 {
			return 0, false
		}
		return families[0].GetMetric()[0].GetGauge().GetValue(), true
	}
	if got, ok := value(); ok {
		t.Errorf("without a certificate, the metric is %v", got)
	}
	for _, end := range []int64{2_000_000_000, 2_100_000_000} {
		current = certificateUntil(t, time.Unix(end, 0))
		if got, _ := value(); got != float64(end) {
			t.Errorf("got %v, want %d", got, end)
		}
	}
}

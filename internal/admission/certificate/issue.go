package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// skew is how far the clocks of API servers may be behind ours.
const skew = time.Hour

// Pair is a server certificate with its key and the authorities that vouch for
// it, in PEM, as a Secret of type kubernetes.io/tls holds them.
type Pair struct {
	Certificate, Key []byte
	// Authorities begins with the one that signed Certificate; the one of the
	// certificate before follows, which other replicas may still serve.
	Authorities []byte
}

// Subject is what a certificate is made for.
type Subject struct {
	DNSNames []string
	IPs      []net.IP
	// CALifetime and CertLifetime are how long authority and certificate are valid.
	CALifetime, CertLifetime time.Duration
}

// issue makes a certificate and an authority for it. The authority's key is
// forgotten: the next certificate has an authority of its own, so there is no
// key anywhere with which others could be signed.
func issue(subject Subject, now time.Time, former []byte) (Pair, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make the key of the authority: %w", err)
	}
	ca := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "spiderpool webhook authority"},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(subject.CALifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	caDER, err := sign(ca, ca, caKey, caKey)
	if err != nil {
		return Pair{}, fmt.Errorf("make the authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make the key: %w", err)
	}
	leaf := &x509.Certificate{
		Subject:     pkix.Name{CommonName: subject.DNSNames[0]},
		NotBefore:   now.Add(-skew),
		NotAfter:    now.Add(min(subject.CertLifetime, subject.CALifetime)),
		DNSNames:    subject.DNSNames,
		IPAddresses: subject.IPs,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := sign(leaf, ca, key, caKey)
	if err != nil {
		return Pair{}, fmt.Errorf("make the certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encode the key: %w", err)
	}
	return Pair{
		Certificate: encode("CERTIFICATE", leafDER),
		Key:         encode("PRIVATE KEY", keyDER),
		Authorities: append(encode("CERTIFICATE", caDER), first(former, now)...),
	}, nil
}

func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	return x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// first returns the first authority of a bundle, if it is still valid.
func first(bundle []byte, now time.Time) []byte {
	block, _ := pem.Decode(bundle)
	if block == nil {
		return nil
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil || now.After(ca.NotAfter) {
		return nil
	}
	return encode("CERTIFICATE", ca.Raw)
}

// state is what is to be known of a pair.
type state struct {
	certificate *tls.Certificate
	issued      time.Time // when it was made
	renew       time.Time // when to make the next: two thirds of its life have passed
}

// inspect returns the state of a pair, or why it cannot be served for the subject.
func inspect(pair Pair, subject Subject, now time.Time) (state, error) {
	certificate, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		return state{}, err
	}
	leaf := certificate.Leaf
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pair.Authorities) {
		return state{}, fmt.Errorf("the authorities hold no certificate")
	}
	for _, name := range subject.DNSNames {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now}); err != nil {
			return state{}, err
		}
	}
	for _, ip := range subject.IPs {
		if err := leaf.VerifyHostname(ip.String()); err != nil {
			return state{}, err
		}
	}
	issued := leaf.NotBefore.Add(skew)
	return state{certificate: &certificate, issued: issued, renew: issued.Add(leaf.NotAfter.Sub(issued) * 2 / 3)}, nil
}

// same reports whether two certificates are one.
func same(a, b *tls.Certificate) bool {
	return a != nil && b != nil && bytes.Equal(a.Certificate[0], b.Certificate[0])
}

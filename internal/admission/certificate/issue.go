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

// skew is how far the clocks of API servers may lag behind ours. Certificates are
// valid that much earlier.
const skew = time.Hour

// Pair is a certificate with its key and the trusted authorities, in PEM like
// in a Secret of type kubernetes.io/tls.
type Pair struct {
	Certificate, Key []byte
	// Authorities begins with the authority of Certificate. The authority of the former
	// certificate follows, because other replicas may still serve that one.
	Authorities []byte
}

// Subject describes a certificate.
type Subject struct {
	DNSNames []string
	IPs      []net.IP
	// CALifetime and CertLifetime are the lifetimes of authority and certificate.
	CALifetime, CertLifetime time.Duration
	// Usages are those of the certificate; nil for a server.
	Usages []x509.ExtKeyUsage
}

func (s Subject) usages() []x509.ExtKeyUsage {
	if s.Usages == nil {
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	return s.Usages
}

// issue creates a certificate and its authority. It discards the key of the authority,
// because the next certificate gets another authority. Nothing can sign a further
// certificate. The result also trusts the first authority of former.
func issue(subject Subject, now time.Time, former []byte) (Pair, error) {
	a, err := newAuthority(subject.CALifetime, now)
	if err != nil {
		return Pair{}, err
	}
	return a.issue(subject, now, former)
}

// authority signs certificates. It is never stored.
type authority struct {
	certificate *x509.Certificate
	der         []byte
	key         *ecdsa.PrivateKey
}

func newAuthority(lifetime time.Duration, now time.Time) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, fmt.Errorf("generate the key of the authority: %w", err)
	}
	ca := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "spiderpool webhook authority"},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(lifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := sign(ca, ca, key, key)
	if err != nil {
		return authority{}, fmt.Errorf("create the authority: %w", err)
	}
	return authority{ca, der, key}, nil
}

func (a authority) issue(subject Subject, now time.Time, former []byte) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("generate the key: %w", err)
	}
	leaf := &x509.Certificate{
		Subject:     pkix.Name{CommonName: subject.DNSNames[0]},
		NotBefore:   now.Add(-skew),
		NotAfter:    now.Add(min(subject.CertLifetime, subject.CALifetime)),
		DNSNames:    subject.DNSNames,
		IPAddresses: subject.IPs,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: subject.usages(),
	}
	leafDER, err := sign(leaf, a.certificate, key, a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("create the certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encode the key: %w", err)
	}
	return Pair{
		Certificate: encode("CERTIFICATE", leafDER),
		Key:         encode("PRIVATE KEY", keyDER),
		Authorities: append(encode("CERTIFICATE", a.der), first(former, now)...),
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

// first returns the first authority of a bundle, or nil if it is not valid any more.
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

// state describes a usable pair.
type state struct {
	certificate *tls.Certificate
	issued      time.Time // NotBefore without skew
	renew       time.Time // when to issue the next one: at two thirds of its life
}

// inspect returns the state of a pair, or an error if the pair is not usable for the
// subject at the time now.
func inspect(pair Pair, subject Subject, now time.Time) (state, error) {
	certificate, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		return state{}, err
	}
	leaf := certificate.Leaf
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pair.Authorities) {
		return state{}, fmt.Errorf("there is no certificate among the authorities")
	}
	for _, name := range subject.DNSNames {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now, KeyUsages: subject.usages()}); err != nil {
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

// same reports whether a and b are the same certificate.
func same(a, b *tls.Certificate) bool {
	return a != nil && b != nil && bytes.Equal(a.Certificate[0], b.Certificate[0])
}

package certificate

import (
	"bytes"
	"encoding/pem"
	"net"
	"strings"
	"testing"
	"time"
)

var (
	now     = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	subject = Subject{
		DNSNames:   []string{"spiderpool-controller.kube-system.svc", "spiderpool-controller.kube-system.svc.cluster.local"},
		IPs:        []net.IP{net.ParseIP("10.0.0.1")},
		CALifetime: 10 * 365 * 24 * time.Hour, CertLifetime: 90 * 24 * time.Hour,
	}
)

func mustIssue(t *testing.T, at time.Time, former []byte) Pair {
	t.Helper()
	pair, err := issue(subject, at, former)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestIssuedCertificateMatchesSubject(t *testing.T) {
	s, err := inspect(mustIssue(t, now, nil), subject, now)
	if err != nil {
		t.Fatal(err)
	}
	if want := now.Add(60 * 24 * time.Hour); !s.renew.Equal(want) || !s.issued.Equal(now) {
		t.Errorf("issued %s, renew %s; want %s, %s", s.issued, s.renew, now, want)
	}
	if got := s.certificate.Leaf.NotBefore; !got.Before(now) {
		t.Errorf("valid from %s: an API server whose clock is behind would refuse it", got)
	}
}

func TestUnusableCertificatesAreRefused(t *testing.T) {
	pair := mustIssue(t, now, nil)
	other := mustIssue(t, now, nil)
	renamed, moved := subject, subject
	renamed.DNSNames = []string{"other.kube-system.svc"}
	moved.IPs = []net.IP{net.ParseIP("10.0.0.2")}
	for name, c := range map[string]struct {
		pair    Pair
		subject Subject
		at      time.Time
		want    string
	}{
		"nothing":                      {Pair{}, subject, now, "failed to find any PEM data"},
		"a key of another certificate": {Pair{pair.Certificate, other.Key, pair.Authorities}, subject, now, "private key does not match"},
		"an authority of another":      {Pair{pair.Certificate, pair.Key, other.Authorities}, subject, now, "unknown authority"},
		"no authority":                 {Pair{pair.Certificate, pair.Key, nil}, subject, now, "no certificate among the authorities"},
		"another service":              {pair, renamed, now, "not other.kube-system.svc"},
		"another address":              {pair, moved, now, "not 10.0.0.2"},
		"expired":                      {pair, subject, now.Add(91 * 24 * time.Hour), "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := inspect(c.pair, c.subject, c.at); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestFormerAuthorityIsTrustedOnce(t *testing.T) {
	first := mustIssue(t, now, nil)
	second := mustIssue(t, now, first.Authorities)
	third := mustIssue(t, now, second.Authorities)
	if !bytes.HasSuffix(second.Authorities, first.Authorities) {
		t.Error("the second bundle lacks the first authority")
	}
	if _, err := inspect(Pair{first.Certificate, first.Key, second.Authorities}, subject, now); err != nil {
		t.Errorf("the former certificate is not trusted any more: %v", err)
	}
	if n := count(third.Authorities); n != 2 || bytes.Contains(third.Authorities, first.Authorities) {
		t.Errorf("the third bundle has %d authorities, want its own and the second's", n)
	}
	late := mustIssue(t, now.Add(11*365*24*time.Hour), first.Authorities)
	if n := count(late.Authorities); n != 1 {
		t.Errorf("an expired authority is still trusted: %d authorities", n)
	}
}

func count(bundle []byte) int {
	n := 0
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return n
		}
		n++
	}
}

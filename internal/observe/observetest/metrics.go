// Package observetest compares docs/reference/metrics.md with the metrics that the
// programs register.
package observetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// Certificate returns a source of a certificate, e.g. for observe.NewCertificateExpiry.
func Certificate(t *testing.T) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	}
}

var update = flag.Bool("update", false, "write docs/reference/metrics.md instead of comparing it")

// ReferenceListsMetrics compares the table of a program in docs/reference/metrics.md
// with the metrics of the gatherer whose names start with spiderpool_ or hubble_; -update
// writes it. It also checks these metrics with promlint. The test must be in a directory
// two levels below the repository. A metric with labels needs a time series, or Gather
// omits it.
func ReferenceListsMetrics(t *testing.T, program string, gatherer prometheus.Gatherer) {
	t.Helper()
	families, err := gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	want.WriteString("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n")
	var ours []*dto.MetricFamily
	for _, family := range families {
		if strings.HasPrefix(family.GetName(), "spiderpool_") || strings.HasPrefix(family.GetName(), "hubble_") {
			want.WriteString(row(family))
			ours = append(ours, family)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(ours).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		// Dashboards of Spiderpool 1.2 use the labels SpiderIPPool and SpiderSubnet.
		if !strings.Contains(problem.Text, "label names should be written in 'snake_case'") {
			t.Errorf("%s: %s", problem.Metric, problem.Text)
		}
	}
	recordScrape(t, program, ours)
	page := filepath.Join("..", "..", "docs", "reference", "metrics.md")
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	start := fmt.Sprintf("<!-- metrics of the %s: written by go test ./internal/%[1]s -run Reference -update -->\n", program)
	before, rest, _ := strings.Cut(string(raw), start)
	got, after, ok := strings.Cut(rest, "<!-- end -->")
	if !ok {
		t.Fatalf("%s lacks the marker %q or its end", page, start)
	}
	if *update {
		if err := os.WriteFile(page, []byte(before+start+want.String()+"<!-- end -->"+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if got != want.String() {
		t.Errorf("%s differs from the metrics of the %s; run make update. Want:\n%s", page, program, want.String())
	}
}

// volatile matches the values of labels that differ between two builds.
var volatile = regexp.MustCompile(`(goversion|revision|version)="[^"]*"`)

// measured matches the durations of a histogram.
var measured = regexp.MustCompile(`(?m)^(\w+_seconds_(?:bucket|sum)(?:\{.*\})?) \S+$`)

// recordScrape compares the families with the scrape in test/monitoring/testdata, on
// which the queries of the dashboards are tested; -update writes it.
func recordScrape(t *testing.T, program string, families []*dto.MetricFamily) {
	t.Helper()
	var text bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			t.Fatal(err)
		}
	}
	want := measured.ReplaceAll(volatile.ReplaceAll(text.Bytes(), []byte(`$1="x"`)), []byte("$1 1"))
	file := filepath.Join("..", "..", "test", "monitoring", "testdata", program+".prom")
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s differs from the metrics of the %s (%v); run make update", file, program, err)
	}
}

func row(family *dto.MetricFamily) string {
	var labels []string
	for _, label := range family.GetMetric()[0].GetLabel() {
		labels = append(labels, "`"+label.GetName()+"`")
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |\n", family.GetName(), strings.ToLower(family.GetType().String()),
		strings.Join(labels, ", "), family.GetHelp())
}

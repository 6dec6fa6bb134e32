package observe

import (
	"crypto/tls"
	"crypto/x509"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// NewBuildInfo returns a metric that names the version of the program, the commit of its
// sources and the version of Go. The commit is empty if the build did not know it.
func NewBuildInfo(version string) prometheus.Collector {
	revision := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				revision = setting.Value
			}
		}
	}
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spiderpool_build_info", Help: "1, with the version of the program, the commit of its sources and the version of Go.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
}

// certificateExpiry is the metric of one certificate.
type certificateExpiry struct {
	desc *prometheus.Desc
	get  func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// NewCertificateExpiry returns a metric with the end of the certificate that get returns
// now. It has no time series while get fails, e.g. because the Secret does not exist yet.
func NewCertificateExpiry(name string, get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) prometheus.Collector {
	return certificateExpiry{get: get, desc: prometheus.NewDesc("spiderpool_certificate_expiry_timestamp_seconds",
		"End of the validity of a server's certificate, in seconds since 1970.", nil, prometheus.Labels{"certificate": name})}
}

// Describe implements prometheus.Collector.
func (c certificateExpiry) Describe(out chan<- *prometheus.Desc) { out <- c.desc }

// Collect implements prometheus.Collector.
func (c certificateExpiry) Collect(out chan<- prometheus.Metric) {
	certificate, err := c.get(nil)
	if err != nil || len(certificate.Certificate) == 0 {
		return
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return
	}
	out <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(leaf.NotAfter.Unix()))
}

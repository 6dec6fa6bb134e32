package sim

import (
	"context"
	"fmt"
	"net/http"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/rest"
)

// Counters are counts of the control plane since its start.
type Counters struct {
	// Requests are the API server's requests by kind.
	Requests map[Request]float64
	// EtcdBytes is the number of bytes appended to etcd's write-ahead log.
	EtcdBytes float64
	// Fsyncs is the number of syncs of that log to disk.
	Fsyncs float64
}

// Request is a kind of API request.
type Request struct {
	Verb     string
	Group    string
	Resource string
	Code     string
}

// Write reports whether the request changes an object, or tries to.
func (r Request) Write() bool {
	switch r.Verb {
	case "POST", "PUT", "PATCH", "DELETE", "DELETECOLLECTION", "APPLY":
		return true
	}
	return false
}

// Read reports whether the request reads objects; a watch counts as one read.
func (r Request) Read() bool {
	switch r.Verb {
	case "GET", "LIST", "WATCH", "WATCHLIST":
		return true
	}
	return false
}

// Conflict reports whether the request lost against another writer.
func (r Request) Conflict() bool { return r.Write() && r.Code == "409" }

// ofAPIServer reports whether the requests are for objects used by the API server itself,
// or for leader election leases. Both are periodic and independent of the number of
// pods.
func (r Request) ofAPIServer() bool {
	switch r.Group {
	case "", "discovery.k8s.io":
		switch r.Resource {
		case "", "endpoints", "endpointslices", "services", "configmaps", "resourcequotas", "limitranges":
			return true
		}
		return false
	case "spiderpool.spidernet.io", "events.k8s.io", "k8s.cni.cncf.io", "apps", "batch", "kubevirt.io":
		return false
	case "coordination.k8s.io", "flowcontrol.apiserver.k8s.io", "apiregistration.k8s.io", "rbac.authorization.k8s.io",
		"apiextensions.k8s.io", "scheduling.k8s.io", "admissionregistration.k8s.io", "networking.k8s.io",
		"node.k8s.io", "policy", "storage.k8s.io", "internal.apiserver.k8s.io", "certificates.k8s.io":
		return true
	}
	return false
}

// Counters reads the metrics of kube-apiserver and etcd.
func (c *ControlPlane) Counters(ctx context.Context) (Counters, error) {
	api, err := rest.HTTPClientFor(c.Config())
	if err != nil {
		return Counters{}, err
	}
	apiFamilies, err := scrape(ctx, api, "https://"+apiHost+"/metrics")
	if err != nil {
		return Counters{}, err
	}
	etcdFamilies, err := scrape(ctx, &metricsClient, etcdURL+"/metrics")
	if err != nil {
		return Counters{}, err
	}
	out := Counters{Requests: map[Request]float64{}}
	for _, m := range apiFamilies["apiserver_request_total"].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		r := Request{Verb: labels["verb"], Group: labels["group"], Resource: labels["resource"], Code: labels["code"]}
		if !r.ofAPIServer() {
			out.Requests[r] += m.GetCounter().GetValue()
		}
	}
	out.EtcdBytes = value(etcdFamilies["etcd_disk_wal_write_bytes_total"])
	for _, m := range etcdFamilies["etcd_disk_wal_fsync_duration_seconds"].GetMetric() {
		out.Fsyncs += float64(m.GetHistogram().GetSampleCount())
	}
	return out, nil
}

// value returns the value of a gauge or counter without labels.
func value(family *dto.MetricFamily) float64 {
	var sum float64
	for _, m := range family.GetMetric() {
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return sum
}

func scrape(ctx context.Context, client *http.Client, url string) (map[string]*dto.MetricFamily, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read metrics of %s: %s", url, resp.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", url, err)
	}
	return families, nil
}

// Since returns the counts after earlier.
func (c Counters) Since(earlier Counters) Counters {
	out := Counters{Requests: map[Request]float64{}, EtcdBytes: c.EtcdBytes - earlier.EtcdBytes, Fsyncs: c.Fsyncs - earlier.Fsyncs}
	for r, n := range c.Requests {
		if d := n - earlier.Requests[r]; d > 0 {
			out.Requests[r] = d
		}
	}
	return out
}

// Sum adds up the requests accepted by keep.
func (c Counters) Sum(keep func(Request) bool) float64 {
	var sum float64
	for r, n := range c.Requests {
		if keep(r) {
			sum += n
		}
	}
	return sum
}

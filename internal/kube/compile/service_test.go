package compile_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/service"
)

// The rules have scenarios in internal/service/testdata. These tests cover the conversion of one object.

func TestServiceDefaults(t *testing.T) {
	object := &corev1.Service{Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.0.1", SessionAffinity: corev1.ServiceAffinityClientIP, Ports: []corev1.ServicePort{{Port: 80}},
	}}
	s, reason, errs := compile.Service(object)
	if reason != "" || len(errs) > 0 {
		t.Fatal(reason, errs)
	}
	// An object of an old API server has no clusterIPs, no timeout and perhaps no protocol.
	if s.ClusterIPs[0] != netip.MustParseAddr("10.96.0.1") || s.Affinity != 10800 || s.Ports[0] != (service.Port{Protocol: service.TCP, Port: 80}) {
		t.Errorf("got %+v", s)
	}
}

func TestEndpointsShareHints(t *testing.T) {
	zone := func(name string) *discoveryv1.EndpointHints {
		return &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: name}}}
	}
	object := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{
		{Addresses: []string{"10.6.0.1"}, Hints: zone("a")}, {Addresses: []string{"10.6.0.2"}, Hints: zone("a")},
		{Addresses: []string{"10.6.0.3"}, Hints: zone("b")}, {Addresses: []string{"10.6.0.4"}},
	}}
	object.Labels = map[string]string{discoveryv1.LabelServiceName: "web"}
	s, _ := compile.EndpointSlice(object)
	e := s.Endpoints
	if e[0].Hints != e[1].Hints || e[2].Hints.Zones[0] != "b" || e[3].Hints != nil {
		t.Errorf("got %+v", e)
	}
}

// FuzzService converts any object in JSON, and puts the result into a table.
func FuzzService(f *testing.F) {
	f.Add([]byte(`{"spec":{"clusterIPs":["10.96.0.1","fd00::1"],"externalIPs":["::ffff:1.2.3.4"],"ports":[{"port":80,"nodePort":65616}]}}`),
		[]byte(`{"metadata":{"labels":{"kubernetes.io/service-name":""}},"ports":[{"port":-1}],"endpoints":[{"addresses":["fe80::1%eth0"]}]}`))
	f.Add([]byte(`{"spec":{"clusterIP":"10.96.0.1","sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":-5}},"ports":[{"port":1},{"port":1}]}}`),
		[]byte(`{"ports":[{"port":80,"protocol":"SCTP"}],"endpoints":[{"hints":{"forZones":[{}]}}]}`))
	f.Fuzz(func(t *testing.T, serviceJSON, sliceJSON []byte) {
		var object corev1.Service
		var slice discoveryv1.EndpointSlice
		if json.Unmarshal(serviceJSON, &object) != nil || json.Unmarshal(sliceJSON, &slice) != nil {
			return
		}
		table := service.NewTable(service.Node{Name: "n1"}, nil)
		compiled, reason, _ := compile.Service(&object)
		if (compiled == nil) != (reason != "") {
			t.Fatalf("service %v, reason %q", compiled, reason)
		}
		if endpoints, _ := compile.EndpointSlice(&slice); endpoints != nil {
			table.SetSlice(endpoints)
		}
		if compiled == nil {
			return
		}
		table.SetService(compiled)
		for _, e := range table.All().SetFrontends {
			if !e.Addr.IsValid() || e.Addr.Is4In6() || e.Port == 0 || e.Timeout > 86400 {
				t.Fatalf("frontend %v", e)
			}
		}
		if names := table.Names(); !slices.Equal(names, []service.Name{compiled.Name}) {
			t.Fatalf("services %v", names)
		}
		table.Explain(compiled.Name)
	})
}

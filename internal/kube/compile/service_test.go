package compile_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

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

// FuzzService converts any objects in JSON, puts the results into a table in turn, and removes them again. The scenarios
// of internal/service are the first inputs.
func FuzzService(f *testing.F) {
	f.Add([]byte(`{"spec":{"clusterIPs":["10.96.0.1","fd00::1"],"externalIPs":["::ffff:1.2.3.4"],"ports":[{"port":80,"nodePort":65616}]}}`),
		[]byte(`{"metadata":{"labels":{"kubernetes.io/service-name":""}},"ports":[{"port":-1}],"endpoints":[{"addresses":["fe80::1%eth0"]}]}`), []byte(`{}`))
	f.Add([]byte(`{"spec":{"clusterIP":"10.96.0.1","sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":-5}},"ports":[{"port":1},{"port":1}]}}`),
		[]byte(`{"ports":[{"port":80,"protocol":"SCTP"}],"endpoints":[{"hints":{"forZones":[{}]}}]}`), []byte(`{}`))
	addScenarios(f)
	f.Fuzz(func(t *testing.T, serviceJSON, sliceJSON, otherJSON []byte) {
		var object corev1.Service
		var slice, other discoveryv1.EndpointSlice
		if errors.Join(json.Unmarshal(serviceJSON, &object), json.Unmarshal(sliceJSON, &slice), json.Unmarshal(otherJSON, &other)) != nil {
			return
		}
		compiled, reason, _ := compile.Service(&object)
		if (compiled == nil) != (reason != "") {
			t.Fatalf("service %v, reason %q", compiled, reason)
		}
		played := kernel{table: service.NewTable(service.Node{Name: "n1", Zone: "zone-a"}, nil), entries: map[string]string{}}
		for _, object := range []*discoveryv1.EndpointSlice{&slice, &other} {
			if endpoints, _ := compile.EndpointSlice(object); endpoints != nil {
				played.apply(t, played.table.SetSlice(endpoints))
			}
		}
		if compiled != nil {
			played.apply(t, played.table.SetService(compiled))
			played.table.Explain(compiled.Name)
			if names := played.table.Names(); !slices.Equal(names, []service.Name{compiled.Name}) {
				t.Fatalf("services %v", names)
			}
			played.apply(t, played.table.SetNode(service.Node{Name: "n1", Zone: "zone-b", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}))
			played.apply(t, played.table.DeleteService(compiled.Name))
		}
		for _, object := range []*discoveryv1.EndpointSlice{&slice, &other} {
			played.apply(t, played.table.DeleteSlice(service.Name{Namespace: object.Namespace, Name: object.Name}))
		}
		if len(played.entries) > 0 {
			t.Fatalf("entries are left: %v", played.entries)
		}
	})
}

// addScenarios adds the objects of the scenarios: each Service with its first two EndpointSlices.
func addScenarios(f *testing.F) {
	files, err := filepath.Glob("../../service/testdata/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		objects := map[string][][]byte{}
		for _, section := range archive.Files {
			for _, document := range bytes.Split(section.Data, []byte("\n---\n")) {
				object, err := yaml.YAMLToJSON(document)
				var meta struct{ Kind string }
				if err == nil && json.Unmarshal(object, &meta) == nil {
					objects[meta.Kind] = append(objects[meta.Kind], object)
				}
			}
		}
		endpoints := append(objects["EndpointSlice"], []byte("{}"), []byte("{}"))
		for _, object := range objects["Service"] {
			f.Add(object, endpoints[0], endpoints[1])
		}
	}
}

// kernel has the entries that the changes of a table leave, by key.
type kernel struct {
	table   *service.Table
	entries map[string]string
}

// apply applies changes, and compares the entries with those of the whole table.
func (k kernel) apply(t *testing.T, d service.Diff) {
	t.Helper()
	change(k.entries, d)
	all := map[string]string{}
	change(all, k.table.All())
	if diff := cmp.Diff(all, k.entries); diff != "" {
		t.Fatalf("the changes lead to other entries (-all +changed):\n%s", diff)
	}
	for _, e := range d.SetFrontends {
		if !e.Addr.IsValid() || e.Addr.Is4In6() || e.Port == 0 || e.Timeout > 86400 || (e.Count > 0) == (e.Flags&(service.Refuse|service.Pass) != 0) {
			t.Fatalf("frontend %v", e)
		}
	}
	for _, e := range d.SetBackends {
		if !e.Backend.IsValid() || e.Backend.Port() == 0 || e.ID == 0 {
			t.Fatalf("backend %v", e)
		}
	}
}

func change(entries map[string]string, d service.Diff) {
	for _, e := range d.SetBackends {
		entries[fmt.Sprint("slot ", e.Slot)] = e.String()
	}
	for _, e := range d.SetMembers {
		entries[fmt.Sprint("member ", e.Member)] = e.String()
	}
	for _, e := range d.SetFrontends {
		entries[fmt.Sprint("frontend ", e.FrontendKey)] = e.String()
	}
	for _, key := range d.DeleteFrontends {
		delete(entries, fmt.Sprint("frontend ", key))
	}
	for _, m := range d.DeleteMembers {
		delete(entries, fmt.Sprint("member ", m))
	}
	for _, at := range d.DeleteBackends {
		delete(entries, fmt.Sprint("slot ", at))
	}
}

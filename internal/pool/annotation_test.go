package pool

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/inet"
)

func TestAnnotationsAreRead(t *testing.T) {
	t.Parallel()
	yes := true
	pools, err := ParseIPPools(`[{"interface":"eth0","ipv4":["a"],"ipv6":["b","c*"],"cleangateway":true},{"interface":"net1"}]`)
	want := []InterfacePools{{"eth0", Names{[]string{"a"}, []string{"b", "c*"}}, &yes}, {Interface: "net1"}}
	if err != nil || !reflect.DeepEqual(pools, want) {
		t.Errorf("ippools: %+v, %v; want %+v", pools, err, want)
	}
	routes, err := ParseRoutes(`[{"dst":"10.0.0.0/8","gw":"172.31.16.1"},{"dst":"::/0","gw":"fd00::1"}]`)
	if err != nil || fmt.Sprint(routes) != "[10.0.0.0/8 via 172.31.16.1 ::/0 via fd00::1]" {
		t.Errorf("routes: %v, %v", routes, err)
	}
	dns, err := ParseDNS(`{"nameservers":["10.0.0.10"],"domain":"d","search":["s"],"options":["ndots:2"]}`)
	if err != nil || !reflect.DeepEqual(dns, DNS{[]string{"10.0.0.10"}, "d", []string{"s"}, []string{"ndots:2"}}) {
		t.Errorf("dns: %v, %v", dns, err)
	}
}

// The examples of error messages are valid.
func TestExamplesParse(t *testing.T) {
	t.Parallel()
	for example, parse := range parsers() {
		if err := parse(example); err != nil {
			t.Errorf("%s: %v", example, err)
		}
	}
}

func parsers() map[string]func(string) error {
	return map[string]func(string) error{
		exampleIPPool:  func(s string) error { _, err := ParseIPPool(s); return err },
		exampleIPPools: func(s string) error { _, err := ParseIPPools(s); return err },
		exampleRoutes:  func(s string) error { _, err := ParseRoutes(s); return err },
		exampleDNS:     func(s string) error { _, err := ParseDNS(s); return err },
		exampleNamespacePools: func(s string) error {
			_, err := ParseNamespacePools(names.AnnotationNamespaceDefaultIPv4Pool, s)
			return err
		},
	}
}

func TestBadAnnotationsAreRefused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ example, value, want string }{
		{exampleIPPool, `{"ipv4":["a"]`, "it ends too early"},
		{exampleIPPool, ``, "it ends too early"},
		{exampleIPPool, `{ipv4:["a"]}`, "is not JSON: invalid character 'i'"},
		{exampleIPPool, `{"ipv4":["a"]} x`, "has text after the JSON value"},
		{exampleIPPool, `{"ipv4":"a"}`, "ipv4 is a JSON string, want a list"},
		{exampleIPPool, `["a"]`, "is a JSON array, want an object"},
		{exampleIPPool, `{"ipv5":["a"]}`, "names no pool; its keys are ipv4 and ipv6"},
		{exampleIPPool, `{"ipv4":["A_b"]}`, `ipv4[0] "A_b" is not a valid SpiderIPPool name`},
		{exampleIPPool, `{"ipv6":["a",""]}`, `ipv6[1] "" is not a valid SpiderIPPool name`},
		{exampleIPPool, `{}`, "names no pool"},
		{exampleIPPools, `{"interface":"eth0"}`, "is a JSON object, want a list"},
		{exampleIPPools, `[]`, "is an empty list"},
		{exampleIPPools, `[{"interface":"eth0","ipv4":["a"]},{"ipv4":["b"]}]`, "[1] and [0]: either every entry names its interface or none does"},
		{exampleIPPools, `[{"interface":"eth0"},{"interface":"eth0"}]`, "[0] and [1] both name interface eth0"},
		{exampleIPPools, `[{"interface":"eth0","cleangateway":"yes"}]`, "cleangateway is a JSON string, want true or false"},
		{exampleIPPools, `[{"interface":"eth0","ipv6":["["]}]`, `[0].ipv6[0] "[" is not a valid SpiderIPPool name`},
		{exampleNamespacePools, `"a"`, "is a JSON string, want a list"},
		{exampleNamespacePools, `["a b"]`, `[0] "a b" is not a valid SpiderIPPool name`},
		{exampleRoutes, `[{"dst":"10.0.0.0","gw":"10.0.0.1"}]`, `[0].dst "10.0.0.0": is not a network in CIDR notation`},
		{exampleRoutes, `[{"dst":"10.0.0.0/8","gw":"224.0.0.1"}]`, `[0].gw "224.0.0.1": is a multicast address`},
		{exampleRoutes, "[" + strings.Repeat(`{"dst":"10.0.0.0/8","gw":"10.0.0.1"},`, maxRoutes) + `{"dst":"10.0.0.0/8","gw":"10.0.0.1"}]`, "has 1025 routes; write at most 1024"},
		{exampleRoutes, `[{"dst":"10.0.0.0/8","gw":"x"}]`, `[0].gw "x": is not an IP address`},
		{exampleRoutes, `[{"dst":"10.0.0.0/8","gw":"fd00::1"}]`, `[0].gw "fd00::1": is IPv6, but dst 10.0.0.0/8 is IPv4`},
		{exampleIPPool, `{"ipv4":[` + strings.Repeat(`"a",`, maxNames) + `"a"]}`, "ipv4 has 1025 names; write at most 1024"},
		{exampleIPPool, `{"ipv6":[` + strings.Repeat(`"a?",`, maxPatterns) + `"a*"]}`, "ipv6 has more than 16 names with wildcards"},
		{exampleIPPools, "[" + strings.Repeat(`{"ipv4":["a","b","c","d"],"ipv6":["a","b","c","d"]},`, 128) + `{"ipv4":["a"]}]`, "has 1025 names of pools; write at most 1024"},
		{exampleIPPools, "[" + strings.Repeat(`{"ipv4":["a*"]},`, 64) + `{"ipv6":["a*"]}]`, "has 65 names with wildcards; write at most 64"},
		{exampleIPPool, `{"ipv4":["` + strings.Repeat("a", 64) + `*"]}`, "has wildcards and is longer than 64 bytes"},
		{exampleDNS, `{"search":["` + strings.Repeat(`a","`, 32) + `a"]}`, "search has 33 entries; write at most 32"},
		{exampleDNS, `{"options":["` + strings.Repeat(`a`, 254) + `"]}`, "options[0] is longer than 253 bytes"},
		{exampleDNS, `{"domain":"` + strings.Repeat(`a`, 254) + `"}`, "domain[0] is longer than 253 bytes"},
		{exampleDNS, `{"nameservers":["dns.example.org"]}`, `nameservers[0] "dns.example.org" is not an IP address`},
	} {
		t.Run(tc.value, func(t *testing.T) {
			t.Parallel()
			err := parsers()[tc.example](tc.value)
			var bad *AnnotationError
			if !errors.As(err, &bad) || bad.Value != tc.value || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error is %v, want an AnnotationError with %q", err, tc.want)
			}
			if !strings.Contains(err.Error(), "annotation ipam.spidernet.io/") || !strings.HasSuffix(err.Error(), tc.example) {
				t.Errorf("error %q does not name the annotation and a correct value", err)
			}
		})
	}
}

// Errors promise these numbers, e.g. "write at most 1024".
func TestLimitsOfAnnotationsAreAllowed(t *testing.T) {
	t.Parallel()
	list := func(n int, entry string) string { return "[" + strings.Repeat(entry+",", n-1) + entry + "]" }
	for _, tc := range []struct{ name, example, value string }{
		{"names", exampleIPPool, `{"ipv4":` + list(maxNames, `"a"`) + `}`},
		{"wildcards", exampleIPPool, `{"ipv6":` + list(maxPatterns, `"a*"`) + `}`},
		{"length of a wildcard", exampleIPPool, `{"ipv4":["` + strings.Repeat("a", maxPattern-1) + `*"]}`},
		{"wildcards of all interfaces", exampleIPPools, list(64, `{"ipv4":["a*"]}`)},
		{"names of all interfaces", exampleIPPools, list(128, `{"ipv4":["a","b","c","d"],"ipv6":["a","b","c","d"]}`)},
		{"routes", exampleRoutes, list(maxRoutes, `{"dst":"10.0.0.0/8","gw":"10.0.0.1"}`)},
		{"search domains", exampleDNS, `{"search":` + list(32, `"a"`) + `}`},
		{"length of a domain", exampleDNS, `{"domain":"` + strings.Repeat("a", 253) + `"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if err := parsers()[tc.example](tc.value); err != nil {
				t.Errorf("refused: %.200v", err)
			}
		})
	}
}

func TestBadAnnotationStopsTheSelection(t *testing.T) {
	t.Parallel()
	c := catalog(newPool(t, "p"))
	for _, req := range []*Request{
		newRequest(podAnnotation(names.AnnotationPodIPPool, "x")),
		newRequest(podAnnotation(names.AnnotationPodIPPools, "x")),
		newRequest(func(r *Request) { r.Namespace.Annotations[names.AnnotationNamespaceDefaultIPv4Pool] = "x" }),
	} {
		_, err := SelectAll(c, req, []inet.Family{4})
		var bad *AnnotationError
		if !errors.As(err, &bad) {
			t.Errorf("error is %v, want an AnnotationError", err)
		}
	}
}

func TestInterfacesOfAPod(t *testing.T) {
	t.Parallel()
	cluster := ClusterNetwork{Default: NetworkAttachment{"kube-system", "cluster"}}
	for _, tc := range []struct {
		name             string
		defaults, others string
		want             string // "name=namespace/attachment …", or part of an error
		bad              bool
	}{
		{"none", "", "", "eth0=kube-system/cluster", false},
		{"default", "ns/a", "", "eth0=ns/a", false},
		{"default without namespace", "a", "", "eth0=kube-system/a", false},
		{"default in JSON", `[{"name":"a","namespace":"ns"}]`, "", "eth0=ns/a", false},
		{"networks", "", "a, ns/b@my0 ,c", "eth0=kube-system/cluster net1=pods/a my0=ns/b net3=pods/c", false},
		{"networks in JSON", "", `[{"name":"a"},{"name":"b","namespace":"ns","interface":"my0","ips":["10.0.0.1"]},{"name":"a"}]`,
			"eth0=kube-system/cluster net1=pods/a my0=ns/b net3=pods/a", false},
		{"two defaults", "a,b", "", "names 2 attachments; name one", true},
		{"empty entry", "", "a,,b", `"" is not of the form`, true},
		{"no name", "", "ns/", `"ns/" is not of the form`, true},
		{"spaces around each part", "", "ns / b @ my0 , c", "eth0=kube-system/cluster my0=ns/b net2=pods/c", false},
		{"empty parts as Multus takes them", "", "/a@", "eth0=kube-system/cluster net1=pods/a", false},
		{"spaces within", "", "a b", `"a b" is not of the form`, true},
		{"former key", "", `[{"name":"a","interfaceRequest":"my0"},{"name":"a","interface":"my1","interfaceRequest":"my0"}]`,
			"eth0=kube-system/cluster my0=pods/a my1=pods/a", false},
		{"three parts", "", "a/b/c", `"a/b/c" is not of the form`, true},
		{"two interfaces", "", "a@b@c", `"a@b@c" has no interface name after '@'`, true},
		{"long name", "", "a@abcdefghijklmno,b@abcdefghijklmnop", `interface name "abcdefghijklmnop" is longer than 15 bytes`, true},
		{"same interface twice", "", "a@net2,b", "two interfaces are named net2", true},
		{"JSON without a name", "", `[{"namespace":"ns"}]`, "entry 0 has no name", true},
		{"broken JSON", "", `[{"name":"a"`, "is not a JSON list of objects", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			annotations := map[string]string{names.AnnotationMultusDefaultNetwork: tc.defaults, names.AnnotationMultusNetworks: tc.others}
			interfaces, err := Interfaces("pods", annotations, cluster)
			if tc.bad {
				var bad *AnnotationError
				if !errors.As(err, &bad) || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("error is %v, want %q", err, tc.want)
				}
				return
			}
			var got []string
			for i, p := range interfaces {
				got = append(got, p.Name+"="+p.Attachment.String())
				if p.Position != i {
					t.Errorf("position of %s is %d, want %d", p.Name, p.Position, i)
				}
			}
			if err != nil || strings.Join(got, " ") != tc.want {
				t.Errorf("interfaces are %v, %v; want %s", got, err, tc.want)
			}
		})
	}
}

// Multus attaches its own default networks before those of the pod.
func TestDefaultNetworksShiftOthers(t *testing.T) {
	t.Parallel()
	cluster := ClusterNetwork{
		Default: NetworkAttachment{"kube-system", "cluster"}, Additional: []NetworkAttachment{{"kube-system", "storage"}},
		SystemNamespaces: []string{"kube-system"},
	}
	annotations := map[string]string{names.AnnotationMultusNetworks: "a"}
	for namespace, want := range map[string]string{
		"pods":        "eth0=kube-system/cluster net1=kube-system/storage net2=pods/a",
		"kube-system": "eth0=kube-system/cluster net1=kube-system/a",
	} {
		interfaces, err := Interfaces(namespace, annotations, cluster)
		var got []string
		for _, i := range interfaces {
			got = append(got, i.Name+"="+i.Attachment.String())
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v, %v; want %s", namespace, got, err, want)
		}
	}
	annotations[names.AnnotationMultusNetworks] = "a@net1"
	if _, err := Interfaces("pods", annotations, cluster); err == nil || !strings.Contains(err.Error(), "two interfaces are named net1") {
		t.Errorf("the name of a default network: %v", err)
	}
}

func TestAttachmentsHaveNamespaces(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{"": "[]", " ": "[]", "a, ns/b@x": "[pods/a ns/b]", `[{"name":"a"}]`: "[pods/a]"} {
		if got, err := Attachments("pods", value); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v; want %s", value, got, err, want)
		}
	}
	var bad *AnnotationError
	if got, err := Attachments("pods", "a/b/c"); !errors.As(err, &bad) || got != nil {
		t.Errorf("a malformed annotation: %v, %v", got, err)
	}
}

func TestPoolsOnlyForInterfacesOfThePod(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		`[{"interface":"eth0","ipv4":["a"]}]`:                                   "",
		`[{"interface":"net1","ipv4":["a"]},{"interface":"eth0","ipv4":["a"]}]`: "",
		`[{"ipv4":["a"]}]`:                               "",
		`[{"interface":"eht0","ipv4":["a"]}]`:            "[0] is for interface eht0, and the pod has only eth0, net1",
		`[{"ipv4":["a"]},{"ipv4":["a"]},{"ipv4":["a"]}]`: "has 3 entries for 2 interfaces: eth0, net1",
		`[`: "is not JSON",
	} {
		err := CheckInterfaces(map[string]string{names.AnnotationPodIPPools: value}, []string{"eth0", "net1"})
		var bad *AnnotationError
		if (want == "") != (err == nil) || err != nil && (!errors.As(err, &bad) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", value, err, want)
		}
	}
	if err := CheckInterfaces(nil, []string{"eth0"}); err != nil {
		t.Errorf("a pod without the annotation: %v", err)
	}
}

func FuzzAnnotations(f *testing.F) {
	for example := range parsers() {
		f.Add(example)
	}
	for _, seed := range []string{"", "[]", "{}", "null", "[null]", "a,ns/b@net2", `[{"name":"a"}]`, "@", "/", "a@b@c", strings.Repeat("[", 50)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, parse := range parsers() {
			err := parse(value)
			var bad *AnnotationError
			if err != nil && (!errors.As(err, &bad) || bad.Reason == "" || len(err.Error()) > 4096+len(value)) {
				t.Fatalf("%q: %v", value, err)
			}
		}
		interfaces, err := Interfaces("ns", map[string]string{names.AnnotationMultusNetworks: value}, ClusterNetwork{})
		if err != nil {
			return
		}
		var names []string
		for _, p := range interfaces {
			if p.Name == "" || slices.Contains(names, p.Name) || p.Position > 0 && p.Attachment.Name == "" {
				t.Fatalf("%q: %+v", value, interfaces)
			}
			names = append(names, p.Name)
		}
	})
}

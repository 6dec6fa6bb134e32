package pool

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/inet"
)

// newRequest asks for eth0 of pod default/web on node master, with labels, attached
// to kube-system/ipvlan-ens5.
func newRequest(changes ...func(*Request)) *Request {
	r := &Request{
		Pod:        PodFacts{Namespace: "default", Name: "web", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{}},
		Namespace:  NamespaceFacts{Name: "default", Labels: map[string]string{"team": "a"}, Annotations: map[string]string{}},
		Node:       NodeFacts{Name: "master", Labels: map[string]string{"zone": "a"}},
		Interface:  "eth0",
		Attachment: NetworkAttachment{"kube-system", "ipvlan-ens5"},
	}
	for _, change := range changes {
		change(r)
	}
	return r
}

func podAnnotation(key, value string) func(*Request) {
	return func(r *Request) { r.Pod.Annotations[key] = value }
}

func TestSourcesInTheirOrder(t *testing.T) {
	t.Parallel()
	c := catalog(newPool(t, "default"), newPool(t, "default6", v6))
	for _, name := range []string{"subnet", "ippools", "ippool", "namespace", "configured"} {
		c.Set(newPool(t, name, notDefault))
	}
	sources := []struct {
		source Source
		pool   string
		apply  func(*Request)
	}{
		{SourceDefault, "default", func(*Request) {}},
		{SourceConfigured, "configured", func(r *Request) { r.Configured.IPv4 = []string{"configured"} }},
		{SourceNamespace, "namespace", func(r *Request) { r.Namespace.Annotations[names.AnnotationNamespaceDefaultIPv4Pool] = `["namespace"]` }},
		{SourcePodIPPool, "ippool", podAnnotation(names.AnnotationPodIPPool, `{"ipv4":["ippool"]}`)},
		{SourcePodIPPools, "ippools", podAnnotation(names.AnnotationPodIPPools, `[{"interface":"eth0","ipv4":["ippools"]}]`)},
		{SourceSubnet, "subnet", func(r *Request) { r.SubnetPools = &Names{IPv4: []string{"subnet"}} }},
	}
	req := newRequest()
	for _, step := range sources {
		step.apply(req)
		s, err := Select(c, req, 4)
		if err != nil || s.Source != step.source || !slices.Equal(s.Names(), []string{step.pool}) {
			t.Errorf("Select = %v from %q, %v; want %s from %q", s.Names(), s.Source, err, step.pool, step.source)
		}
		// None of them names an IPv6 pool. What a pod says holds for both families.
		fromPod := step.source == SourcePodIPPool || step.source == SourcePodIPPools || step.source == SourceSubnet
		s, err = Select(c, req, 6)
		if err != nil || s.Asked() == fromPod || !fromPod && !slices.Equal(s.Names(), []string{"default6"}) {
			t.Errorf("%s: IPv6 comes from %q: %v, %v", step.source, s.Source, s.Names(), err)
		}
	}
}

func TestIPPoolsOfAnInterface(t *testing.T) {
	t.Parallel()
	c := catalog(newPool(t, "a", notDefault), newPool(t, "b", notDefault), newPool(t, "d"))
	named := podAnnotation(names.AnnotationPodIPPools, `[{"interface":"net1","ipv4":["b"],"cleangateway":true},{"interface":"eth0","ipv4":["a"],"cleangateway":false}]`)
	byPosition := podAnnotation(names.AnnotationPodIPPools, `[{"ipv4":["a"]},{"ipv4":["b"]}]`)
	for _, tc := range []struct {
		name       string
		annotation func(*Request)
		ifname     string
		position   int
		configured bool // clean_gateway
		want       string
		clean      bool
	}{
		{"named first", named, "eth0", 0, true, "a", false},
		{"named second", named, "net1", 1, false, "b", true},
		{"not named", named, "net2", 2, true, "", true},
		{"first by position", byPosition, "eth0", 0, false, "a", false},
		{"second by position", byPosition, "my-net", 1, true, "b", true},
		{"no entry at the position", byPosition, "net2", 2, false, "", false},
	} {
		req := newRequest(tc.annotation, podAnnotation(names.AnnotationPodIPPool, `{"ipv4":["b"]}`))
		req.Interface, req.Position, req.CleanGateway = tc.ifname, tc.position, tc.configured
		s, err := Select(c, req, 4)
		if err != nil || strings.Join(s.Names(), " ") != tc.want || s.CleanGateway != tc.clean {
			t.Errorf("%s: %v, clean %t, %v; want %s, clean %t", tc.name, s.Names(), s.CleanGateway, err, tc.want, tc.clean)
		}
	}
}

func TestLeftOutInterfaceGetsNoDefaultPool(t *testing.T) {
	t.Parallel()
	c := catalog(newPool(t, "a", notDefault), newPool(t, "d"), newPool(t, "d6", v6))
	req := newRequest(podAnnotation(names.AnnotationPodIPPools, `[{"interface":"eth0","ipv4":["a"]}]`))
	req.Interface, req.Position = "net1", 1
	_, err := SelectAll(c, req, []inet.Family{4, 6})
	want := "interface net1: the annotation ipam.spidernet.io/ippools of the pod names no SpiderIPPool for it, and neither do the pod's namespace and the CNI configuration"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	req.Configured.IPv4 = []string{"a"}
	if s, err := SelectAll(c, req, []inet.Family{4, 6}); err != nil || len(s) != 1 || s[0].Source != SourceConfigured {
		t.Errorf("with pools in the CNI configuration: %v, %v", s, err)
	}
}

func TestRejectionsNameFieldAndValue(t *testing.T) {
	t.Parallel()
	master := func(r *Request) {
		r.MatchMasterSubnet = true
		r.MasterSubnets = []netip.Prefix{netip.MustParsePrefix("172.31.16.0/20")}
	}
	app := func(r *Request) { r.Pod.App = &App{"apps", "v1", "Deployment", "default", "web"} }
	for _, tc := range []struct {
		name    string
		change  func(*Pool)
		request func(*Request)
		cause   Cause
		reason  string // empty: not rejected
	}{
		{"as it is", func(*Pool) {}, nil, "", ""},
		{"invalid", func(p *Pool) { p.Invalid = `spec.gateway: Invalid value: "10.0.0.255"` }, nil, CauseInvalid, `it is invalid: spec.gateway: Invalid value: "10.0.0.255"`},
		{"terminating", func(p *Pool) { p.Terminating = true }, nil, CauseTerminating, "it is being deleted"},
		{"disabled", func(p *Pool) { p.Disabled = true }, nil, CauseDisabled, "spec.disable is true"},
		{"foreign", func(p *Pool) { p.Foreign = "2 addresses" }, nil, CauseForeign, "status.allocatedIPs has 2 addresses of another Spiderpool release, which this release would give to other pods; delete these pods, then clear the status"},
		{"other version", v6, nil, CauseVersion, "the pool is IPv6, but the interface needs IPv4"},
		{"node name", func(p *Pool) { p.NodeNames = []string{"worker1", "master"} }, nil, "", ""},
		{"other node", func(p *Pool) { p.NodeNames = []string{"worker1"} }, nil, CauseNode,
			"spec.nodeName [worker1] does not include the pod's node master"},
		{"node name wins over affinity", func(p *Pool) {
			p.NodeNames, p.NodeAffinity = []string{"master"}, expression("zone", In, "z")
		}, nil, "", ""},
		{"node affinity", func(p *Pool) { p.NodeAffinity = expression("zone", In, "a") }, nil, "", ""},
		{"other node affinity", func(p *Pool) { p.NodeAffinity = expression("zone", In, "b", "c") }, nil, CauseNode,
			`spec.nodeAffinity requires zone in (b,c) (label is "a") of the pod's node master`},
		{"namespace name", func(p *Pool) { p.NamespaceNames = []string{"default"} }, nil, "", ""},
		{"other namespace", func(p *Pool) { p.NamespaceNames = []string{"prod", "test"} }, nil, CauseNamespace,
			"spec.namespaceName [prod test] does not include the pod's namespace default"},
		{"namespace name wins over affinity", func(p *Pool) {
			p.NamespaceNames, p.NamespaceAffinity = []string{"prod"}, expression("team", In, "a")
		}, nil, CauseNamespace, "spec.namespaceName [prod] does not include the pod's namespace default"},
		{"other namespace affinity", func(p *Pool) { p.NamespaceAffinity = &Selector{MatchLabels: map[string]string{"tier": "x"}} }, nil,
			CauseNamespace, "spec.namespaceAffinity requires tier=x (no label tier) of the pod's namespace default"},
		{"pod affinity", func(p *Pool) { p.PodAffinity = &Selector{MatchLabels: map[string]string{"app": "web"}} }, nil, "", ""},
		{"other pod", func(p *Pool) { p.PodAffinity = expression("app", DoesNotExist) }, nil, CausePod,
			`spec.podAffinity requires !app (label is "web") of the pod default/web`},
		{"application", func(p *Pool) {
			p.PodAffinity = &Selector{MatchLabels: map[string]string{names.AffinityAppKind: "Deployment", names.AffinityAppName: "web"}}
		}, app, "", ""},
		{"other application", func(p *Pool) { p.PodAffinity = &Selector{MatchLabels: map[string]string{names.AffinityAppName: "db"}} }, app, CausePod,
			`spec.podAffinity requires ipam.spidernet.io/app-name=db (label is "web") of the pod default/web`},
		{"claimed application", func(p *Pool) { p.PodAffinity = &Selector{MatchLabels: map[string]string{names.AffinityAppName: "db"}} },
			func(r *Request) { r.Pod.Labels = map[string]string{names.AffinityAppName: "db"} }, CausePod,
			"spec.podAffinity requires ipam.spidernet.io/app-name=db (no label ipam.spidernet.io/app-name) of the pod default/web"},
		{"attachment", func(p *Pool) { p.MultusNames = []string{"kube-system/ipvlan-ens5"} }, nil, "", ""},
		{"attachment by its name", func(p *Pool) { p.MultusNames = []string{"other", "ipvlan-ens5"} }, nil, "", ""},
		{"attachment of another namespace", func(p *Pool) { p.MultusNames = []string{"default/ipvlan-ens5"} }, nil, CauseMultus,
			"spec.multusName [default/ipvlan-ens5] does not include kube-system/ipvlan-ens5, the network attachment of interface eth0"},
		{"no attachment", func(p *Pool) { p.MultusNames = []string{"ipvlan-ens5"} }, func(r *Request) { r.Attachment = NetworkAttachment{} }, CauseMultus,
			"spec.multusName [ipvlan-ens5]: interface eth0 has no network attachment"},
		{"not the master's subnet", func(*Pool) {}, master, CauseMaster,
			"match_master_subnet: spec.subnet 10.0.0.0/24 is not a network of the master interface [172.31.16.0/20]"},
		{"the master's subnet", func(p *Pool) { p.Subnet = netip.MustParsePrefix("172.31.16.0/20") }, master, "", ""},
		{"no addresses", func(p *Pool) { p.IPs = inet.Set{} }, nil, CauseEmpty, "spec.ips is empty"},
		{"all excluded", func(p *Pool) { p.Exclude = p.IPs }, nil, CauseEmpty,
			"all addresses of spec.ips [10.0.0.10-10.0.0.20] are excluded by spec.excludeIPs, a gateway of the subnet, a next hop of spec.routes, the subnet's network and broadcast addresses, the node's own addresses or a SpiderReservedIP"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			req := newRequest(podAnnotation(names.AnnotationPodIPPool, `{"ipv4":["p"]}`))
			if tc.request != nil {
				tc.request(req)
			}
			s, err := Select(catalog(newPool(t, "p", tc.change)), req, 4)
			if err != nil {
				t.Fatal(err)
			}
			if tc.reason == "" {
				if len(s.Pools) != 1 || len(s.Rejections) != 0 {
					t.Errorf("rejected: %v", s.Rejections)
				}
				return
			}
			if want := []Rejection{{"p", tc.cause, tc.reason}}; !slices.Equal(s.Rejections, want) || len(s.Pools) != 0 {
				t.Errorf("rejections are\n%q, want\n%q", s.Rejections, want)
			}
		})
	}
}

func TestNamesAndWildcards(t *testing.T) {
	t.Parallel()
	c := catalog(newPool(t, "zone-a-1"), newPool(t, "zone-a-2"), newPool(t, "zone-b-1"), newPool(t, "zone-a-6", v6))
	for _, tc := range []struct {
		names string
		want  []string
		drops []Rejection
	}{
		{`["zone-b-1","zone-a-1"]`, []string{"zone-b-1", "zone-a-1"}, nil},
		{`["zone-b-1","zone-b-1"]`, []string{"zone-b-1"}, nil},
		{`["zone-a-*"]`, []string{"zone-a-1", "zone-a-2"}, nil},
		{`["zone-a-2","zone-*-1","*"]`, []string{"zone-a-2", "zone-a-1", "zone-b-1"}, nil},
		{`["*-b-*"]`, []string{"zone-b-1"}, nil},
		{`["zone-?-1"]`, []string{"zone-a-1", "zone-b-1"}, nil},
		{`["zone-[b-z]-?"]`, []string{"zone-b-1"}, nil},
		{`["zone-[^b]-2"]`, []string{"zone-a-2"}, nil},
		{`["zone-a-1*1"]`, nil, []Rejection{{"zone-a-1*1", CauseUnknown, "no IPv4 SpiderIPPool has a matching name"}}},
		{`["zone-c-*","zone-a-1"]`, []string{"zone-a-1"}, []Rejection{{"zone-c-*", CauseUnknown, "no IPv4 SpiderIPPool has a matching name"}}},
		{`["zone-a1"]`, nil, []Rejection{{"zone-a1", CauseUnknown, "no such SpiderIPPool; the nearest name is zone-a-1"}}},
		{`["production"]`, nil, []Rejection{{"production", CauseUnknown, "no such SpiderIPPool"}}},
	} {
		req := newRequest(podAnnotation(names.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":%s}`, tc.names)))
		s, err := Select(c, req, 4)
		if err != nil || !slices.Equal(s.Names(), tc.want) || !slices.Equal(s.Rejections, tc.drops) {
			t.Errorf("%s: %v, rejected %q, %v; want %v, rejected %q", tc.names, s.Names(), s.Rejections, err, tc.want, tc.drops)
		}
	}
}

func TestFewMisspeltNamesAreGuessed(t *testing.T) {
	t.Parallel()
	pools := `"pool-0x"` + strings.Repeat(`,"pool-0x"`, maxGuesses)
	s, err := Select(catalog(newPool(t, "pool-0")), newRequest(podAnnotation(names.AnnotationPodIPPool, `{"ipv4":[`+pools+`]}`)), 4)
	guessed := 0
	for _, rejection := range s.Rejections {
		if strings.Contains(rejection.Reason, "the nearest name is pool-0") {
			guessed++
		}
	}
	if err != nil || len(s.Rejections) != 11 || guessed != 10 {
		t.Errorf("%d of %d names guessed, %v; want 10 of 11", guessed, len(s.Rejections), err)
	}
}

func TestSpecificPoolsGoFirst(t *testing.T) {
	t.Parallel()
	selector := &Selector{}
	c := catalog(
		newPool(t, "a-none"),
		newPool(t, "b-multus", func(p *Pool) { p.MultusNames = []string{"ipvlan-ens5"} }),
		newPool(t, "c-namespace-affinity", func(p *Pool) { p.NamespaceAffinity = selector }),
		newPool(t, "d-namespace-name", func(p *Pool) { p.NamespaceNames = []string{"default"} }),
		newPool(t, "e-node-affinity", func(p *Pool) { p.NodeAffinity = selector }),
		newPool(t, "f-node-affinity-multus", func(p *Pool) { p.NodeAffinity, p.MultusNames = selector, []string{"ipvlan-ens5"} }),
		newPool(t, "g-node-name", func(p *Pool) { p.NodeNames = []string{"master"} }),
		newPool(t, "h-pod", func(p *Pool) { p.PodAffinity = selector }),
		newPool(t, "i-pod-node", func(p *Pool) { p.PodAffinity, p.NodeNames = selector, []string{"master"} }),
		newPool(t, "z-none"),
	)
	want := []string{"i-pod-node", "h-pod", "g-node-name", "f-node-affinity-multus", "e-node-affinity",
		"d-namespace-name", "c-namespace-affinity", "b-multus", "a-none", "z-none"}
	s, err := Select(c, newRequest(), 4)
	if err != nil || !slices.Equal(s.Names(), want) {
		t.Errorf("default pools are ranked\n%v, %v; want\n%v", s.Names(), err, want)
	}

	listed := newRequest(podAnnotation(names.AnnotationPodIPPool, `{"ipv4":["z-none","a-none","g-node-name"]}`))
	s, err = Select(c, listed, 4)
	if want := []string{"g-node-name", "z-none", "a-none"}; err != nil || !slices.Equal(s.Names(), want) {
		t.Errorf("listed pools are ranked %v, %v; want %v", s.Names(), err, want)
	}
}

func TestRequestedFamilies(t *testing.T) {
	t.Parallel()
	four, six := newPool(t, "four"), newPool(t, "six", v6)
	elsewhere := newPool(t, "six-elsewhere", v6, func(p *Pool) { p.NodeNames = []string{"worker1"} })
	for _, tc := range []struct {
		name     string
		catalog  *Catalog
		families []inet.Family
		want     []inet.Family // selected
		err      string        // else part of the error
	}{
		{"both", catalog(four, six), []inet.Family{4, 6}, []inet.Family{4, 6}, ""},
		{"only IPv4 enabled", catalog(four, six), []inet.Family{4}, []inet.Family{4}, ""},
		{"no IPv6 pool", catalog(four), []inet.Family{4, 6}, []inet.Family{4}, ""},
		{"no IPv4 pool", catalog(six), []inet.Family{4, 6}, []inet.Family{6}, ""},
		{"IPv6 pool of another node", catalog(four, elsewhere), []inet.Family{4, 6}, nil,
			"interface eth0: no SpiderIPPool can provide an IPv6 address (source: pools with spec.default): six-elsewhere: spec.nodeName [worker1] does not include the pod's node master"},
		{"no pool at all", catalog(), []inet.Family{4, 6}, nil,
			"interface eth0: the pod, its namespace and the CNI configuration name no SpiderIPPool, and no SpiderIPPool has spec.default: true"},
		{"no default pool", catalog(newPool(t, "x", notDefault), newPool(t, "y", v6, notDefault)), []inet.Family{4, 6}, nil,
			"x: spec.default is false and neither the pod, its namespace nor the CNI configuration names it; y: spec.default is false"},
	} {
		selections, err := SelectAll(tc.catalog, newRequest(), tc.families)
		if tc.err != "" {
			var none *NoPoolError
			if !errors.As(err, &none) || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: error is\n%v, want\n%s", tc.name, err, tc.err)
			}
			continue
		}
		var got []inet.Family
		for _, s := range selections {
			got = append(got, s.Family)
		}
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s: selected %v, %v; want %v", tc.name, got, err, tc.want)
		}
	}
}

func TestFormatHasEveryRejection(t *testing.T) {
	t.Parallel()
	var rejections []Rejection
	for i := range 102 {
		rejections = append(rejections, Rejection{fmt.Sprint("p", i), CauseDisabled, "off"})
	}
	if got := FormatRejections(rejections[:100]); !strings.HasPrefix(got, "p0: off; p1: off; ") || !strings.HasSuffix(got, "; p99: off") {
		t.Errorf("100 rejections: %s", got)
	}
	if got := FormatRejections(rejections); !strings.HasSuffix(got, "; p99: off; and 2 more") {
		t.Errorf("102 rejections: %s", got)
	}
}

func BenchmarkSelectDefaults(b *testing.B) {
	c := NewCatalog()
	for i := range 100 {
		c.Set(newPool(b, fmt.Sprint("pool-", i), func(p *Pool) { p.NodeNames = []string{fmt.Sprint("node-", i)} }))
	}
	req := newRequest(func(r *Request) { r.Node.Name = "node-50" })
	b.ReportAllocs()
	for b.Loop() {
		if s, err := Select(c, req, 4); err != nil || len(s.Pools) != 1 {
			b.Fatal(s, err)
		}
	}
}

// Every considered pool is either a candidate or rejected with a reason, and the
// result does not depend on the order of Catalog.Set.
func TestEveryPoolIsSelectedOrRejected(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var pools []*Pool
		for i := range rapid.IntRange(0, 8).Draw(rt, "pools") {
			flag := func(what string) bool { return rapid.IntRange(0, 3).Draw(rt, what) == 0 }
			pools = append(pools, newPool(t, fmt.Sprint("p", i), func(p *Pool) {
				if flag("IPv6") {
					v6(p)
				}
				p.Default, p.Disabled, p.Terminating = !flag("not default"), flag("disabled"), flag("terminating")
				if flag("other node") {
					p.NodeNames = []string{"worker1"}
				}
				if flag("this node") {
					p.NodeNames = append(p.NodeNames, "master")
				}
				if flag("pod") {
					p.PodAffinity = expression("app", rapid.SampledFrom([]Operator{Exists, DoesNotExist}).Draw(rt, "operator"))
				}
				if flag("attachment") {
					p.MultusNames = []string{rapid.SampledFrom([]string{"ipvlan-ens5", "other"}).Draw(rt, "multusName")}
				}
				if flag("empty") {
					p.Exclude = p.IPs
				}
			}))
		}
		s, err := Select(catalog(pools...), newRequest(), 4)
		if err != nil {
			rt.Fatal(err)
		}
		outcome := map[string]int{}
		for i, p := range s.Pools {
			outcome[p.Name]++
			if p.Family != 4 || p.Disabled || p.Terminating || !p.Default {
				rt.Fatalf("%+v is a candidate", p)
			}
			if i > 0 && s.Pools[i-1].rank() < p.rank() {
				rt.Fatalf("%s goes before the more specific %s", s.Pools[i-1].Name, p.Name)
			}
		}
		for _, rejection := range s.Rejections {
			outcome[rejection.Pool]++
			if rejection.Reason == "" || rejection.Cause == "" {
				rt.Fatalf("%+v has no reason", rejection)
			}
		}
		for _, p := range pools {
			want := 0
			if p.Family == 4 && (p.Default || len(s.Pools) == 0) {
				want = 1
			}
			if outcome[p.Name] != want {
				rt.Fatalf("%s is in the outcome %d times, want %d: %+v", p.Name, outcome[p.Name], want, s)
			}
		}
		slices.Reverse(pools)
		again, _ := Select(catalog(pools...), newRequest(), 4)
		if !slices.Equal(again.Names(), s.Names()) || !slices.Equal(again.Rejections, s.Rejections) {
			rt.Fatalf("known in another order: %v, %v; first %v, %v", again.Names(), again.Rejections, s.Names(), s.Rejections)
		}
	})
}

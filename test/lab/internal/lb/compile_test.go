package lb

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"spiderpool.dev/spiderpool/test/lab/internal/netfilter"
)

func TestGuideMakesOneOfEachKind(t *testing.T) {
	balancers, problems := guideSnapshot(t).compile()
	if len(problems) > 0 {
		t.Fatalf("problems %v", problems)
	}
	if len(balancers) != 2 {
		t.Fatalf("got %d load balancers", len(balancers))
	}
	alb, nlb := balancers[0], balancers[1]
	if nlb.key != "service/default/nginx-svc-lb" || !nlb.internetFacing || nlb.dualStack || len(nlb.forwards) != 1 {
		t.Errorf("got %+v", nlb)
	}
	forward := nlb.forwards[0]
	if forward.protocol != "tcp" || forward.port != 80 || !forward.preserve ||
		!slices.Equal(forward.targets, addrPorts("172.31.28.31:80", "172.31.32.184:80")) {
		t.Errorf("got %+v, want only ready endpoints", forward)
	}
	if alb.key != "ingress/default/k8s-app-ingress" || !alb.internetFacing || len(alb.rules) != 2 {
		t.Fatalf("got %+v", alb)
	}
	if echo := alb.rules[0]; echo.path != "/echo" || !echo.exact ||
		!slices.Equal(echo.targets, addrPorts("172.31.28.18:8080", "172.31.32.178:8080")) {
		t.Errorf("got %+v", echo)
	}
}

func TestServiceAnnotationsAreAppliedOrRefused(t *testing.T) {
	for _, test := range []struct{ name, key, value, want string }{
		{"internal is the default scheme", nlbScheme, "", "facing=false dual=false preserve=true ranges=[]"},
		{"internal", nlbScheme, "internal", "facing=false dual=false preserve=true ranges=[]"},
		{"dual stack", nlbAddressType, "dualstack", "facing=true dual=true preserve=true ranges=[]"},
		{"client's address not preserved", nlbAttributes, "stickiness.enabled=true, preserve_client_ip.enabled=false",
			"facing=true dual=false preserve=false ranges=[]"},
		{"preserving is off by default for IP targets", nlbAttributes, "", "facing=true dual=false preserve=false ranges=[]"},
		{"source ranges", nlbSourceRanges, "198.51.100.0/24, 2001:db8::/32",
			"facing=true dual=false preserve=true ranges=[198.51.100.0/24 2001:db8::/32]"},
		{"bad scheme", nlbScheme, "public", `aws-load-balancer-scheme: "public" is none of internal, internet-facing`},
		{"bad attribute", nlbAttributes, "preserve_client_ip.enabled=yes", `preserve_client_ip.enabled="yes" is neither true nor false`},
		{"instances", nlbTargetType, "instance", `nlb-target-type: "instance": the lab has only targets of type "ip"`},
		{"bad range", nlbSourceRanges, "198.51.100.0", "loadBalancerSourceRanges: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			service := decode[*corev1.Service](t, guideService)
			if service.Annotations[test.key] = test.value; test.value == "" {
				delete(service.Annotations, test.key)
			}
			var got string
			balancers, problems := snapshot{services: []*corev1.Service{service}}.compile()
			if len(problems) > 0 {
				got = problems[0].message
			} else {
				b := balancers[0]
				got = fmt.Sprintf("facing=%v dual=%v preserve=%v ranges=%v",
					b.internetFacing, b.dualStack, b.forwards[0].preserve, b.sourceRanges)
			}
			if !strings.Contains(got, test.want) {
				t.Errorf("got %s, want ...%s...", got, test.want)
			}
		})
	}
}

func TestOtherClassesAreIgnored(t *testing.T) {
	service, ingress := decode[*corev1.Service](t, guideService), decode[*networkingv1.Ingress](t, guideIngress)
	class := "example.org/other"
	service.Spec.LoadBalancerClass, ingress.Spec.IngressClassName = &class, &class
	balancers, problems := snapshot{services: []*corev1.Service{service, nodePortService("x", 80)},
		ingresses: []*networkingv1.Ingress{ingress}}.compile()
	if len(balancers)+len(problems) > 0 {
		t.Errorf("got %v, %v", balancers, problems)
	}
}

func TestIngressWithoutServiceIsAProblem(t *testing.T) {
	s := guideSnapshot(t)
	s.services = s.services[:2]
	_, problems := s.compile()
	if len(problems) != 1 || problems[0].message != "spec.rules[0].http.paths[1].backend: service echoserver does not exist" {
		t.Errorf("got %v", problems)
	}
}

func TestIngressGroupSharesOneLoadBalancer(t *testing.T) {
	s := guideSnapshot(t)
	second := s.ingresses[0].DeepCopy()
	second.Name = "second"
	second.Spec.Rules[0].HTTP.Paths[0].Path = "/second"
	s.ingresses = append(s.ingresses, second)
	for _, ingress := range s.ingresses {
		ingress.Annotations[albGroup] = "shared"
	}
	balancers, _ := s.compile()
	if b := balancers[0]; b.key != "group/shared" || len(b.ingresses) != 2 || len(b.rules) != 4 {
		t.Errorf("got %+v", b)
	}
}

func TestMostSpecificRuleComesFirst(t *testing.T) {
	rules := []rule{
		{path: "/"}, {path: "/a", exact: true}, {path: "/a/b"}, {path: "/a"},
		{host: "*.example.org", path: "/"}, {host: "www.example.org", path: "/"},
	}
	sortRules(rules)
	for _, test := range []struct{ host, path, want string }{
		{"www.example.org", "/a", "www.example.org /"},
		{"api.example.org", "/a", "*.example.org /"},
		{"deep.api.example.org", "/x", " /"},
		{"10.0.0.1", "/a", " /a exact"},
		{"10.0.0.1", "/a/", " /a"},
		{"10.0.0.1", "/a/b/c", " /a/b"},
		{"10.0.0.1", "/ab", " /"},
	} {
		t.Run(test.host+test.path, func(t *testing.T) {
			got := "none"
			for _, rule := range rules {
				if rule.matches(test.host, test.path) {
					if got = rule.host + " " + rule.path; rule.exact {
						got += " exact"
					}
					break
				}
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestFrontendsSurviveRestartAndFitScheme(t *testing.T) {
	frontends := loadTopology(t, "aws").LoadBalancer.Frontends
	s := guideSnapshot(t)
	internal := decode[*corev1.Service](t, guideService)
	internal.Name, internal.Annotations[nlbScheme] = "internal", schemeInternal
	s.services = append(s.services, internal)
	s.services[0].Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.103"}}
	balancers, _ := s.compile()
	all, problems := place(balancers, frontends)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	got := map[string]string{}
	for _, p := range all {
		got[p.key] = p.published()[0].String()
	}
	for key, want := range map[string]string{
		"service/default/nginx-svc-lb":    "203.0.113.103",
		"service/default/internal":        "172.31.0.110",
		"ingress/default/k8s-app-ingress": "203.0.113.100",
	} {
		if got[key] != want {
			t.Errorf("%s is at %s, want %s", key, got[key], want)
		}
	}
	if _, problems := place(balancers, frontends[:1]); len(problems) != 2 {
		t.Errorf("with one frontend for three: problems %v", problems)
	}
}

func TestClientIsHiddenUnlessPreserved(t *testing.T) {
	s := guideSnapshot(t)
	hidden := decode[*corev1.Service](t, guideService)
	hidden.Name = "hidden"
	hidden.Annotations[nlbAttributes] = ""
	hidden.Annotations[nlbSourceRanges] = "198.51.100.0/24"
	s.services = append(s.services, hidden)
	s.slices = append(s.slices, endpoints("hidden", 8080, "172.31.28.19"))
	s.ingresses = nil
	// The rules in full, with the longest matches abbreviated.
	full := strings.NewReplacer("HALF", "-m statistic --mode random --probability 0.500000",
		"TRANSLATED", "-m conntrack --ctstate DNAT")
	for _, test := range []struct{ topology, want string }{
		{"aws", `-A LB-PREROUTING -s 198.51.100.0/24 -d 172.31.0.100 -p tcp --dport 80 -j DNAT --to-destination 172.31.28.19:8080
-A LB-PREROUTING -d 172.31.0.101 -p tcp --dport 80 HALF -j DNAT --to-destination 172.31.28.31:80
-A LB-PREROUTING -d 172.31.0.101 -p tcp --dport 80 -j DNAT --to-destination 172.31.32.184:80
-A LB-POSTROUTING -p tcp -m conntrack --ctstate DNAT --ctorigdst 172.31.0.100 --ctorigdstport 80 -j SNAT --to-source 172.31.0.100
`},
		{"l2", `-A LB-PREROUTING -s 198.51.100.0/24 -d 10.6.0.100 -p tcp --dport 80 -j DNAT --to-destination 172.31.28.19:8080
-A LB-PREROUTING -s 198.51.100.0/24 -d 203.0.113.100 -p tcp --dport 80 -j DNAT --to-destination 172.31.28.19:8080
-A LB-PREROUTING -d 10.6.0.101 -p tcp --dport 80 HALF -j DNAT --to-destination 172.31.28.31:80
-A LB-PREROUTING -d 10.6.0.101 -p tcp --dport 80 -j DNAT --to-destination 172.31.32.184:80
-A LB-PREROUTING -d 203.0.113.101 -p tcp --dport 80 HALF -j DNAT --to-destination 172.31.28.31:80
-A LB-PREROUTING -d 203.0.113.101 -p tcp --dport 80 -j DNAT --to-destination 172.31.32.184:80
-A LB-POSTROUTING -p tcp -m conntrack --ctstate DNAT --ctorigdst 10.6.0.100 --ctorigdstport 80 -j SNAT --to-source 10.6.0.100
-A LB-POSTROUTING -p tcp -m conntrack --ctstate DNAT --ctorigdst 203.0.113.100 --ctorigdstport 80 -j SNAT --to-source 10.6.0.100
-A LB-POSTROUTING -s 10.6.0.0/16 -p tcp TRANSLATED --ctorigdst 10.6.0.101 --ctorigdstport 80 -j SNAT --to-source 10.6.0.101
-A LB-POSTROUTING -s 10.6.0.0/16 -p tcp TRANSLATED --ctorigdst 203.0.113.101 --ctorigdstport 80 -j SNAT --to-source 10.6.0.101
`},
	} {
		t.Run(test.topology, func(t *testing.T) {
			topo := loadTopology(t, test.topology)
			balancers, problems := s.compile()
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			all, _ := place(balancers, topo.LoadBalancer.Frontends)
			if got := newFabric(topo).natRules(all, netfilter.IPv4); got != full.Replace(test.want) {
				t.Errorf("got\n%s\nwant\n%s", got, full.Replace(test.want))
			}
			if got := newFabric(topo).natRules(all, netfilter.IPv6); strings.Contains(got, "-A") {
				t.Errorf("an ipv4 load balancer has IPv6 rules:\n%s", got)
			}
		})
	}
}

func TestDualStackRelaysWithoutMatchingTargets(t *testing.T) {
	topo := loadTopology(t, "aws")
	s := guideSnapshot(t)
	s.services[0].Annotations[nlbAddressType] = addressTypeDualStack
	relayAt := addrPorts("[2406:da1e:c4:ed00::101]:80")[0]
	compile := func() (string, bool) {
		balancers, _ := s.compile()
		all, _ := place(balancers, topo.LoadBalancer.Frontends)
		f := newFabric(topo)
		_, relayed := f.services(all)[relayAt]
		return f.natRules(all, netfilter.IPv6), relayed
	}
	if got, relayed := compile(); strings.Contains(got, "DNAT") || !relayed {
		t.Errorf("with IPv4 targets only: relayed %v, rules\n%s", relayed, got)
	}
	s.slices = append(s.slices, endpoints("nginx-svc-lb", 80, "2406:da1e:c4:ed02:7a2e::d"))
	got, relayed := compile()
	want := "-d 2406:da1e:c4:ed00::101 -p tcp --dport 80 -j DNAT --to-destination [2406:da1e:c4:ed02:7a2e::d]:80"
	if relayed || !strings.Contains(got, want) {
		t.Errorf("with IPv6 targets: relayed %v, rules\n%s", relayed, got)
	}
}

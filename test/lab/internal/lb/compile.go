package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// snapshot is the state of the cluster.
type snapshot struct {
	services  []*corev1.Service
	ingresses []*networkingv1.Ingress
	slices    []*discoveryv1.EndpointSlice
}

// compile turns the cluster state into load balancers, ordered by key. Unsupported settings become problems.
func (s snapshot) compile() ([]*balancer, []problem) {
	var balancers []*balancer
	var problems []problem
	for _, service := range s.services {
		if !wantsNetworkLoadBalancer(service) {
			continue
		}
		b, err := s.network(service)
		if err != nil {
			problems = append(problems, problem{service, err.Error()})
			continue
		}
		balancers = append(balancers, b)
	}
	ingresses := slices.SortedFunc(slices.Values(s.ingresses), func(a, b *networkingv1.Ingress) int {
		return cmp.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	for _, ingress := range ingresses {
		if !wantsApplicationLoadBalancer(ingress) {
			continue
		}
		b, err := s.application(ingress)
		if err != nil {
			problems = append(problems, problem{ingress, err.Error()})
			continue
		}
		balancers = merge(balancers, b)
	}
	for _, b := range balancers {
		sortRules(b.rules)
	}
	slices.SortFunc(balancers, func(a, b *balancer) int { return cmp.Compare(a.key, b.key) })
	return balancers, problems
}

func wantsNetworkLoadBalancer(service *corev1.Service) bool {
	class := service.Spec.LoadBalancerClass
	return service.Spec.Type == corev1.ServiceTypeLoadBalancer && service.DeletionTimestamp.IsZero() &&
		(class == nil || *class == nlbClass)
}

func wantsApplicationLoadBalancer(ingress *networkingv1.Ingress) bool {
	class := ingress.Spec.IngressClassName
	return class != nil && *class == albClass && ingress.DeletionTimestamp.IsZero()
}

// network compiles a Service of type LoadBalancer.
func (s snapshot) network(service *corev1.Service) (*balancer, error) {
	b := &balancer{key: "service/" + service.Namespace + "/" + service.Name, service: service}
	a := annotations(service.Annotations)
	preserve, err := a.attribute(nlbAttributes, preserveClientIP)
	if err != nil {
		return nil, err
	}
	if err := a.common(b, nlbTargetType, nlbScheme, nlbAddressType); err != nil {
		return nil, err
	}
	ranges := service.Spec.LoadBalancerSourceRanges
	if value := service.Annotations[nlbSourceRanges]; len(ranges) == 0 && value != "" {
		ranges = strings.Split(value, ",")
	}
	if b.sourceRanges, err = parseRanges(ranges); err != nil {
		return nil, fmt.Errorf("loadBalancerSourceRanges: %w", err)
	}
	for _, port := range service.Spec.Ports {
		protocol := strings.ToLower(string(port.Protocol))
		if protocol != "tcp" && protocol != "udp" {
			return nil, fmt.Errorf("port %d: protocol %s: a network load balancer forwards TCP and UDP", port.Port, port.Protocol)
		}
		b.forwards = append(b.forwards, forward{
			protocol: protocol, port: uint16(port.Port), targets: s.targets(service.Namespace, service.Name, port),
			preserve: preserve || protocol == "udp", // AWS always preserves it for UDP
		})
	}
	return b, nil
}

// application compiles an Ingress of class alb.
func (s snapshot) application(ingress *networkingv1.Ingress) (*balancer, error) {
	b := &balancer{key: "ingress/" + ingress.Namespace + "/" + ingress.Name, ingresses: []*networkingv1.Ingress{ingress}}
	a := annotations(ingress.Annotations)
	if group := a[albGroup]; group != "" {
		b.key = "group/" + group
	}
	if err := a.common(b, albTargetType, albScheme, albAddressType); err != nil {
		return nil, err
	}
	if value := a[albInbound]; value != "" {
		ranges, err := parseRanges(strings.Split(value, ","))
		if err != nil {
			return nil, fmt.Errorf("annotation %s: %w", albInbound, err)
		}
		b.sourceRanges = ranges
	}
	for i, r := range ingress.Spec.Rules {
		if r.HTTP == nil {
			continue
		}
		for p, path := range r.HTTP.Paths {
			targets, err := s.backend(ingress.Namespace, path.Backend)
			if err != nil {
				return nil, fmt.Errorf("spec.rules[%d].http.paths[%d].backend: %w", i, p, err)
			}
			exact := path.PathType == nil || *path.PathType != networkingv1.PathTypePrefix
			b.rules = append(b.rules, rule{host: r.Host, path: path.Path, exact: exact, targets: targets})
		}
	}
	if backend := ingress.Spec.DefaultBackend; backend != nil {
		targets, err := s.backend(ingress.Namespace, *backend)
		if err != nil {
			return nil, fmt.Errorf("spec.defaultBackend: %w", err)
		}
		b.rules = append(b.rules, rule{path: "/", targets: targets})
	}
	return b, nil
}

// merge adds a load balancer, or adds its rules to the load balancer with the same key.
func merge(balancers []*balancer, b *balancer) []*balancer {
	at := slices.IndexFunc(balancers, func(other *balancer) bool { return other.key == b.key })
	if at < 0 {
		return append(balancers, b)
	}
	group := balancers[at]
	group.rules = append(group.rules, b.rules...)
	group.ingresses = append(group.ingresses, b.ingresses...)
	return balancers
}

// sortRules orders rules by specificity: rules with a host first, exact paths before prefixes, long paths before short
// ones. Equal rules keep their order, and the first one wins.
func sortRules(rules []rule) {
	rank := func(r rule) int {
		rank := 0
		if r.host == "" {
			rank += 4
		} else if strings.HasPrefix(r.host, "*.") {
			rank += 2
		}
		if !r.exact {
			rank++
		}
		return rank
	}
	slices.SortStableFunc(rules, func(a, b rule) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(len(b.path), len(a.path)))
	})
}

// backend resolves the Service of an Ingress path.
func (s snapshot) backend(namespace string, backend networkingv1.IngressBackend) ([]netip.AddrPort, error) {
	if backend.Service == nil {
		return nil, fmt.Errorf("the backend must be a service")
	}
	for _, service := range s.services {
		if service.Namespace != namespace || service.Name != backend.Service.Name {
			continue
		}
		for _, port := range service.Spec.Ports {
			if want := backend.Service.Port; port.Port == want.Number || want.Name != "" && port.Name == want.Name {
				return s.targets(namespace, service.Name, port), nil
			}
		}
		return nil, fmt.Errorf("service %s has no port %s%d", service.Name, backend.Service.Port.Name, backend.Service.Port.Number)
	}
	return nil, fmt.Errorf("service %s does not exist", backend.Service.Name)
}

// targets returns the ready endpoints of a Service's port, sorted.
func (s snapshot) targets(namespace, service string, port corev1.ServicePort) []netip.AddrPort {
	var targets []netip.AddrPort
	for _, slice := range s.slices {
		if slice.Namespace != namespace || slice.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		number, found := slicePort(slice, port.Name)
		if !found {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready != nil && !*endpoint.Conditions.Ready {
				continue
			}
			for _, text := range endpoint.Addresses {
				if addr, err := netip.ParseAddr(text); err == nil { // FQDN slices have host names
					targets = append(targets, netip.AddrPortFrom(addr, number))
				}
			}
		}
	}
	slices.SortFunc(targets, netip.AddrPort.Compare)
	return slices.Compact(targets)
}

func slicePort(slice *discoveryv1.EndpointSlice, name string) (uint16, bool) {
	for _, port := range slice.Ports {
		if port.Port != nil && (port.Name == nil && name == "" || port.Name != nil && *port.Name == name) {
			return uint16(*port.Port), true
		}
	}
	return 0, false
}

func parseRanges(texts []string) ([]netip.Prefix, error) {
	var ranges []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, prefix.Masked())
	}
	return ranges, nil
}

// annotations are the annotations of a Service or an Ingress.
type annotations map[string]string

// oneOf returns the annotation's value. Without the annotation it returns the first allowed value.
func (a annotations) oneOf(key string, allowed ...string) (string, error) {
	value, found := a[key]
	if !found {
		return allowed[0], nil
	}
	if !slices.Contains(allowed, value) {
		return "", fmt.Errorf("annotation %s: %q is none of %s", key, value, strings.Join(allowed, ", "))
	}
	return value, nil
}

// common reads the settings shared by both kinds of load balancer, each under its own annotation.
func (a annotations) common(b *balancer, targetType, scheme, addressType string) error {
	// AWS defaults to "instance".
	if a[targetType] != targetTypeIP {
		return fmt.Errorf("annotation %s: %q: the lab has only targets of type %q; set the annotation", targetType, a[targetType], targetTypeIP)
	}
	value, err := a.oneOf(scheme, schemeInternal, schemeInternetFacing)
	if err != nil {
		return err
	}
	b.internetFacing = value == schemeInternetFacing
	value, err = a.oneOf(addressType, addressTypeIPv4, addressTypeDualStack)
	b.dualStack = value == addressTypeDualStack
	return err
}

// attribute reads a boolean from a comma-separated list of name=value.
func (a annotations) attribute(key, name string) (bool, error) {
	for pair := range strings.SplitSeq(a[key], ",") {
		attribute, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		if attribute != name {
			continue
		}
		if value != "true" && value != "false" {
			return false, fmt.Errorf("annotation %s: %s=%q is neither true nor false", key, name, value)
		}
		return value == "true", nil
	}
	return false, nil
}

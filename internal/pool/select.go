package pool

import (
	"cmp"
	"fmt"
	"slices"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/inet"
)

// Source is the origin of the considered pools' names.
type Source string

// Sources in order of precedence. The first source naming a pool of a family wins, and
// an annotation of the pod decides for both families: {"ipv4":["a"]} asks for no IPv6
// address.
const (
	SourceNone       Source = ""
	SourceSubnet     Source = "annotation ipam.spidernet.io/subnet(s) of the pod"
	SourcePodIPPools Source = "annotation ipam.spidernet.io/ippools of the pod"
	SourcePodIPPool  Source = "annotation ipam.spidernet.io/ippool of the pod"
	SourceNamespace  Source = "annotation ipam.spidernet.io/default-ipv4-ippool or default-ipv6-ippool of the namespace"
	SourceConfigured Source = "default_ipv4_ippool or default_ipv6_ippool of the CNI configuration"
	SourceDefault    Source = "pools with spec.default"
)

// Selection is the result for one interface and one IP family.
type Selection struct {
	Family inet.Family
	Source Source
	// Pools are the candidates, best first.
	Pools []*Pool
	// Rejections are the other considered pools, in the order of the source or, for
	// default pools, sorted by name.
	Rejections []Rejection
	// CleanGateway means that the interface gets no default route.
	CleanGateway bool
}

// Names returns the names of the candidates, best first.
func (s Selection) Names() []string {
	names := make([]string, len(s.Pools))
	for i, p := range s.Pools {
		names[i] = p.Name
	}
	return names
}

// Asked reports whether the source asks for an address of the family.
func (s Selection) Asked() bool {
	return s.Source != SourceNone && len(s.Pools)+len(s.Rejections) > 0
}

// ConfigError means that the CNI configuration names too many pools.
type ConfigError struct {
	Key    string // e.g. "default_ipv4_ippool"
	Reason string
}

// Error names the key and the reason.
func (e *ConfigError) Error() string { return fmt.Sprintf("CNI configuration: %s%s", e.Key, e.Reason) }

// Select returns the pools of one IP family for the interface. The error is an
// *AnnotationError or a *ConfigError.
//
// Pools of equal rank keep the order of their source. A wildcard expands to the
// matching pools of the family, sorted by name.
func Select(c *Catalog, req *Request, family inet.Family) (Selection, error) {
	source, patterns, clean, err := resolve(req, family)
	if err != nil {
		return Selection{}, err
	}
	s := Selection{Family: family, Source: source, CleanGateway: clean}
	var considered []*Pool
	if source == SourceNone {
		considered = c.defaultPools(family)
		if len(considered) > 0 {
			s.Source = SourceDefault
		}
	} else {
		considered, s.Rejections = c.expand(patterns, family)
	}
	for _, p := range considered {
		if rejection, rejected := filter(c, p, req, family); rejected {
			s.Rejections = append(s.Rejections, rejection)
		} else {
			s.Pools = append(s.Pools, p)
		}
	}
	if len(s.Pools) == 0 {
		c.guess(s.Rejections)
	}
	slices.SortStableFunc(s.Pools, func(a, b *Pool) int { return cmp.Compare(b.rank(), a.rank()) })
	if len(s.Pools) == 0 && (s.Source == SourceDefault || s.Source == SourceNone) {
		s.Rejections = append(s.Rejections, c.notDefault(family)...)
	}
	return s, nil
}

// SelectAll selects for each of the IP families enabled in the installation. A family
// without any named or default pool is not requested and gets no Selection, unless
// this leaves no Selection at all. The error is an *AnnotationError, or NoPools with
// an error for each requested family without a candidate.
func SelectAll(c *Catalog, req *Request, families []inet.Family) ([]Selection, error) {
	var selections []Selection
	var unasked *NoPoolError
	var failures NoPools
	for _, family := range families {
		s, err := Select(c, req, family)
		if err != nil {
			return nil, err
		}
		failed := &NoPoolError{Interface: req.Interface, Family: family, Source: s.Source, Rejections: s.Rejections}
		switch {
		case !s.Asked():
			if unasked == nil {
				unasked = failed
			} else {
				unasked.Rejections = append(unasked.Rejections, s.Rejections...)
			}
		case len(s.Pools) == 0:
			failures = append(failures, failed)
		default:
			selections = append(selections, s)
		}
	}
	if len(selections) == 0 && len(failures) == 0 && unasked != nil {
		failures = NoPools{unasked}
	}
	if len(failures) > 0 {
		return nil, failures
	}
	return selections, nil
}

// resolve returns the first source naming pools of the family, the names as written,
// and whether the interface gets no default route.
func resolve(req *Request, family inet.Family) (source Source, patterns []string, clean bool, err error) {
	clean = req.CleanGateway
	var named InterfacePools
	if value, ok := req.Pod.Annotations[names.AnnotationPodIPPools]; ok {
		all, err := ParseIPPools(value)
		if err != nil {
			return SourceNone, nil, false, err
		}
		named = forInterface(all, req.Interface, req.Position)
		if named.CleanGateway != nil {
			clean = *named.CleanGateway
		}
	}
	if req.SubnetPools != nil && !req.SubnetPools.isEmpty() {
		return SourceSubnet, req.SubnetPools.Of(family), clean, nil
	}
	if !named.Pools.isEmpty() {
		return SourcePodIPPools, named.Pools.Of(family), clean, nil
	}
	// ippools replaces ippool as a whole.
	_, hasIPPools := req.Pod.Annotations[names.AnnotationPodIPPools]
	if value, ok := req.Pod.Annotations[names.AnnotationPodIPPool]; ok && !hasIPPools {
		names, err := ParseIPPool(value)
		return SourcePodIPPool, names.Of(family), clean, err
	}
	annotation := names.AnnotationNamespaceDefaultIPv4Pool
	if family == 6 {
		annotation = names.AnnotationNamespaceDefaultIPv6Pool
	}
	if value, ok := req.Namespace.Annotations[annotation]; ok {
		if patterns, err = ParseNamespacePools(annotation, value); err != nil {
			return SourceNone, nil, false, err
		}
		if len(patterns) > 0 {
			return SourceNamespace, patterns, clean, nil
		}
	}
	if patterns = req.Configured.Of(family); len(patterns) > 0 {
		if reason := tooManyNames(patterns); reason != "" {
			return SourceNone, nil, false, &ConfigError{Key: fmt.Sprintf("default_ipv%d_ippool", family), Reason: reason}
		}
		return SourceConfigured, patterns, clean, nil
	}
	if hasIPPools {
		// The annotation leaves out this interface. The default pools are for pods
		// without pools of their own choice.
		return SourcePodIPPools, nil, clean, nil
	}
	return SourceNone, nil, clean, nil
}

// forInterface returns the entry for the interface, or the zero value.
func forInterface(entries []InterfacePools, name string, position int) InterfacePools {
	for i, e := range entries {
		if e.Interface == name || e.Interface == "" && i == position {
			return e
		}
	}
	return InterfacePools{}
}

// expand returns the pools matching the patterns, each once, and a rejection for every
// pattern without a match.
func (c *Catalog) expand(patterns []string, family inet.Family) (pools []*Pool, rejections []Rejection) {
	seen := map[string]bool{}
	add := func(p *Pool) {
		if !seen[p.Name] {
			seen[p.Name] = true
			pools = append(pools, p)
		}
	}
	for _, pattern := range patterns {
		if !IsPattern(pattern) {
			if p, ok := c.Get(pattern); ok {
				add(p)
			} else {
				rejections = append(rejections, Rejection{pattern, CauseUnknown, reasonUnknown})
			}
			continue
		}
		found := false
		for _, name := range c.matching(pattern) {
			if p := c.entries[name].pool; p.Family == family {
				found = true
				add(p)
			}
		}
		if !found {
			rejections = append(rejections, Rejection{pattern, CauseUnknown, fmt.Sprintf("no IPv%d SpiderIPPool has a matching name", family)})
		}
	}
	return pools, rejections
}

// maxGuesses bounds for how many unknown names the nearest one is looked for, because
// that compares a name with all pools.
const maxGuesses = 10

// reasonUnknown is the reason for not using an unknown name.
const reasonUnknown = "no such SpiderIPPool"

// guess adds the nearest name to the first rejections of unknown names.
func (c *Catalog) guess(rejections []Rejection) {
	guesses := 0
	for i, r := range rejections {
		if r.Reason != reasonUnknown {
			continue
		}
		if guesses++; guesses > maxGuesses {
			return
		}
		if nearest, ok := c.nearest(r.Pool); ok {
			rejections[i].Reason = fmt.Sprintf("%s; the nearest name is %s", reasonUnknown, nearest)
		}
	}
}

// defaultPools returns the default pools of the family, sorted by name.
func (c *Catalog) defaultPools(family inet.Family) []*Pool {
	var pools []*Pool
	for _, p := range c.defaults {
		if p.Family == family {
			pools = append(pools, p)
		}
	}
	return pools
}

// notDefault returns a rejection for each non-default pool of the family, sorted by
// name.
func (c *Catalog) notDefault(family inet.Family) []Rejection {
	var rejections []Rejection
	for _, name := range c.Names() {
		if p := c.entries[name].pool; p.Family == family && !p.Default {
			rejections = append(rejections, Rejection{name, CauseNotDefault, "spec.default is false and neither the pod, its namespace nor the CNI configuration names it"})
		}
	}
	return rejections
}

// rank orders pools by specificity: pod before node before namespace before network
// attachment, and names before labels.
func (p *Pool) rank() int {
	rank := 0
	if p.PodAffinity != nil {
		rank += 1 << 5
	}
	switch {
	case len(p.NodeNames) > 0:
		rank += 2 << 3
	case p.NodeAffinity != nil:
		rank += 1 << 3
	}
	switch {
	case len(p.NamespaceNames) > 0:
		rank += 2 << 1
	case p.NamespaceAffinity != nil:
		rank += 1 << 1
	}
	if len(p.MultusNames) > 0 {
		rank++
	}
	return rank
}

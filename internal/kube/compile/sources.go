package compile

import (
	"fmt"
	"net/netip"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/pool"
)

const exampleSources = `["172.31.16.50","10.9.0.0/16"]`

// Sources returns the networks that a pod may send from besides its own addresses, given
// its annotations and the labels of its namespace. The error is a *pool.AnnotationError.
func Sources(annotations, namespace map[string]string) ([]netip.Prefix, error) {
	text, ok := annotations[names.AnnotationPodSources]
	if !ok {
		return nil, nil
	}
	sources, reason := parseSources(text)
	if reason == "" && namespace[names.LabelNamespaceSources] != "true" {
		reason = "the namespace does not permit it; remove the annotation, or ask an administrator for the namespace's label " + names.LabelNamespaceSources + "=true"
	}
	if reason != "" {
		return nil, &pool.AnnotationError{Annotation: names.AnnotationPodSources, Value: text, Reason: reason, Example: exampleSources}
	}
	return sources, nil
}

func parseSources(text string) (sources []netip.Prefix, reason string) {
	entries, reason := parseList[string](text, "strings")
	if reason != "" {
		return nil, reason
	}
	for i, entry := range entries {
		p, err := netip.ParsePrefix(entry)
		if a, fault := netip.ParseAddr(entry); fault == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || p.Addr().Is4In6() {
			return nil, fmt.Sprintf("[%d] %.64q is not a network in CIDR notation or an address", i, entry)
		}
		sources = append(sources, p.Masked())
	}
	return sources, ""
}

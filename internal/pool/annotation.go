package pool

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/inet"
)

// Examples for error messages.
const (
	exampleIPPool         = `{"ipv4":["pool-v4"],"ipv6":["pool-v6"]}`
	exampleIPPools        = `[{"interface":"eth0","ipv4":["pool-v4"],"ipv6":["pool-v6"],"cleangateway":false}]`
	exampleRoutes         = `[{"dst":"10.0.0.0/8","gw":"172.31.16.1"}]`
	exampleDNS            = `{"nameservers":["10.0.0.10"],"search":["example.org"],"options":["ndots:2"]}`
	exampleNamespacePools = `["pool-a","pool-b"]`
)

// maxRoutes is the limit for a pod's routes, the same as for a pool's.
const maxRoutes = 1024

// Limits for the names of pools in one list. A pod may name the pools of many nodes, so
// that one annotation serves its replicas on all of them; each pattern is compared with
// all pools.
const (
	maxNames    = 1024
	maxPatterns = 16
	// maxAllPatterns is the limit for all lists of the annotation ippools, and maxNames, too.
	maxAllPatterns = 64
)

// Limits for the DNS settings of a pod. Linux takes fewer name servers, and Kubernetes 32
// search domains.
const (
	maxDNS     = 32
	maxDNSText = 253
)

// AnnotationError means that an annotation has an invalid value.
type AnnotationError struct {
	Annotation string // key
	Value      string // as written
	Reason     string
	Example    string // a valid value
}

// Error names the annotation, the value, the reason and an example.
func (e *AnnotationError) Error() string {
	return fmt.Sprintf("annotation %s: %q: %s; example: %s", e.Annotation, shorten(e.Value), e.Reason, e.Example)
}

// shorten bounds the length of a value in an error message.
func shorten(value string) string {
	const most = 256
	if len(value) <= most {
		return value
	}
	return strings.ToValidUTF8(value[:most], "") + "…"
}

// InterfacePools is an entry of the annotation ipam.spidernet.io/ippools.
type InterfacePools struct {
	Interface    string // "" means the interface at the position of the entry
	Pools        Names
	CleanGateway *bool // nil means the value of the CNI configuration
}

// DNS holds the DNS settings requested by a pod.
type DNS struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// ParseIPPool reads the pod annotation ipam.spidernet.io/ippool:
// {"ipv4":["a"],"ipv6":["b"]}. The error is an *AnnotationError.
func ParseIPPool(value string) (Names, error) {
	var v struct {
		IPv4 []string `json:"ipv4"`
		IPv6 []string `json:"ipv6"`
	}
	reason := decode(value, &v)
	pools := Names{IPv4: v.IPv4, IPv6: v.IPv6}
	if reason == "" {
		reason = pools.invalid()
	}
	if reason == "" && pools.isEmpty() {
		reason = "names no pool; its keys are ipv4 and ipv6"
	}
	if reason != "" {
		return Names{}, &AnnotationError{names.AnnotationPodIPPool, value, reason, exampleIPPool}
	}
	return pools, nil
}

// ParseIPPools reads the pod annotation ipam.spidernet.io/ippools:
// [{"interface":"eth0","ipv4":["a"],"ipv6":["b"],"cleangateway":true}]. Either
// every entry has an interface or none has. Without interfaces, entry n is for the
// interface at position n. The error is an *AnnotationError.
func ParseIPPools(value string) ([]InterfacePools, error) {
	var v []struct {
		Interface    string   `json:"interface"`
		IPv4         []string `json:"ipv4"`
		IPv6         []string `json:"ipv6"`
		CleanGateway *bool    `json:"cleangateway"`
	}
	refuse := func(format string, args ...any) ([]InterfacePools, error) {
		return nil, &AnnotationError{names.AnnotationPodIPPools, value, fmt.Sprintf(format, args...), exampleIPPools}
	}
	if reason := decode(value, &v); reason != "" {
		return refuse("%s", reason)
	}
	if len(v) == 0 {
		return refuse("is an empty list")
	}
	pools := make([]InterfacePools, 0, len(v))
	seen := map[string]int{}
	all, patterns := 0, 0
	for i, e := range v {
		for _, name := range slices.Concat(e.IPv4, e.IPv6) {
			if all++; IsPattern(name) {
				patterns++
			}
		}
		p := InterfacePools{Interface: e.Interface, Pools: Names{IPv4: e.IPv4, IPv6: e.IPv6}, CleanGateway: e.CleanGateway}
		if reason := p.Pools.invalid(); reason != "" {
			return refuse("[%d].%s", i, reason)
		}
		if (e.Interface == "") != (v[0].Interface == "") {
			return refuse("[%d] and [0]: either every entry names its interface or none does", i)
		}
		if first, ok := seen[e.Interface]; ok && e.Interface != "" {
			return refuse("[%d] and [%d] both name interface %s", first, i, e.Interface)
		}
		seen[e.Interface] = i
		pools = append(pools, p)
	}
	if all > maxNames {
		return refuse("has %d names of pools; write at most %d, or a wildcard", all, maxNames)
	}
	if patterns > maxAllPatterns {
		return refuse("has %d names with wildcards; write at most %d", patterns, maxAllPatterns)
	}
	return pools, nil
}

// CheckInterfaces returns an *AnnotationError if the annotation
// ipam.spidernet.io/ippools has an entry for an interface that is none of the pod's,
// e.g. for "eht0". The pod would get addresses of other pools without a word.
func CheckInterfaces(annotations map[string]string, interfaces []string) error {
	value, ok := annotations[names.AnnotationPodIPPools]
	if !ok {
		return nil
	}
	entries, err := ParseIPPools(value)
	if err != nil {
		return err
	}
	for i, e := range entries {
		reason := ""
		if e.Interface != "" && !slices.Contains(interfaces, e.Interface) {
			reason = fmt.Sprintf("[%d] is for interface %s, and the pod has only %s", i, shorten(e.Interface), strings.Join(interfaces, ", "))
		} else if i >= len(interfaces) {
			reason = fmt.Sprintf("has %d entries for %d interfaces: %s", len(entries), len(interfaces), strings.Join(interfaces, ", "))
		}
		if reason != "" {
			return &AnnotationError{names.AnnotationPodIPPools, value, reason, exampleIPPools}
		}
	}
	return nil
}

// ParseNamespacePools reads a namespace annotation
// ipam.spidernet.io/default-ipv4-ippool or -ipv6-ippool: ["a","b"]. The error is
// an *AnnotationError.
func ParseNamespacePools(annotation, value string) ([]string, error) {
	var names []string
	reason := decode(value, &names)
	if reason == "" {
		reason = invalidNames(names)
	}
	if reason != "" {
		return nil, &AnnotationError{annotation, value, reason, exampleNamespacePools}
	}
	return names, nil
}

// ParseRoutes reads the pod annotation ipam.spidernet.io/routes:
// [{"dst":"10.0.0.0/8","gw":"172.31.16.1"}]. It clears host bits. The error is an
// *AnnotationError.
func ParseRoutes(value string) ([]inet.Route, error) {
	var v []struct {
		Dst string `json:"dst"`
		Gw  string `json:"gw"`
	}
	reason := decode(value, &v)
	if reason == "" && len(v) > maxRoutes {
		reason = fmt.Sprintf("has %d routes; write at most %d", len(v), maxRoutes)
	}
	routes := make([]inet.Route, 0, len(v))
	for i, e := range v {
		if reason != "" {
			break
		}
		r, err := inet.ParseRoute(e.Dst, e.Gw)
		if err != nil {
			reason = fmt.Sprintf("[%d].%s", i, err)
		}
		routes = append(routes, r)
	}
	if reason != "" {
		return nil, &AnnotationError{names.AnnotationPodRoutes, value, reason, exampleRoutes}
	}
	return routes, nil
}

// ParseDNS reads the pod annotation ipam.spidernet.io/dns:
// {"nameservers":["10.0.0.10"],"domain":"…","search":["…"],"options":["…"]}. The
// error is an *AnnotationError.
func ParseDNS(value string) (DNS, error) {
	var dns DNS
	reason := decode(value, &dns)
	for i, server := range dns.Nameservers {
		if _, err := netip.ParseAddr(server); err != nil && reason == "" {
			reason = fmt.Sprintf("nameservers[%d] %q is not an IP address", i, shorten(server))
		}
	}
	reason = cmp.Or(reason, tooMuch("nameservers", dns.Nameservers), tooMuch("domain", []string{dns.Domain}),
		tooMuch("search", dns.Search), tooMuch("options", dns.Options))
	if reason != "" {
		return DNS{}, &AnnotationError{names.AnnotationPodDNS, value, reason, exampleDNS}
	}
	return dns, nil
}

// tooMuch returns the reason for refusing a list of DNS settings, or "".
func tooMuch(key string, list []string) string {
	if len(list) > maxDNS {
		return fmt.Sprintf("%s has %d entries; write at most %d", key, len(list), maxDNS)
	}
	if i := slices.IndexFunc(list, func(text string) bool { return len(text) > maxDNSText }); i >= 0 {
		return fmt.Sprintf("%s[%d] is longer than %d bytes", key, i, maxDNSText)
	}
	return ""
}

// decode reads the JSON value of an annotation into v, or returns the reason for
// refusing it. It ignores unknown keys, so that annotations for other releases work;
// an annotation whose only pools stand under a misspelt key names no pool, and that is
// an error.
func decode(value string, v any) (reason string) {
	decoder := json.NewDecoder(strings.NewReader(value))
	err := decoder.Decode(v)
	if err == nil {
		if _, err = decoder.Token(); err == io.EOF {
			return ""
		}
		return "has text after the JSON value"
	}
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return fmt.Sprintf("%s is a JSON %s, want %s", wrongType.Field, wrongType.Value, jsonKind(wrongType.Type.String()))
	case errors.As(err, &wrongType):
		return fmt.Sprintf("is a JSON %s, want %s", wrongType.Value, jsonKind(wrongType.Type.String()))
	case errors.As(err, &syntax):
		return fmt.Sprintf("is not JSON: %s at byte %d", syntax, syntax.Offset)
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
		return "is not JSON: it ends too early"
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// jsonKind returns the JSON word for a Go type.
func jsonKind(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	case goType == "string":
		return "a string"
	case goType == "bool":
		return "true or false"
	}
	return "an object"
}

func (n Names) isEmpty() bool { return len(n.IPv4)+len(n.IPv6) == 0 }

// invalid returns the reason for refusing a pool name, or "" if all are valid.
func (n Names) invalid() string {
	if reason := invalidNames(n.IPv4); reason != "" {
		return "ipv4" + reason
	}
	if reason := invalidNames(n.IPv6); reason != "" {
		return "ipv6" + reason
	}
	return ""
}

func invalidNames(names []string) string {
	if reason := tooManyNames(names); reason != "" {
		return reason
	}
	for i, name := range names {
		if !isPoolName(name) {
			return fmt.Sprintf("[%d] %q is not a valid SpiderIPPool name; use lower case letters, digits, '-', '.' and the wildcards '*', '?' and '[a-c]'", i, shorten(name))
		}
	}
	return ""
}

// tooManyNames returns the reason for refusing a list of pools because of its size, or "".
func tooManyNames(names []string) string {
	if len(names) > maxNames {
		return fmt.Sprintf(" has %d names; write at most %d, or a wildcard", len(names), maxNames)
	}
	patterns := 0
	for i, name := range names {
		if !IsPattern(name) {
			continue
		}
		if patterns++; len(name) > maxPattern {
			return fmt.Sprintf("[%d] %q has wildcards and is longer than %d bytes", i, shorten(name), maxPattern)
		}
	}
	if patterns > maxPatterns {
		return fmt.Sprintf(" has more than %d names with wildcards", maxPatterns)
	}
	return ""
}

// wildcards are the characters of path.Match with a meaning of their own. A name with
// one of them is a pattern.
const wildcards = "*?["

// IsPattern reports whether the name of a pool has wildcards.
func IsPattern(name string) bool { return strings.ContainsAny(name, wildcards) }

// isPoolName reports whether name has only the characters of object names (RFC 1123
// subdomains), or is a pattern of path.Match: "*" for any text, "?" for a character,
// "[a-c]" and "[^a-c]" for one of several.
func isPoolName(name string) bool {
	if _, err := path.Match(name, ""); err != nil || name == "" || len(name) > 253 {
		return false
	}
	isPattern := IsPattern(name)
	return strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("-.", r) || isPattern && strings.ContainsRune("*?[]^", r))
	}) < 0
}

// NamespaceChoosesPools reports whether the annotations of a namespace name pools, which its pods then use instead of the default pools.
func NamespaceChoosesPools(annotations map[string]string) bool {
	return annotations[names.AnnotationNamespaceDefaultIPv4Pool] != "" || annotations[names.AnnotationNamespaceDefaultIPv6Pool] != ""
}

// ChoosesPools reports whether the annotations of a pod name pools, or ask for one.
func ChoosesPools(annotations map[string]string) bool {
	for _, key := range []string{names.AnnotationPodIPPool, names.AnnotationPodIPPools, names.AnnotationPodSubnet, names.AnnotationPodSubnets} {
		if annotations[key] != "" {
			return true
		}
	}
	return false
}

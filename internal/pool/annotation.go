package pool

import "fmt"

// AnnotationError says that an annotation cannot be used.
type AnnotationError struct {
	Annotation string // key
	Value      string // as written
	Reason     string
	Example    string // a correct value
}

// Error names the annotation, the value, the reason and a correct example.
func (e *AnnotationError) Error() string {
	return fmt.Sprintf("annotation %s: %s: %s; a correct value is %s", e.Annotation, e.Value, e.Reason, e.Example)
}

// InterfacePools is an entry of the annotation ipam.spidernet.io/ippools.
type InterfacePools struct {
	Interface    string // "" where the entry is meant by position
	Pools        Names
	CleanGateway *bool // nil: as the CNI configuration says
}

// DNS is what a pod asks for about name servers.
type DNS struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// ParseIPPool reads the pod annotation ipam.spidernet.io/ippool:
// {"ipv4":["a"],"ipv6":["b"]}.
func ParseIPPool(value string) (Names, error) { return Names{}, nil }

// ParseIPPools reads the pod annotation ipam.spidernet.io/ippools:
// [{"interface":"eth0","ipv4":["a"],"ipv6":["b"],"cleangateway":true}].
func ParseIPPools(value string) ([]InterfacePools, error) { return nil, nil }

// ParseNamespacePools reads a namespace annotation
// ipam.spidernet.io/default-ipv4-ippool or -ipv6-ippool: ["a","b"].
func ParseNamespacePools(annotation, value string) ([]string, error) { return nil, nil }

// ParseRoutes reads the pod annotation ipam.spidernet.io/routes:
// [{"dst":"10.0.0.0/8","gw":"172.31.16.1"}].
func ParseRoutes(value string) ([]Route, error) { return nil, nil }

// ParseDNS reads the pod annotation ipam.spidernet.io/dns:
// {"nameservers":["10.0.0.10"],"domain":"…","search":["…"],"options":["…"]}.
func ParseDNS(value string) (DNS, error) { return DNS{}, nil }

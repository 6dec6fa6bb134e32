package hubble

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/reflect/protoreflect"
	"k8s.io/apimachinery/pkg/labels"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
)

// predicate judges a flow in its form for clients.
type predicate func(*seen) bool

// filter selects flows: those of a filter in allow, unless one in deny matches them, too. An empty allow selects all.
type filter struct{ allow, deny []predicate }

// compile returns the filter of a request. The error names the field and the value.
func compile(allow, deny []*flowpb.FlowFilter) (f filter, err error) {
	if f.allow, err = predicates("whitelist", allow); err != nil {
		return f, err
	}
	f.deny, err = predicates("blacklist", deny)
	return f, err
}

func predicates(list string, filters []*flowpb.FlowFilter) ([]predicate, error) {
	var all []predicate
	for i, f := range filters {
		one, err := conjunction(f)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", list, i, err)
		}
		all = append(all, one)
	}
	return all, nil
}

func (f filter) matches(s *seen) bool {
	selects := func(p predicate) bool { return p(s) }
	return (len(f.allow) == 0 || slices.ContainsFunc(f.allow, selects)) && !slices.ContainsFunc(f.deny, selects)
}

// conjunction returns the conjunction of the fields of a filter. A field without meaning for us, e.g. http_path, matches no flow.
func conjunction(f *flowpb.FlowFilter) (predicate, error) {
	var parts []predicate
	var err error
	f.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		build, known := fields[field.Name()]
		if !known {
			parts = append(parts, func(*seen) bool { return false })
			return true
		}
		part, failed := build(f)
		if failed != nil {
			err = fmt.Errorf("%s: %w", field.Name(), failed)
		}
		parts = append(parts, part)
		return failed == nil
	})
	return func(s *seen) bool {
		return !slices.ContainsFunc(parts, func(p predicate) bool { return !p(s) })
	}, err
}

// fields are the fields of a FlowFilter that can match our flows.
var fields = map[protoreflect.Name]func(*flowpb.FlowFilter) (predicate, error){
	"uuid":      func(f *flowpb.FlowFilter) (predicate, error) { return oneOf(f.GetUuid(), (*seen).uuid), nil },
	"source_ip": func(f *flowpb.FlowFilter) (predicate, error) { return addresses(f.GetSourceIp(), (*seen).sourceAddr) },
	"destination_ip": func(f *flowpb.FlowFilter) (predicate, error) {
		return addresses(f.GetDestinationIp(), (*seen).destinationAddr)
	},
	"source_pod": func(f *flowpb.FlowFilter) (predicate, error) { return names(f.GetSourcePod(), (*seen).sourcePod) },
	"destination_pod": func(f *flowpb.FlowFilter) (predicate, error) {
		return names(f.GetDestinationPod(), (*seen).destinationPod)
	},
	"destination_service": func(f *flowpb.FlowFilter) (predicate, error) {
		return names(f.GetDestinationService(), (*seen).service)
	},
	"destination_fqdn": func(f *flowpb.FlowFilter) (predicate, error) {
		return patterns(f.GetDestinationFqdn(), (*seen).serviceNames)
	},
	"source_label": func(f *flowpb.FlowFilter) (predicate, error) { return selectors(f.GetSourceLabel(), (*seen).source) },
	"destination_label": func(f *flowpb.FlowFilter) (predicate, error) {
		return selectors(f.GetDestinationLabel(), (*seen).destination)
	},
	"source_workload": func(f *flowpb.FlowFilter) (predicate, error) {
		return workloads(f.GetSourceWorkload(), (*seen).source), nil
	},
	"destination_workload": func(f *flowpb.FlowFilter) (predicate, error) {
		return workloads(f.GetDestinationWorkload(), (*seen).destination), nil
	},
	"source_identity": func(f *flowpb.FlowFilter) (predicate, error) {
		return identities(f.GetSourceIdentity(), (*seen).source), nil
	},
	"destination_identity": func(f *flowpb.FlowFilter) (predicate, error) {
		return identities(f.GetDestinationIdentity(), (*seen).destination), nil
	},
	"source_port": func(f *flowpb.FlowFilter) (predicate, error) { return ports(f.GetSourcePort(), (*seen).sourcePort) },
	"destination_port": func(f *flowpb.FlowFilter) (predicate, error) {
		return ports(f.GetDestinationPort(), (*seen).destinationPort)
	},
	"traffic_direction": func(f *flowpb.FlowFilter) (predicate, error) {
		return oneOf(f.GetTrafficDirection(), (*seen).direction), nil
	},
	"verdict": func(f *flowpb.FlowFilter) (predicate, error) { return oneOf(f.GetVerdict(), (*seen).verdict), nil },
	"drop_reason_desc": func(f *flowpb.FlowFilter) (predicate, error) {
		return oneOf(f.GetDropReasonDesc(), (*seen).dropReason), nil
	},
	"reply": func(f *flowpb.FlowFilter) (predicate, error) {
		return oneOf(f.GetReply(), func(*seen) bool { return false }), nil
	},
	"encrypted": func(f *flowpb.FlowFilter) (predicate, error) {
		return oneOf(f.GetEncrypted(), func(*seen) bool { return false }), nil
	},
	"source_cluster_name": func(f *flowpb.FlowFilter) (predicate, error) {
		return oneOf(f.GetSourceClusterName(), func(s *seen) string { return cluster(s.source()) }), nil
	},
	"destination_cluster_name": func(f *flowpb.FlowFilter) (predicate, error) {
		return oneOf(f.GetDestinationClusterName(), func(s *seen) string { return cluster(s.destination()) }), nil
	},
	"ip_version": func(f *flowpb.FlowFilter) (predicate, error) { return oneOf(f.GetIpVersion(), (*seen).ipVersion), nil },
	"protocol":   func(f *flowpb.FlowFilter) (predicate, error) { return protocols(f.GetProtocol()), nil },
	"tcp_flags":  func(f *flowpb.FlowFilter) (predicate, error) { return tcpFlags(f.GetTcpFlags()), nil },
	"event_type": func(f *flowpb.FlowFilter) (predicate, error) { return eventTypes(f.GetEventType()), nil },
	"interface":  func(f *flowpb.FlowFilter) (predicate, error) { return interfaces(f.GetInterface()), nil },
	"node_name":  func(f *flowpb.FlowFilter) (predicate, error) { return nodes(f.GetNodeName()) },
}

// oneOf matches a flow with one of the values.
func oneOf[T comparable](values []T, of func(*seen) T) predicate {
	return func(s *seen) bool { return slices.Contains(values, of(s)) }
}

// anyOf parses each text and matches a flow that one of the results matches.
func anyOf[T any](texts []string, parse func(string) (T, error), matches func(T, *seen) bool) (predicate, error) {
	var all []T
	for _, text := range texts {
		one, err := parse(text)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return func(s *seen) bool {
		return slices.ContainsFunc(all, func(one T) bool { return matches(one, s) })
	}, nil
}

// addresses matches an address or a network, e.g. "10.6.0.2" or "10.6.0.0/16".
func addresses(texts []string, of func(*seen) netip.Addr) (predicate, error) {
	return anyOf(texts, func(text string) (netip.Prefix, error) {
		if addr, err := netip.ParseAddr(text); err == nil {
			return netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
		}
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return network, fmt.Errorf("%q: write an address or a network, e.g. 10.6.0.2 or 10.6.0.0/16", text)
		}
		return network, nil
	}, func(network netip.Prefix, s *seen) bool { return network.Contains(of(s)) })
}

// names matches pods or services: "shop/web-" by the prefix of a name, "shop/" by the namespace, "/web" in all namespaces.
// A name without a namespace is in "default", as for the hubble CLI.
func names(texts []string, of func(*seen) lease.PodKey) (predicate, error) {
	return anyOf(texts, func(text string) (lease.PodKey, error) {
		namespace, prefix, found := strings.Cut(text, "/")
		if !found {
			namespace, prefix = "default", text
		}
		if text == "" {
			return lease.PodKey{}, errors.New("an empty name: write a namespace, a prefix of the name, or both, e.g. shop/web-")
		}
		return lease.PodKey{Namespace: namespace, Name: prefix}, nil
	}, func(wanted lease.PodKey, s *seen) bool {
		got := of(s)
		return got.Name != "" && (wanted.Namespace == "" || wanted.Namespace == got.Namespace) && strings.HasPrefix(got.Name, wanted.Name)
	})
}

// patterns matches one of the DNS names of an end; "*" stands for any letters.
func patterns(texts []string, of func(*seen) []string) (predicate, error) {
	return anyOf(texts, func(text string) (string, error) {
		pattern := strings.ToLower(strings.TrimSuffix(text, "."))
		_, err := path.Match(pattern, "")
		return pattern, err
	}, func(pattern string, s *seen) bool {
		return slices.ContainsFunc(of(s), func(name string) bool {
			matched, _ := path.Match(pattern, name)
			return matched
		})
	})
}

// labelSource is the source of a label before a colon, as Cilium writes it: "k8s:app", "any:app" or "reserved:world".
var labelSource = regexp.MustCompile(`(^|[\s,!(])(k8s|any|reserved):`)

// selectors matches label selectors of Kubernetes, e.g. "app=web,tier in (a, b)".
func selectors(texts []string, of func(*seen) *flow.End) (predicate, error) {
	return anyOf(texts, func(text string) (labels.Selector, error) {
		return labels.Parse(labelSource.ReplaceAllString(text, "${1}${2}."))
	}, func(selector labels.Selector, s *seen) bool { return selector.Matches(endLabels{of(s)}) })
}

// endLabels are the labels of an end for selectors, also with the source before the key, e.g. "k8s.app".
type endLabels struct{ *flow.End }

// Lookup implements labels.Labels.
func (e endLabels) Lookup(key string) (string, bool) {
	if !e.IsPod() {
		return "", key == "reserved.world"
	}
	for _, source := range []string{"k8s.", "any.", ""} {
		bare, found := strings.CutPrefix(key, source)
		if !found {
			continue
		}
		if bare == flow.NamespaceLabel {
			return e.Pod.Namespace, true
		}
		if value, ok := e.Labels[bare]; ok {
			return value, true
		}
	}
	return "", false
}

// Has implements labels.Labels.
func (e endLabels) Has(key string) bool {
	_, ok := e.Lookup(key)
	return ok
}

// Get implements labels.Labels.
func (e endLabels) Get(key string) string {
	value, _ := e.Lookup(key)
	return value
}

// workloads matches the kind, the name, or both.
func workloads(wanted []*flowpb.Workload, of func(*seen) *flow.End) predicate {
	return func(s *seen) bool {
		got := of(s).Workload
		return got.Name != "" && slices.ContainsFunc(wanted, func(w *flowpb.Workload) bool {
			return (w.GetName() == "" || w.GetName() == got.Name) && (w.GetKind() == "" || w.GetKind() == got.Kind)
		})
	}
}

func identities(wanted []uint32, of func(*seen) *flow.End) predicate {
	return func(s *seen) bool { return slices.Contains(wanted, identity(of(s))) }
}

// portRange has the first and the last port.
type portRange [2]uint16

// ports matches a port or a range, e.g. "80" or "8000-8080", of TCP, UDP and SCTP.
func ports(texts []string, of func(*seen) uint16) (predicate, error) {
	return anyOf(texts, func(text string) (portRange, error) {
		first, last, isRange := strings.Cut(text, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, failed := strconv.ParseUint(last, 10, 16)
		if err != nil || failed != nil || from > to {
			return portRange{}, fmt.Errorf("%q: write a port or a range, e.g. 80 or 8000-8080", text)
		}
		return portRange{uint16(from), uint16(to)}, nil
	}, func(r portRange, s *seen) bool { return s.hasPorts() && r[0] <= of(s) && of(s) <= r[1] })
}

func protocols(wanted []string) predicate {
	return func(s *seen) bool {
		return slices.ContainsFunc(wanted, func(w string) bool {
			w = strings.ToLower(w)
			return w == s.protocol() || w == "icmp" && (s.Protocol == flow.ICMPv4 || s.Protocol == flow.ICMPv6)
		})
	}
}

// tcpFlags matches a flow with all flags of one of the wanted sets.
func tcpFlags(wanted []*flowpb.TCPFlags) predicate {
	return func(s *seen) bool {
		return s.isTCP() && slices.ContainsFunc(wanted, func(w *flowpb.TCPFlags) bool {
			bits := flagBits(w)
			return s.Flags&bits == bits
		})
	}
}

func eventTypes(wanted []*flowpb.EventTypeFilter) predicate {
	return func(s *seen) bool {
		kind, sub := s.eventType()
		return slices.ContainsFunc(wanted, func(w *flowpb.EventTypeFilter) bool {
			return w.GetType() == kind && (!w.GetMatchSubType() || w.GetSubType() == sub)
		})
	}
}

func interfaces(wanted []*flowpb.NetworkInterface) predicate {
	return func(s *seen) bool {
		return slices.ContainsFunc(wanted, func(w *flowpb.NetworkInterface) bool { return w.GetName() == s.Interface })
	}
}

// nodes matches the name of the node, with "*" for any letters, and optionally a name of a cluster before it.
func nodes(texts []string) (predicate, error) {
	return anyOf(texts, func(text string) (string, error) {
		cluster, name, found := strings.Cut(text, "/")
		if !found {
			cluster, name = "*", text
		}
		if _, err := path.Match(cluster+name, ""); err != nil {
			return "", fmt.Errorf("%q: write a name or a pattern, e.g. node-* or default/node-1", text)
		}
		if name == "" {
			name = "*"
		}
		return cluster + "/" + name, nil
	}, func(pattern string, s *seen) bool {
		matched, _ := path.Match(pattern, clusterName+"/"+s.node)
		return matched
	})
}

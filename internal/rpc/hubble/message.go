package hubble

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

const (
	// clusterName is that of a Hubble without a cluster mesh.
	clusterName = "default"
	// identityWorld is Cilium's identity of everything outside of the cluster. Our pods have no identities: 0 is "unknown".
	identityWorld = 2
)

// Types of events and subtypes of traces as Cilium numbers them (its pkg/monitor/api).
const (
	typeDrop  = 1
	typeTrace = 4

	traceToEndpoint = 0
	traceToNetwork  = 11
)

// seen is a flow with its place.
type seen struct {
	flow.Flow
	number uint64 // in the ring
	node   string
	start  time.Time // of the ring
	domain string    // of the cluster, for DNS names
}

// uuid is unique for each flow, and the same for each client. It is that of the ring's node and start, with the number.
func (s *seen) uuid() string {
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%s %d", s.node, s.start.UnixNano())
	var id [16]byte
	binary.BigEndian.PutUint64(id[:], hash.Sum64())
	binary.BigEndian.PutUint64(id[8:], s.number)
	id[6] = id[6]&0x0f | 0x80 // version 8, for other schemes (RFC 9562)
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

func (s *seen) sourceAddr() netip.Addr      { return s.Source.Addr() }
func (s *seen) destinationAddr() netip.Addr { return s.Destination.Addr() }
func (s *seen) sourcePort() uint16          { return s.Source.Port() }
func (s *seen) destinationPort() uint16     { return s.Destination.Port() }

func (s *seen) source() *flow.End      { return known(s.Opener) }
func (s *seen) destination() *flow.End { return known(s.Target) }

func known(e *flow.End) *flow.End {
	if e == nil {
		return &flow.End{}
	}
	return e
}

func (s *seen) sourcePod() lease.PodKey      { return s.source().Pod }
func (s *seen) destinationPod() lease.PodKey { return s.destination().Pod }
func (s *seen) service() lease.PodKey        { return lease.PodKey(s.Frontend) }

// serviceNames are the DNS names of the service.
func (s *seen) serviceNames() []string {
	if s.Frontend == (service.Name{}) {
		return nil
	}
	return []string{s.Frontend.Name + "." + s.Frontend.Namespace + ".svc." + s.domain}
}

func (s *seen) isTCP() bool { return s.Protocol == service.TCP }

func (s *seen) hasPorts() bool {
	return slices.Contains([]service.Protocol{service.TCP, service.UDP, service.SCTP}, s.Protocol)
}

func (s *seen) direction() flowpb.TrafficDirection {
	if s.Direction == policy.Egress {
		return flowpb.TrafficDirection_EGRESS
	}
	return flowpb.TrafficDirection_INGRESS
}

func (s *seen) verdict() flowpb.Verdict {
	if s.Kind == flow.Denied {
		return flowpb.Verdict_DROPPED
	}
	return flowpb.Verdict_FORWARDED
}

func (s *seen) dropReason() flowpb.DropReason {
	return flowpb.DropReason(flowpb.DropReason_value[s.Reason.Hubble()])
}

func (s *seen) ipVersion() flowpb.IPVersion {
	if s.Source.Addr().Is4() {
		return flowpb.IPVersion_IPv4
	}
	return flowpb.IPVersion_IPv6
}

// protocol returns e.g. "tcp" or "icmpv6".
func (s *seen) protocol() string {
	switch s.Protocol {
	case flow.ICMPv4:
		return "icmpv4"
	case flow.ICMPv6:
		return "icmpv6"
	}
	return strings.ToLower(s.Protocol.String())
}

func (s *seen) eventType() (kind, sub int32) {
	switch {
	case s.Kind == flow.Denied:
		return typeDrop, int32(s.dropReason())
	case s.Direction == policy.Egress:
		return typeTrace, traceToNetwork
	}
	return typeTrace, traceToEndpoint
}

func identity(e *flow.End) uint32 {
	if e.IsPod() {
		return 0
	}
	return identityWorld
}

// cluster returns the name of the cluster of a pod, and "" for another end.
func cluster(e *flow.End) string {
	if e.IsPod() {
		return clusterName
	}
	return ""
}

// message returns the flow as Hubble writes it.
func (s *seen) message() *flowpb.Flow {
	kind, sub := s.eventType()
	f := &flowpb.Flow{
		Time:             timestamppb.New(s.Time),
		Uuid:             s.uuid(),
		Verdict:          s.verdict(),
		IP:               &flowpb.IP{Source: s.Source.Addr().String(), Destination: s.Destination.Addr().String(), IpVersion: s.ipVersion()},
		L4:               s.layer4(),
		Source:           endpoint(s.source()),
		Destination:      endpoint(s.destination()),
		Type:             flowpb.FlowType_L3_L4,
		NodeName:         s.node,
		DestinationNames: s.serviceNames(),
		EventType:        &flowpb.CiliumEventType{Type: kind, SubType: sub},
		TrafficDirection: s.direction(),
		IsReply:          wrapperspb.Bool(false),
		Interface:        &flowpb.NetworkInterface{Name: s.Interface},
	}
	//lint:ignore SA1019 the hubble command prints it, and no other field has the counters
	f.Summary = s.summary()
	if s.Frontend != (service.Name{}) {
		f.DestinationService = &flowpb.Service{Namespace: s.Frontend.Namespace, Name: s.Frontend.Name}
	}
	s.addPoint(f)
	return f
}

// addPoint adds where the event was seen, or why the packet was dropped.
func (s *seen) addPoint(f *flowpb.Flow) {
	switch {
	case s.Kind != flow.Denied && s.Direction == policy.Egress:
		f.TraceObservationPoint = flowpb.TraceObservationPoint_TO_NETWORK
	case s.Kind != flow.Denied:
		f.TraceObservationPoint = flowpb.TraceObservationPoint_TO_ENDPOINT
	default:
		f.DropReasonDesc = s.dropReason()
		if s.Direction == policy.Egress {
			f.EgressDeniedBy = deniedBy(s.Policies)
		} else {
			f.IngressDeniedBy = deniedBy(s.Policies)
		}
	}
}

func deniedBy(policies []policy.Name) (all []*flowpb.Policy) {
	for _, p := range policies {
		kind := "NetworkPolicy"
		switch {
		case p.Namespace == "":
			kind = "ClusterNetworkPolicy"
		case p.Multi:
			kind = "MultiNetworkPolicy"
		}
		all = append(all, &flowpb.Policy{Kind: kind, Namespace: p.Namespace, Name: p.Name})
	}
	return all
}

func (s *seen) layer4() *flowpb.Layer4 {
	from, to := uint32(s.Source.Port()), uint32(s.Destination.Port())
	kind, code := uint32(s.ICMPType), uint32(s.ICMPCode)
	switch s.Protocol {
	case service.TCP:
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_TCP{TCP: &flowpb.TCP{SourcePort: from, DestinationPort: to, Flags: flags(s.Flags)}}}
	case service.UDP:
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_UDP{UDP: &flowpb.UDP{SourcePort: from, DestinationPort: to}}}
	case service.SCTP:
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_SCTP{SCTP: &flowpb.SCTP{SourcePort: from, DestinationPort: to}}}
	case flow.ICMPv4:
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_ICMPv4{ICMPv4: &flowpb.ICMPv4{Type: kind, Code: code}}}
	case flow.ICMPv6:
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_ICMPv6{ICMPv6: &flowpb.ICMPv6{Type: kind, Code: code}}}
	}
	return nil
}

func endpoint(e *flow.End) *flowpb.Endpoint {
	if !e.IsPod() {
		return &flowpb.Endpoint{Identity: identityWorld, Labels: e.HubbleLabels()}
	}
	p := &flowpb.Endpoint{Identity: identity(e), Namespace: e.Pod.Namespace, PodName: e.Pod.Name, ClusterName: cluster(e), Labels: e.HubbleLabels()}
	if e.Workload.Name != "" {
		p.Workloads = []*flowpb.Workload{{Kind: e.Workload.Kind, Name: e.Workload.Name}}
	}
	return p
}

// flagNames are the TCP flags from the lowest bit on.
var flagNames = []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}

func flags(f flow.TCPFlags) *flowpb.TCPFlags {
	return &flowpb.TCPFlags{
		FIN: f&1 != 0, SYN: f&2 != 0, RST: f&4 != 0, PSH: f&8 != 0, ACK: f&16 != 0, URG: f&32 != 0, ECE: f&64 != 0, CWR: f&128 != 0,
	}
}

func flagBits(f *flowpb.TCPFlags) (bits flow.TCPFlags) {
	for i, set := range []bool{f.GetFIN(), f.GetSYN(), f.GetRST(), f.GetPSH(), f.GetACK(), f.GetURG(), f.GetECE(), f.GetCWR()} {
		if set {
			bits |= 1 << i
		}
	}
	return bits
}

// summary returns what the hubble CLI prints behind the verdict, e.g. "TCP Flags: SYN; dialled 10.96.0.9:80", or for the end of a connection
// "TCP Flags: ACK, FIN; closed after 1.2s, sent 5 packets with 480 bytes, received 4 with 1520".
func (s *seen) summary() string {
	text := strings.ToUpper(s.protocol())
	if s.isTCP() {
		var set []string
		for i, name := range flagNames {
			if s.Flags&(1<<i) != 0 {
				set = append(set, name)
			}
		}
		text = "TCP Flags: " + strings.Join(set, ", ")
	}
	if s.Service.IsValid() {
		text += "; dialled " + s.Service.String()
	}
	switch s.Kind {
	case flow.Refused:
		text += "; refused"
	case flow.Closed:
		e := s.Ended
		text += fmt.Sprintf("; closed after %v, sent %d packets with %d bytes, received %d with %d",
			e.Duration.Round(time.Millisecond), e.Sent.Packets, e.Sent.Bytes, e.Received.Packets, e.Received.Bytes)
		if e.Retransmits > 0 {
			text += fmt.Sprintf(", %d retransmits", e.Retransmits)
		}
		if e.RTT > 0 {
			text += fmt.Sprintf(", round trip %v", e.RTT.Round(time.Microsecond))
		}
	}
	return text
}

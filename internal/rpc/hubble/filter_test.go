package hubble

import (
	"testing"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

func seenAt(f flow.Flow, number uint64) *seen {
	return &seen{Flow: f, number: number, node: "node-1", start: noon, domain: "cluster.local"}
}

// ping is an echo request from a pod to the world.
func ping() flow.Flow {
	f := request(0)
	f.Protocol, f.Flags, f.ICMPType, f.Target, f.Frontend = flow.ICMPv4, 0, 8, nil, service.Name{}
	return f
}

func TestFilterSelectsFlow(t *testing.T) {
	tcp, drop := seenAt(request(1), 5), seenAt(denied(2), 6)
	type filters []*flowpb.FlowFilter
	for name, c := range map[string]struct {
		flow   *seen
		match  filters
		differ filters
	}{
		"addresses": {tcp,
			filters{{SourceIp: []string{"10.6.0.2"}}, {SourceIp: []string{"1.1.1.1", "10.6.0.0/16"}}, {DestinationIp: []string{"10.6.0.9", "fd00::/8"}}},
			filters{{SourceIp: []string{"10.6.0.9"}}, {DestinationIp: []string{"fd00::/8"}}},
		},
		"pods": {tcp,
			filters{{SourcePod: []string{"default/cl"}}, {SourcePod: []string{"client"}}, {SourcePod: []string{"default/"}}, {DestinationPod: []string{"/nginx"}}},
			filters{{SourcePod: []string{"shop/client"}}, {SourcePod: []string{"default/nginx"}}, {DestinationPod: []string{"/ginx"}}},
		},
		"pods outside": {drop, nil, filters{{SourcePod: []string{"default/"}}, {SourceWorkload: []*flowpb.Workload{{}}}}},
		"services": {tcp,
			filters{{DestinationService: []string{"default/web"}}, {DestinationFqdn: []string{"*.svc.cluster.local"}}, {DestinationFqdn: []string{"Web.default.svc.cluster.local."}}},
			filters{{DestinationService: []string{"web2"}}, {SourceService: []string{"default/web"}}, {DestinationFqdn: []string{"web"}}},
		},
		"labels": {tcp,
			filters{{SourceLabel: []string{"app=client"}}, {SourceLabel: []string{"k8s:app in (x, client)"}}, {DestinationLabel: []string{"any:app,!tier"}}, {DestinationLabel: []string{"io.kubernetes.pod.namespace=default"}}},
			filters{{SourceLabel: []string{"app=nginx"}}, {DestinationLabel: []string{"reserved:world"}}, {DestinationLabel: []string{"!k8s:app"}}},
		},
		"labels of the world": {drop, filters{{SourceLabel: []string{"reserved:world"}}, {SourceIdentity: []uint32{2}}}, filters{{SourceLabel: []string{"app"}}, {DestinationIdentity: []uint32{2}}}},
		"workloads": {tcp,
			filters{{DestinationWorkload: []*flowpb.Workload{{Name: "nginx"}}}, {DestinationWorkload: []*flowpb.Workload{{Kind: "Deployment"}}}},
			filters{{DestinationWorkload: []*flowpb.Workload{{Kind: "DaemonSet", Name: "nginx"}}}, {SourceWorkload: []*flowpb.Workload{{Name: "nginx"}}}},
		},
		"verdicts": {drop,
			filters{{Verdict: []flowpb.Verdict{flowpb.Verdict_DROPPED}}, {DropReasonDesc: []flowpb.DropReason{flowpb.DropReason_POLICY_DENIED}}, {TrafficDirection: []flowpb.TrafficDirection{flowpb.TrafficDirection_INGRESS}}},
			filters{{Verdict: []flowpb.Verdict{flowpb.Verdict_FORWARDED, flowpb.Verdict_AUDIT}}, {DropReasonDesc: []flowpb.DropReason{flowpb.DropReason_INVALID_SOURCE_IP}}, {TrafficDirection: []flowpb.TrafficDirection{flowpb.TrafficDirection_EGRESS}}},
		},
		"ports": {tcp,
			filters{{SourcePort: []string{"40001"}}, {DestinationPort: []string{"443", "1-80"}}},
			filters{{SourcePort: []string{"80"}}, {DestinationPort: []string{"81-90"}}},
		},
		"ports of ICMP": {seenAt(ping(), 0), nil, filters{{SourcePort: []string{"0-65535"}}}},
		"protocols": {seenAt(ping(), 0),
			filters{{Protocol: []string{"icmp"}}, {Protocol: []string{"tcp", "ICMPv4"}}},
			filters{{Protocol: []string{"tcp", "http", "icmpv6"}}, {TcpFlags: []*flowpb.TCPFlags{{}}}},
		},
		"flags": {tcp, filters{{TcpFlags: []*flowpb.TCPFlags{{FIN: true}, {SYN: true}}}}, filters{{TcpFlags: []*flowpb.TCPFlags{{SYN: true, ACK: true}}}}},
		"event types": {drop,
			filters{{EventType: []*flowpb.EventTypeFilter{{Type: 1}}}, {EventType: []*flowpb.EventTypeFilter{{Type: 1, MatchSubType: true, SubType: 133}}}},
			filters{{EventType: []*flowpb.EventTypeFilter{{Type: 4}}}, {EventType: []*flowpb.EventTypeFilter{{Type: 1, MatchSubType: true, SubType: 132}}}},
		},
		"nodes": {tcp,
			filters{{NodeName: []string{"node-1"}}, {NodeName: []string{"node-*"}}, {NodeName: []string{"default/"}}, {NodeName: []string{"x", "default/node-1"}}},
			filters{{NodeName: []string{"node"}}, {NodeName: []string{"other/node-1"}}},
		},
		"versions":   {drop, filters{{IpVersion: []flowpb.IPVersion{flowpb.IPVersion_IPv6}}, {Reply: []bool{false}}}, filters{{IpVersion: []flowpb.IPVersion{flowpb.IPVersion_IPv4}}, {Reply: []bool{true}}}},
		"clusters":   {tcp, filters{{SourceClusterName: []string{"default"}}, {DestinationClusterName: []string{"x", "default"}}}, filters{{SourceClusterName: []string{"x"}}}},
		"no cluster": {drop, nil, filters{{SourceClusterName: []string{"default"}}}},
		"encryption": {tcp, filters{{Encrypted: []bool{false}}}, filters{{Encrypted: []bool{true}}}},
		"interfaces": {tcp, filters{{Interface: []*flowpb.NetworkInterface{{Name: "eth0"}}}}, filters{{Interface: []*flowpb.NetworkInterface{{Name: "net1"}}}}},
		"ids":        {tcp, filters{{Uuid: []string{tcp.uuid()}}}, filters{{Uuid: []string{drop.uuid()}}}},
		"layer 7":    {tcp, nil, filters{{HttpMethod: []string{"GET"}}, {DnsQuery: []string{".*"}}, {HttpStatusCode: []string{"200"}, SourceIp: []string{"10.6.0.2"}}}},
		"all fields must match": {tcp,
			filters{{SourceIp: []string{"10.6.0.2"}, Protocol: []string{"tcp"}}, {}},
			filters{{SourceIp: []string{"10.6.0.2"}, Protocol: []string{"udp"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for want, list := range map[bool]filters{true: c.match, false: c.differ} {
				for _, one := range list {
					f, err := compile(filters{one}, nil)
					if err != nil {
						t.Fatal(err)
					}
					if f.matches(c.flow) != want {
						t.Errorf("%v matches: %t", one, !want)
					}
				}
			}
		})
	}
}

// foreign are the fields of a filter that match none of our flows.
var foreign = map[protoreflect.Name]string{
	"source_fqdn": "answers have no flow of their own", "source_service": "the same", "source_ip_xlated": "no source is translated",
	"http_status_code": "no layer 7", "http_method": "no layer 7", "http_path": "no layer 7", "http_url": "no layer 7", "http_header": "no layer 7", "dns_query": "no layer 7",
	"trace_id": "traces are of layer 7", "ip_trace_id": "no IP option is read", "node_labels": "flows have none", "experimental": "CEL expressions",
}

// TestEveryFieldIsDecided fails when a later version of the API has another field.
func TestEveryFieldIsDecided(t *testing.T) {
	all := (&flowpb.FlowFilter{}).ProtoReflect().Descriptor().Fields()
	for i := range all.Len() {
		name := all.Get(i).Name()
		if (fields[name] != nil) == (foreign[name] != "") {
			t.Errorf("field %s: matches %t, foreign %q", name, fields[name] != nil, foreign[name])
		}
	}
}

// A filter from a client never panics, whatever it contains.
func FuzzFilters(f *testing.F) {
	for _, filter := range []*flowpb.FlowFilter{
		{SourceIp: []string{"10.0.0.0/8"}, DestinationPod: []string{"a/b"}}, {SourceLabel: []string{"a in (b,c)", "k8s:x!=y"}},
		{NodeName: []string{"[", "a/b/c*"}}, {DestinationFqdn: []string{"*.[a-"}}, {TcpFlags: []*flowpb.TCPFlags{nil}}, {HttpPath: []string{"("}},
	} {
		raw, err := proto.Marshal(filter)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	flows := []*seen{seenAt(request(1), 0), seenAt(denied(2), 1), seenAt(ping(), 2), seenAt(flow.Flow{Opener: &flow.End{Pod: lease.PodKey{Name: "x"}}}, 3)}
	f.Fuzz(func(t *testing.T, raw []byte) {
		filter := &flowpb.FlowFilter{}
		if proto.Unmarshal(raw, filter) != nil {
			return
		}
		compiled, err := compile([]*flowpb.FlowFilter{filter}, nil)
		if err != nil {
			return
		}
		for _, s := range flows {
			compiled.matches(s)
		}
	})
}

func TestMessageHasHubbleFields(t *testing.T) {
	tcp := seenAt(request(1), 5).message()
	if tcp.GetVerdict() != flowpb.Verdict_FORWARDED || tcp.GetL4().GetTCP().GetDestinationPort() != 80 || !tcp.GetL4().GetTCP().GetFlags().GetSYN() ||
		tcp.GetTraceObservationPoint() != flowpb.TraceObservationPoint_TO_NETWORK || tcp.GetDestinationService().GetName() != "web" ||
		tcp.GetDestinationNames()[0] != "web.default.svc.cluster.local" || seenAt(request(1), 5).summary() != "TCP Flags: SYN; dialled 10.96.0.9:8080" ||
		tcp.GetDestination().GetWorkloads()[0].GetKind() != "Deployment" || tcp.GetSource().GetLabels()[0] != "k8s:app=client" {
		t.Errorf("got %v", tcp)
	}
	drop := seenAt(denied(2), 6).message()
	if drop.GetVerdict() != flowpb.Verdict_DROPPED || drop.GetDropReasonDesc() != flowpb.DropReason_POLICY_DENIED || drop.GetSource().GetIdentity() != 2 ||
		drop.GetIngressDeniedBy()[0].GetName() != "only-client" || drop.GetIP().GetIpVersion() != flowpb.IPVersion_IPv6 || drop.GetEventType().GetType() != 1 {
		t.Errorf("got %v", drop)
	}
	egress := denied(3)
	egress.Direction, egress.Policies = policy.Egress, []policy.Name{{Name: "admin"}}
	if by := seenAt(egress, 7).message().GetEgressDeniedBy(); len(by) != 1 || by[0].GetKind() != "ClusterNetworkPolicy" {
		t.Errorf("denied by %v", by)
	}
	closed := request(4)
	closed.Kind, closed.Flags = flow.Closed, 17
	closed.Ended = flow.Counters{Sent: flow.Traffic{Packets: 5, Bytes: 480}, Received: flow.Traffic{Packets: 4, Bytes: 1520}, Duration: 1200e6, Retransmits: 1, RTT: 350e3}
	const want = "TCP Flags: FIN, ACK; dialled 10.96.0.9:8080; closed after 1.2s, sent 5 packets with 480 bytes, received 4 with 1520, 1 retransmits, round trip 350µs"
	if got := seenAt(closed, 8).summary(); got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
}

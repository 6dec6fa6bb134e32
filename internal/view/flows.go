package view

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
)

// Flow is one flow of Hubble's API with the fields that users read.
type Flow struct {
	At                  time.Time
	Node                string
	Source, Destination FlowEnd
	// Service is the Service that the client connected to, "namespace/name"; "" for none.
	Service  string
	Protocol string // e.g. "TCP"
	Summary  string // e.g. "TCP Flags: SYN"
	Dropped  bool
	// Reason is the reason of a drop, e.g. "POLICY_DENIED", and By the policies, e.g. "NetworkPolicy shop/deny".
	Reason string
	By     string
}

// FlowEnd is one end of a flow.
type FlowEnd struct {
	Namespace, Pod string // "" for an address of no known pod
	// Workload is the pod's top controller, e.g. "Deployment/web"; "" if it is not known.
	Workload string
	Addr     string
	Port     uint32
}

// String returns e.g. "shop/web-0:80" or "[2001:db8::5]:40000".
func (e FlowEnd) String() string {
	name := e.Addr
	if e.Pod != "" {
		name = e.Namespace + "/" + e.Pod
	}
	switch {
	case e.Port == 0:
		return name
	case e.Pod != "":
		return name + ":" + strconv.Itoa(int(e.Port))
	}
	return net.JoinHostPort(name, strconv.Itoa(int(e.Port)))
}

// Group returns the end in a graph: the workload, the pod without one, or "outside" for an address of no known pod.
func (e FlowEnd) Group() string {
	if e.Pod == "" {
		return groupOutside
	}
	return e.Namespace + "/" + cmp.Or(e.Workload, "Pod/"+e.Pod)
}

const groupOutside = "outside"

// FlowOf returns a flow of Hubble's API.
func FlowOf(f *flowpb.Flow) Flow {
	out := Flow{
		At: f.GetTime().AsTime(), Node: f.GetNodeName(), Dropped: f.GetVerdict() == flowpb.Verdict_DROPPED,
		Source: endOf(f.GetSource(), f.GetIP().GetSource()), Destination: endOf(f.GetDestination(), f.GetIP().GetDestination()),
	}
	//lint:ignore SA1019 the hubble command still prints it
	out.Summary = f.GetSummary()
	out.Protocol, out.Source.Port, out.Destination.Port = transport(f.GetL4())
	if s := f.GetDestinationService(); s != nil {
		out.Service = s.GetNamespace() + "/" + s.GetName()
	}
	if out.Dropped {
		out.Reason = f.GetDropReasonDesc().String()
		var by []string
		for _, p := range append(f.GetIngressDeniedBy(), f.GetEgressDeniedBy()...) {
			by = append(by, p.GetKind()+" "+strings.TrimPrefix(p.GetNamespace()+"/"+p.GetName(), "/"))
		}
		out.By = strings.Join(by, ", ")
	}
	return out
}

func endOf(end *flowpb.Endpoint, addr string) FlowEnd {
	out := FlowEnd{Namespace: end.GetNamespace(), Pod: end.GetPodName(), Addr: addr}
	if w := end.GetWorkloads(); len(w) > 0 {
		out.Workload = w[0].GetKind() + "/" + w[0].GetName()
	}
	return out
}

func transport(l *flowpb.Layer4) (protocol string, source, destination uint32) {
	switch {
	case l.GetTCP() != nil:
		return "TCP", l.GetTCP().GetSourcePort(), l.GetTCP().GetDestinationPort()
	case l.GetUDP() != nil:
		return "UDP", l.GetUDP().GetSourcePort(), l.GetUDP().GetDestinationPort()
	case l.GetSCTP() != nil:
		return "SCTP", l.GetSCTP().GetSourcePort(), l.GetSCTP().GetDestinationPort()
	case l.GetICMPv4() != nil:
		return "ICMPv4", 0, 0
	case l.GetICMPv6() != nil:
		return "ICMPv6", 0, 0
	}
	return "", 0, 0
}

// FlowEdge counts the flows between two groups.
type FlowEdge struct {
	From, To       string // FlowEnd.Group
	Flows, Dropped int
}

// FlowEdges returns the edges of the graph of flows, those with the most flows first.
func FlowEdges(flows []Flow) []FlowEdge {
	type pair struct{ from, to string }
	counts := map[pair]*FlowEdge{}
	for _, f := range flows {
		key := pair{f.Source.Group(), f.Destination.Group()}
		e := counts[key]
		if e == nil {
			e = &FlowEdge{From: key.from, To: key.to}
			counts[key] = e
		}
		e.Flows++
		if f.Dropped {
			e.Dropped++
		}
	}
	edges := make([]FlowEdge, 0, len(counts))
	for _, e := range counts {
		edges = append(edges, *e)
	}
	slices.SortFunc(edges, func(a, b FlowEdge) int {
		return cmp.Or(cmp.Compare(b.Flows, a.Flows), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	return edges
}

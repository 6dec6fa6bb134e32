package cli

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
)

// flowLine returns an answer as one line, e.g.
//
//	12:00:01.000 n1 default/client:40001 -> default/nginx:80 (service default/web) egress eth0 FORWARDED TCP Flags: SYN
func flowLine(answer *observerpb.GetFlowsResponse, c colors) string {
	at := answer.GetTime().AsTime().Local().Format(time.StampMilli)
	if lost := answer.GetLostEvents(); lost != nil {
		return fmt.Sprintf("%s %s %slost %d events%s", at, answer.GetNodeName(), c.red, lost.GetNumEventsLost(), c.plain)
	}
	f := answer.GetFlow()
	if f == nil { // a node that hubble-relay does not reach
		return fmt.Sprintf("%s %s", at, answer.GetNodeStatus())
	}
	words := []string{at, f.GetNodeName(), flowEnd(f, f.GetSource(), f.GetIP().GetSource(), sourcePort), "->", flowEnd(f, f.GetDestination(), f.GetIP().GetDestination(), destinationPort)}
	if s := f.GetDestinationService(); s != nil {
		words = append(words, fmt.Sprintf("(service %s/%s)", s.GetNamespace(), s.GetName()))
	}
	//lint:ignore SA1019 no other field has the counters
	words = append(words, strings.ToLower(f.GetTrafficDirection().String()), f.GetInterface().GetName(), flowVerdict(f, c), f.GetSummary())
	return strings.Join(strings.Fields(strings.Join(words, " ")), " ")
}

// flowEnd returns e.g. "default/nginx:80" or "[2001:db8::5]:40000".
func flowEnd(f *flowpb.Flow, end *flowpb.Endpoint, addr string, port func(*flowpb.Layer4) (uint32, bool)) string {
	number, hasPort := port(f.GetL4())
	switch pod := end.GetPodName(); {
	case pod != "" && hasPort:
		return fmt.Sprintf("%s/%s:%d", end.GetNamespace(), pod, number)
	case pod != "":
		return end.GetNamespace() + "/" + pod
	case hasPort:
		return net.JoinHostPort(addr, strconv.Itoa(int(number)))
	}
	return addr
}

func sourcePort(l *flowpb.Layer4) (uint32, bool) {
	switch {
	case l.GetTCP() != nil:
		return l.GetTCP().GetSourcePort(), true
	case l.GetUDP() != nil:
		return l.GetUDP().GetSourcePort(), true
	}
	return l.GetSCTP().GetSourcePort(), l.GetSCTP() != nil
}

func destinationPort(l *flowpb.Layer4) (uint32, bool) {
	switch {
	case l.GetTCP() != nil:
		return l.GetTCP().GetDestinationPort(), true
	case l.GetUDP() != nil:
		return l.GetUDP().GetDestinationPort(), true
	}
	return l.GetSCTP().GetDestinationPort(), l.GetSCTP() != nil
}

// flowVerdict returns the verdict, and for a drop the reason and the policies.
func flowVerdict(f *flowpb.Flow, c colors) string {
	if f.GetVerdict() != flowpb.Verdict_DROPPED {
		return c.green + f.GetVerdict().String() + c.plain
	}
	text := fmt.Sprintf("%s%s (%s)%s", c.red, f.GetVerdict(), f.GetDropReasonDesc(), c.plain)
	for _, p := range append(f.GetIngressDeniedBy(), f.GetEgressDeniedBy()...) {
		text += fmt.Sprintf(" by %s %s", p.GetKind(), strings.TrimPrefix(p.GetNamespace()+"/"+p.GetName(), "/"))
	}
	return text
}

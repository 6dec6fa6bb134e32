package walk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	corev1 "k8s.io/api/core/v1"
)

// connection identifies a connection by its first packet. An echo has no ports.
type connection struct {
	protocol            string // TCP, UDP, SCTP or ICMP
	source, destination netip.AddrPort
}

func (c connection) String() string {
	return fmt.Sprintf("%s %s > %s", c.protocol, c.source, c.destination)
}

func (c connection) reverse() connection { return connection{c.protocol, c.destination, c.source} }

// connections are those of a log, with the payload of TCP in both directions.
type connections map[connection]payload

type payload struct{ sent, received int }

// flowsEqualTcpdump has two pods of two nodes connect to each other, and compares the flows of both nodes with what tcpdump
// sees at one of the pods.
func (g *guide) flowsEqualTcpdump(ctx context.Context) error {
	pods, err := g.flowPods(ctx)
	if err != nil {
		return err
	}
	nginx, open := pods["nginx"], pods["open-1"]
	capture, err := g.capture(ctx, nginx)
	if err != nil {
		return err
	}
	started := time.Now()
	errs := []error{
		g.allAnswer(ctx, nginx, targetsOf(addrsOf(open), 80, "tcp", "udp", "sctp")...),
		g.allAnswer(ctx, open, targetsOf(addrsOf(nginx), 81, "tcp", "udp", "sctp")...),
	}
	for _, a := range addrsOf(open) {
		program := "ping"
		if a.Is6() {
			program = "ping6"
		}
		_, err := g.Kubectl(ctx, fmt.Sprintf("exec nginx -c nginx -- %s -c 1 -W 5 %s", program, a))
		errs = append(errs, err)
	}
	packets, err := capture(ctx)
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	ends := append(addrsOf(nginx), addrsOf(open)...)
	seen := ofTcpdump(packets, ends)
	if len(seen) != 14 {
		return fmt.Errorf("tcpdump saw %d connections, want 14: %s", len(seen), packets)
	}
	return g.eventually(ctx, "the flows of both nodes equal what tcpdump saw", shown, func(ctx context.Context) error {
		flows, err := g.flowsOf(ctx, started, "--pod default/nginx")
		if err != nil {
			return err
		}
		for node := range g.Nodes {
			if err := seen.equal(ofFlows(flows, node, ends)); err != nil {
				return fmt.Errorf("node %s: %w", node, err)
			}
		}
		fmt.Fprintf(g.Out, "  %d connections\n", len(seen))
		return nil
	})
}

// capture runs tcpdump at eth0 of a pod until the result is called, which returns its output.
func (g *guide) capture(ctx context.Context, pod corev1.Pod) (stop func(context.Context) (string, error), err error) {
	node, file := pod.Spec.NodeName, "/run/tcpdump-"+pod.Name
	if _, err := g.Exec(ctx, node, fmt.Sprintf("for ns in /run/netns/*; do nsenter --net=$ns ip -o address show eth0 2>&1 | grep -qw %s || continue\n"+
		"setsid nsenter --net=$ns tcpdump -n -l --immediate-mode -i eth0 >%s 2>%s.log </dev/null & echo $! >%s.pid; done", pod.Status.PodIP, file, file, file)); err != nil {
		return nil, err
	}
	if err := g.eventually(ctx, "tcpdump listens", slow, func(ctx context.Context) error {
		_, err := g.Exec(ctx, node, "grep listening "+file+".log")
		return err
	}); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		if _, err := g.Exec(ctx, node, fmt.Sprintf("kill $(cat %s.pid); while kill -0 $(cat %s.pid) 2>/dev/null; do sleep 0.1; done; rm %s.*", file, file, file)); err != nil {
			return "", err
		}
		return g.run(ctx, g.Binary, "exec", node, "--", "sh", "-c", "cat "+file+"; rm "+file)
	}, nil
}

// packetLine is a packet as tcpdump prints it, e.g. "12:00:00.000000 IP 10.6.0.1.4000 > 10.6.0.2.80: Flags [S], seq 1, … length 0".
var (
	packetLine = regexp.MustCompile(`^\S+ IP6? (\S+) > (\S+): (.*)`)
	sequence   = regexp.MustCompile(`seq (\d+:\d+)`)
	length     = regexp.MustCompile(`length (\d+)`)
)

// ofTcpdump returns the connections among addresses.
func ofTcpdump(text string, ends []netip.Addr) connections {
	seen, counted := connections{}, map[string]bool{}
	for line := range strings.Lines(text) {
		match := packetLine.FindStringSubmatch(strings.TrimSpace(line))
		if match == nil {
			continue
		}
		c, ok := connectionOf(match[1], match[2], match[3])
		if !ok || !slices.Contains(ends, c.source.Addr()) || !slices.Contains(ends, c.destination.Addr()) {
			continue
		}
		_, known := seen[c]
		if answer, isAnswer := seen[c.reverse()]; isAnswer {
			answer.received += payloadOf(c, match[3], counted)
			seen[c.reverse()] = answer
		} else if known || opens(match[3]) {
			opened := seen[c]
			opened.sent += payloadOf(c, match[3], counted)
			seen[c] = opened
		}
	}
	return seen
}

// connectionOf reads the ends of a packet as tcpdump prints them, and the protocol in the text behind them.
func connectionOf(from, to, text string) (c connection, ok bool) {
	for prefix, protocol := range map[string]string{"Flags [": "TCP", "UDP": "UDP", "sctp": "SCTP", "ICMP echo": "ICMP", "ICMP6, echo": "ICMP"} {
		if strings.HasPrefix(text, prefix) {
			c.protocol = protocol
		}
	}
	c.source, c.destination = endOf(from, c.protocol), endOf(to, c.protocol)
	return c, c.protocol != "" && c.source.IsValid() && c.destination.IsValid()
}

// endOf reads e.g. "10.6.0.1.4000" or "2001:db8::1.4000", and for ICMP an address.
func endOf(text, protocol string) netip.AddrPort {
	addr, port := text, 0
	if at := strings.LastIndexByte(text, '.'); protocol != "ICMP" && at > 0 {
		addr = text[:at]
		port, _ = strconv.Atoi(text[at+1:])
	}
	parsed, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(parsed, uint16(port))
}

// opens reports whether a packet may open a connection.
func opens(text string) bool {
	switch {
	case strings.HasPrefix(text, "Flags ["):
		return strings.HasPrefix(text, "Flags [S") && !strings.HasPrefix(text, "Flags [S.")
	case strings.HasPrefix(text, "sctp"):
		return strings.Contains(text, "[INIT]")
	case strings.HasPrefix(text, "ICMP"):
		return strings.Contains(text, "echo request")
	}
	return true
}

// payloadOf returns the payload of a TCP segment, and 0 for a repeated one.
func payloadOf(c connection, text string, counted map[string]bool) int {
	seq, size := sequence.FindStringSubmatch(text), length.FindStringSubmatch(text)
	if c.protocol != "TCP" || seq == nil || size == nil || counted[c.String()+seq[1]] {
		return 0
	}
	counted[c.String()+seq[1]] = true
	n, _ := strconv.Atoi(size[1])
	return n
}

// counters is the part of a flow's summary with the payload.
var counters = regexp.MustCompile(`sent \d+ packets with (\d+) bytes, received \d+ with (\d+)`)

// ofFlows returns the connections among addresses that a node shows at the interfaces eth0: those of TCP from their ends, the
// others from their beginnings, because they end by a silence.
func ofFlows(flows []*flowpb.Flow, node string, ends []netip.Addr) connections {
	found := connections{}
	for _, f := range flows {
		c := connectionOfFlow(f)
		if f.GetNodeName() != node || f.GetInterface().GetName() != "eth0" || f.GetVerdict() != flowpb.Verdict_FORWARDED ||
			!slices.Contains(ends, c.source.Addr()) || !slices.Contains(ends, c.destination.Addr()) {
			continue
		}
		//lint:ignore SA1019 no other field has the counters
		match := counters.FindStringSubmatch(f.GetSummary())
		switch {
		case c.protocol == "TCP" && match != nil:
			sent, _ := strconv.Atoi(match[1])
			received, _ := strconv.Atoi(match[2])
			found[c] = payload{sent, received}
		case c.protocol != "TCP" && c.protocol != "":
			found[c] = payload{}
		}
	}
	return found
}

// connectionOfFlow returns the connection of a flow.
func connectionOfFlow(f *flowpb.Flow) (c connection) {
	var from, to uint32
	switch l4 := f.GetL4(); {
	case l4.GetTCP() != nil:
		c.protocol, from, to = "TCP", l4.GetTCP().GetSourcePort(), l4.GetTCP().GetDestinationPort()
	case l4.GetUDP() != nil:
		c.protocol, from, to = "UDP", l4.GetUDP().GetSourcePort(), l4.GetUDP().GetDestinationPort()
	case l4.GetSCTP() != nil:
		c.protocol, from, to = "SCTP", l4.GetSCTP().GetSourcePort(), l4.GetSCTP().GetDestinationPort()
	case l4.GetICMPv4().GetType() == 8, l4.GetICMPv6().GetType() == 128: // echo requests
		c.protocol = "ICMP"
	}
	source, _ := netip.ParseAddr(f.GetIP().GetSource())
	destination, _ := netip.ParseAddr(f.GetIP().GetDestination())
	c.source, c.destination = netip.AddrPortFrom(source, uint16(from)), netip.AddrPortFrom(destination, uint16(to))
	return c
}

// equal returns an error that names the first difference.
func (c connections) equal(shown connections) error {
	for each, traffic := range c {
		got, ok := shown[each]
		if !ok {
			return fmt.Errorf("no flow of %s", each)
		}
		if got != traffic {
			return fmt.Errorf("the flow of %s has the payload %v, and tcpdump saw %v", each, got, traffic)
		}
	}
	for each := range shown {
		if _, ok := c[each]; !ok {
			return fmt.Errorf("tcpdump did not see %s", each)
		}
	}
	return nil
}

// verdictsAreFlows asks what the policies allow and deny, and expects a flow of each verdict: at both ends of an open
// connection, and with the policy at the end that dropped a packet.
func (g *guide) verdictsAreFlows(ctx context.Context) error {
	if err := g.eventually(ctx, "the policies have effect", slow, func(ctx context.Context) error {
		return g.verdictsAre(ctx, func(r verdictRule) bool { return r.open })
	}); err != nil {
		return err
	}
	pods, err := g.flowPods(ctx)
	if err != nil {
		return err
	}
	started := time.Now()
	if err := g.verdictsAre(ctx, func(r verdictRule) bool { return r.open }); err != nil {
		return err
	}
	targets, rules, err := g.verdictTargets(ctx)
	if err != nil {
		return err
	}
	return g.eventually(ctx, "each verdict has its flow", shown, func(ctx context.Context) error {
		flows, err := g.flowsOf(ctx, started, "--label run=policy")
		if err != nil {
			return err
		}
		for client, asked := range targets {
			for i, t := range asked {
				if err := verdictIn(flows, addrsOf(pods[client]), t, rules[client][i]); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// verdictIn looks for the flows of a question.
func verdictIn(flows []*flowpb.Flow, client []netip.Addr, to Target, r verdictRule) error {
	opened := map[flowpb.TrafficDirection]bool{}
	var denied []string
	for _, f := range flows {
		c := connectionOfFlow(f)
		if c.destination != to.AddrPort || c.protocol != strings.ToUpper(to.Protocol) || !slices.Contains(client, c.source.Addr()) {
			continue
		}
		if f.GetVerdict() == flowpb.Verdict_FORWARDED {
			opened[f.GetTrafficDirection()] = true
			continue
		}
		for _, p := range append(f.GetIngressDeniedBy(), f.GetEgressDeniedBy()...) {
			denied = append(denied, fmt.Sprintf("%s %s by %s %s/%s", f.GetDropReasonDesc(), f.GetTrafficDirection(), p.GetKind(), p.GetNamespace(), p.GetName()))
		}
	}
	slices.Sort(denied)
	denied = slices.Compact(denied)
	var want []string
	switch {
	case r.open:
	case r.client == "caged":
		want = []string{"POLICY_DENIED EGRESS by NetworkPolicy default/caged"}
	default:
		want = []string{"POLICY_DENIED INGRESS by NetworkPolicy default/closed"}
	}
	if !slices.Equal(denied, want) {
		return fmt.Errorf("%s to %s: dropped packets are %q, want %q", r.client, to, denied, want)
	}
	if r.open && len(opened) != 2 || !r.open && opened[flowpb.TrafficDirection_INGRESS] {
		return fmt.Errorf("%s to %s: forwarded in %v, want open: %v", r.client, to, opened, r.open)
	}
	return nil
}

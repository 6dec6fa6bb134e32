package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"spiderpool.dev/spiderpool/internal/pool"
)

// shownAddresses is the number of addresses or ranges in a row.
const shownAddresses = 3

// podPolicyAnswer draws the policies of a pod.
func podPolicyAnswer(v podPolicyView) answer {
	return answer{value: v, names: []string{"pod/" + v.Pod}, draw: func(w drawing) {
		node := ""
		if v.Node != "" {
			node = ", on node " + v.Node
		}
		fmt.Fprintf(w, "Pod %s, %s%s\n", v.Pod, orNone(v.Addresses, "without an address"), node)
		if v.HostNetwork {
			fmt.Fprintln(w, "\nIt uses the network of its node, so no policy isolates it.")
			return
		}
		for i := range v.Interfaces {
			showInterface(w, &v.Interfaces[i], len(v.Interfaces) == 1 && v.Interfaces[i].Name == pool.FirstInterface && !v.Interfaces[i].Foreign)
		}
		showInvalid(w, v.Invalid)
		fmt.Fprintln(w, "\nTraffic of the pod with itself and with its node always passes.")
	}}
}

func orNone(text, none string) string {
	if text == "" {
		return none
	}
	return text
}

// showInterface prints the policies of an interface, without its name if the pod has no other.
func showInterface(w drawing, v *interfaceView, isOnly bool) {
	if !isOnly {
		network := ""
		switch {
		case v.Foreign:
			network = ", of another network plugin"
		case v.Network != "":
			network = ", on network " + v.Network
		}
		fmt.Fprintf(w, "\nInterface %s, %s%s\n", v.Name, orNone(v.Addresses, "without an address"), network)
	}
	kind := "NetworkPolicy"
	if v.Name != pool.FirstInterface {
		kind = "MultiNetworkPolicy"
	}
	showSide(w, "Ingress", "FROM", kind, v.Ingress)
	showSide(w, "Egress", "TO", kind, v.Egress)
}

// showSide prints a direction. kind is that of the isolating policies.
func showSide(w drawing, direction, peers, kind string, side sideView) {
	if len(side.Admin) > 0 {
		fmt.Fprintf(w, "\n%s: first, the tier Admin of ClusterNetworkPolicies decides.", direction)
		showMatches(w, "ACTION\t"+peers, side.Admin, true)
	}
	switch {
	case len(side.IsolatedBy) > 0 && len(side.Allows) == 0:
		fmt.Fprintf(w, "\n%s is isolated by %s. No rule allows anything.\n", direction, strings.Join(side.IsolatedBy, ", "))
	case len(side.IsolatedBy) > 0:
		fmt.Fprintf(w, "\n%s is isolated by %s.", direction, strings.Join(side.IsolatedBy, ", "))
		showMatches(w, peers, side.Allows, false)
	case len(side.Baseline) > 0:
		fmt.Fprintf(w, "\n%s: no NetworkPolicy isolates it, so the tier Baseline of ClusterNetworkPolicies decides.", direction)
		showMatches(w, "ACTION\t"+peers, side.Baseline, true)
	default:
		fmt.Fprintf(w, "\n%s is open: no %s isolates it.\n", direction, kind)
	}
}

// showMatches prints a table. first are the heads of its first columns.
func showMatches(w drawing, first string, matches []matchView, withAction bool) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\n%s\tPORTS\tADDRESSES\tRULE\n", first)
	for _, m := range matches {
		addrs := strings.Join(m.Addresses, ", ")
		if more := len(m.Addresses) - shownAddresses; more > 0 && !w.wide {
			addrs = fmt.Sprintf("%s and %d more", strings.Join(m.Addresses[:shownAddresses], ", "), more)
		}
		if withAction {
			fmt.Fprintf(t, "%s\t", m.Action)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s %s\n", m.Peer, orNone(strings.Join(m.Ports, ", "), "none"), orNone(addrs, "none"), m.Policy, m.Rule)
	}
	_ = t.Flush()
}

func showInvalid(out io.Writer, invalid []string) {
	for _, text := range invalid {
		fmt.Fprintf(out, "\nInvalid: %s\n", text)
	}
}

// tracesAnswer draws the verdicts.
func tracesAnswer(traces []traceView) answer {
	return answer{value: traces, draw: func(w drawing) {
		for _, v := range traces {
			verdict := w.green + "allowed" + w.plain
			if !v.Allowed {
				verdict = w.red + "denied" + w.plain
			}
			fmt.Fprintf(w, "%s from %s to %s port %d: %s\n  egress   %s\n  ingress  %s\n", v.Protocol, v.From, v.To, v.Port, verdict, v.Egress, v.Ingress)
		}
	}}
}

// policyDiffAnswer draws the changes.
func policyDiffAnswer(v diffView) answer {
	a := answer{value: v}
	for _, pod := range v.Pods {
		if name := "pod/" + pod.Pod; !slices.Contains(a.names, name) {
			a.names = append(a.names, name)
		}
	}
	a.draw = func(w drawing) {
		for _, pod := range v.Pods {
			fmt.Fprintf(w, "%s\n  %s\n", strings.TrimSpace(pod.Pod+" "+pod.Interface), strings.Join(pod.Changes, "\n  "))
		}
		if len(v.Pods) == 0 {
			fmt.Fprintln(w, "The traffic of all pods stays the same.")
		}
		showInvalid(w, v.Invalid)
	}
	return a
}

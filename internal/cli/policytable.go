package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"spiderpool.dev/spiderpool/internal/pool"
)

// shownAddresses is the number of addresses or ranges in a row.
const shownAddresses = 3

// showPodPolicy prints the policies of a pod.
func showPodPolicy(out io.Writer, v podPolicyView, output string) error {
	if output == "json" {
		return printJSON(out, v)
	}
	node := ""
	if v.Node != "" {
		node = ", on node " + v.Node
	}
	fmt.Fprintf(out, "Pod %s, %s%s\n", v.Pod, orNone(v.Addresses, "without an address"), node)
	if v.HostNetwork {
		_, err := fmt.Fprintln(out, "\nIt uses the network of its node, so no policy isolates it.")
		return err
	}
	for i := range v.Interfaces {
		if err := showInterface(out, &v.Interfaces[i], len(v.Interfaces) == 1 && v.Interfaces[i].Name == pool.FirstInterface && !v.Interfaces[i].Foreign); err != nil {
			return err
		}
	}
	showInvalid(out, v.Invalid)
	_, err := fmt.Fprintln(out, "\nTraffic of the pod with itself and with its node always passes.")
	return err
}

func orNone(text, none string) string {
	if text == "" {
		return none
	}
	return text
}

// showInterface prints the policies of an interface, without its name if the pod has no other.
func showInterface(out io.Writer, v *interfaceView, isOnly bool) error {
	if !isOnly {
		network := ""
		switch {
		case v.Foreign:
			network = ", of another network plugin"
		case v.Network != "":
			network = ", on network " + v.Network
		}
		fmt.Fprintf(out, "\nInterface %s, %s%s\n", v.Name, orNone(v.Addresses, "without an address"), network)
	}
	kind := "NetworkPolicy"
	if v.Name != pool.FirstInterface {
		kind = "MultiNetworkPolicy"
	}
	if err := showSide(out, "Ingress", "FROM", kind, v.Ingress); err != nil {
		return err
	}
	return showSide(out, "Egress", "TO", kind, v.Egress)
}

// showSide prints a direction. kind is that of the isolating policies.
func showSide(out io.Writer, direction, peers, kind string, side sideView) error {
	if len(side.Admin) > 0 {
		fmt.Fprintf(out, "\n%s: first, the tier Admin of ClusterNetworkPolicies decides.", direction)
		if err := showMatches(out, "ACTION\t"+peers, side.Admin, true); err != nil {
			return err
		}
	}
	switch {
	case len(side.IsolatedBy) > 0 && len(side.Allows) == 0:
		_, err := fmt.Fprintf(out, "\n%s is isolated by %s. No rule allows anything.\n", direction, strings.Join(side.IsolatedBy, ", "))
		return err
	case len(side.IsolatedBy) > 0:
		fmt.Fprintf(out, "\n%s is isolated by %s.", direction, strings.Join(side.IsolatedBy, ", "))
		return showMatches(out, peers, side.Allows, false)
	case len(side.Baseline) > 0:
		fmt.Fprintf(out, "\n%s: no NetworkPolicy isolates it, so the tier Baseline of ClusterNetworkPolicies decides.", direction)
		return showMatches(out, "ACTION\t"+peers, side.Baseline, true)
	}
	_, err := fmt.Fprintf(out, "\n%s is open: no %s isolates it.\n", direction, kind)
	return err
}

// showMatches prints a table. first are the heads of its first columns.
func showMatches(out io.Writer, first string, matches []matchView, withAction bool) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\n%s\tPORTS\tADDRESSES\tRULE\n", first)
	for _, m := range matches {
		addrs := strings.Join(m.Addresses, ", ")
		if more := len(m.Addresses) - shownAddresses; more > 0 {
			addrs = fmt.Sprintf("%s and %d more", strings.Join(m.Addresses[:shownAddresses], ", "), more)
		}
		if withAction {
			fmt.Fprintf(t, "%s\t", m.Action)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s %s\n", m.Peer, orNone(strings.Join(m.Ports, ", "), "none"), orNone(addrs, "none"), m.Policy, m.Rule)
	}
	return t.Flush()
}

func showInvalid(out io.Writer, invalid []string) {
	for _, text := range invalid {
		fmt.Fprintf(out, "\nInvalid: %s\n", text)
	}
}

// showTraces prints the verdicts.
func showTraces(out io.Writer, traces []traceView, output string) error {
	if output == "json" {
		return printJSON(out, traces)
	}
	c := colorsOf(out)
	for _, v := range traces {
		verdict := c.green + "allowed" + c.plain
		if !v.Allowed {
			verdict = c.red + "denied" + c.plain
		}
		if _, err := fmt.Fprintf(out, "%s from %s to %s port %d: %s\n  egress   %s\n  ingress  %s\n", v.Protocol, v.From, v.To, v.Port, verdict, v.Egress, v.Ingress); err != nil {
			return err
		}
	}
	return nil
}

// showPolicyDiff prints the changes.
func showPolicyDiff(out io.Writer, v diffView, output string) error {
	if output == "json" {
		return printJSON(out, v)
	}
	for _, pod := range v.Pods {
		fmt.Fprintf(out, "%s\n  %s\n", strings.TrimSpace(pod.Pod+" "+pod.Interface), strings.Join(pod.Changes, "\n  "))
	}
	if len(v.Pods) == 0 {
		fmt.Fprintln(out, "The traffic of all pods stays the same.")
	}
	showInvalid(out, v.Invalid)
	return nil
}

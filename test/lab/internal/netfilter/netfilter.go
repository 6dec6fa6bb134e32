// Package netfilter loads rules into a network namespace.
//
// It uses iptables with xtables, not nf_tables: Debian's User Mode Linux kernel has no nf_tables for IPv4 and IPv6,
// and every kernel of the lab has xtables. Rules are text in the format of iptables-save(8); each table loads
// atomically.
package netfilter

import (
	"context"
	"fmt"
	"strings"

	"spiderpool.dev/spiderpool/test/lab/internal/netns"
)

// Family is an IP version.
type Family string

// The two families, by the program that loads their rules.
const (
	IPv4 Family = "iptables-legacy"
	IPv6 Family = "ip6tables-legacy"
)

// Families are both families.
var Families = []Family{IPv4, IPv6}

// FamilyOf returns the family of an address; isIPv4 says whether it is an IPv4 address.
func FamilyOf(is4 bool) Family {
	if is4 {
		return IPv4
	}
	return IPv6
}

// Replace loads the tables in the text and replaces their contents.
func Replace(ctx context.Context, namespace string, family Family, rules string) error {
	_, err := netns.Run(ctx, namespace, rules, string(family)+"-restore", "--wait")
	return err
}

// Clear removes all rules and custom chains.
func Clear(ctx context.Context, namespace string, family Family) error {
	saved, err := netns.Run(ctx, namespace, "", string(family)+"-save")
	if err != nil {
		return err
	}
	return Replace(ctx, namespace, family, emptyText(saved))
}

// emptyText returns the input for iptables-restore that empties the tables in the output of iptables-save.
func emptyText(saved string) string {
	var text strings.Builder
	for line := range strings.Lines(saved) {
		if strings.HasPrefix(line, "*") {
			text.WriteString(line + "COMMIT\n")
		}
	}
	return text.String()
}

// Jump is a rule in a built-in chain that jumps to a custom chain.
type Jump struct{ From, To string }

// ReplaceChains loads rules ("-A CHAIN ...", one per line) into the target chains of the jumps and replaces their
// contents. It appends missing jumps to their built-in chains. Other chains of the table stay unchanged.
func ReplaceChains(ctx context.Context, namespace string, family Family, table, rules string, jumps ...Jump) error {
	saved, err := netns.Run(ctx, namespace, "", string(family)+"-save", "-t", table)
	if err != nil {
		return err
	}
	_, err = netns.Run(ctx, namespace, chainsText(table, rules, saved, jumps), string(family)+"-restore", "--wait", "--noflush")
	return err
}

// chainsText returns the input for iptables-restore. saved is the table's current output of iptables-save.
func chainsText(table, rules, saved string, jumps []Jump) string {
	var text strings.Builder
	fmt.Fprintf(&text, "*%s\n", table)
	for _, jump := range jumps {
		fmt.Fprintf(&text, ":%s - [0:0]\n", jump.To)
	}
	text.WriteString(rules)
	for _, jump := range jumps {
		rule := fmt.Sprintf("-A %s -j %s\n", jump.From, jump.To)
		if !strings.Contains(saved, rule) {
			text.WriteString(rule)
		}
	}
	text.WriteString("COMMIT\n")
	return text.String()
}

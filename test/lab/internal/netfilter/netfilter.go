// Package netfilter loads rules into a network namespace.
//
// It uses the iptables of xtables, not nf_tables: the kernel of User Mode Linux, as Debian builds it, has no nf_tables
// for IPv4 and IPv6, and every kernel that the lab runs on has xtables. Rules are text in the format of
// iptables-save(8), loaded atomically a table.
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

// Families is both.
var Families = []Family{IPv4, IPv6}

// FamilyOf returns the family of an address, given whether it is an IPv4 one.
func FamilyOf(is4 bool) Family {
	if is4 {
		return IPv4
	}
	return IPv6
}

// Replace loads the tables that the text names, in place of all that they held.
func Replace(ctx context.Context, namespace string, family Family, rules string) error {
	_, err := netns.Run(ctx, namespace, rules, string(family)+"-restore", "--wait")
	return err
}

// Jump is a rule of a built-in chain that leads to a chain of one's own.
type Jump struct{ From, To string }

// ReplaceChains loads rules ("-A CHAIN ...", one a line) into the chains that the jumps lead to, in place of all that
// these held, and adds the jumps that are not there to the end of their built-in chains. Other chains of the table stay
// as they are.
func ReplaceChains(ctx context.Context, namespace string, family Family, table, rules string, jumps ...Jump) error {
	saved, err := netns.Run(ctx, namespace, "", string(family)+"-save", "-t", table)
	if err != nil {
		return err
	}
	_, err = netns.Run(ctx, namespace, chainsText(table, rules, saved, jumps), string(family)+"-restore", "--wait", "--noflush")
	return err
}

// chainsText is the input of iptables-restore, given what iptables-save says of the table now.
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

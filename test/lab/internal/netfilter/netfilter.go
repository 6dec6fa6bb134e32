// Package netfilter loads rules into a network namespace.
//
// It uses the iptables of xtables, not nf_tables: the kernel of User Mode Linux, as Debian builds it, has no nf_tables
// for IPv4 and IPv6, and every kernel that the lab runs on has xtables. Rules are text in the format of
// iptables-save(8), loaded atomically a table.
package netfilter

import (
	"context"

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

// ReplaceChains loads the chains that the text declares, in place of all that they held, and keeps the others.
func ReplaceChains(ctx context.Context, namespace string, family Family, rules string) error {
	_, err := netns.Run(ctx, namespace, rules, string(family)+"-restore", "--wait", "--noflush")
	return err
}

// EnsureJump appends to a built-in chain a jump to another, unless it is there.
func EnsureJump(ctx context.Context, namespace string, family Family, table, from, to string) error {
	rule := []string{from, "-j", to}
	if _, err := netns.Run(ctx, namespace, "", command(family, table, "-C", rule)...); err == nil {
		return nil
	}
	_, err := netns.Run(ctx, namespace, "", command(family, table, "-A", rule)...)
	return err
}

func command(family Family, table, verb string, rule []string) []string {
	return append([]string{string(family), "--wait", "-t", table, verb}, rule...)
}

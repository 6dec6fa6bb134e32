// Package netplan plans the networking state of a pod and of its node, as values.
//
// An Item is one fact: a link, an address, a route, a rule, a neighbor, a sysctl,
// the marking of replies, masquerading, the limit of an interface's bandwidth, or the
// guard of its addresses. A State is a set of items. It has a stable text form, one item
// per line, in the words of iproute2:
//
//	route 10.0.0.0/8 via 172.31.16.2 dev net1 table 101 proto 83
//
// NodeState, Underlay and Overlay plan states from facts. Diff compares a wanted
// state with the actual one and orders the changes so that it makes before it
// breaks. Each Change has an inverse, to undo a plan that fails half-way.
//
// Nothing here reads or writes the kernel: package linux does. The same code plans
// IPv4 and IPv6.
package netplan

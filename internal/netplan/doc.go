// Package netplan says what the kernel's networking state of a pod or of a node
// should be, as values.
//
// An Item is one fact: a link, an address, a route, a rule, a neighbor, a sysctl
// or the masquerading of a group of links. A State is a set of items with a
// stable text form, one item a line, in the words of iproute2; Parse reads it
// back. Node, Underlay and Overlay plan states from facts; Diff compares a
// wanted state with one that was read and gives the changes in an order that
// makes before it breaks; each Change has an inverse, so that a plan that failed
// half-way can be taken back.
//
// Nothing here reads or writes the kernel: package linux does. IPv4 and IPv6 are
// planned by the same code.
package netplan

// Package packetfilter enforces the sets of package policy with nftables: a Filter in the network namespace of a pod, and
// a Node in that of the node for the packets that the node forwards.
//
// Each isolated direction of an interface is a side, with a chain of its own. A packet passes a side if the first of
// these holds:
//
//   - it belongs to an established connection, or is an ICMP error about one;
//   - it belongs to neighbor discovery or multicast listener discovery, which IPv6 needs to work at all;
//   - its peer always passes: an address of the pod or of its node;
//   - its peer may use any protocol;
//   - the segment of its protocol and port has its peer.
//
// These are at most a dozen lookups, whatever the number of rules. A changed policy applies to new connections.
//
// # Places
//
// The table of the family inet in the pod judges packets between the IP stack and the interfaces by name. The pair to the
// node, veth0, is left out, because a packet there may carry the address of a service. The table on the node judges these
// packets behind the translation and before a masquerade. Packets of the node itself do not pass the hook, or pass as
// those of a node address. The table of the family netdev in the pod judges the frames of packet sockets; see frames. It also
// drops the datagrams that the rules of the stack mark, because that is no error for their sender; see silence.
//
// # No gaps
//
// A transaction of nftables replaces all rules of a chain at once: a packet sees the former or the next ones. Sets are not
// that good. A look-up sees the elements of the present generation, while its packet may be in rules of the former one. And
// a tree, which has ranges or ports, shows its new elements a moment behind its transaction (seen on Linux 6.18.44), and may
// miss an element while its neighbors change. So a change has up to three transactions. The first one adds elements to hash
// tables, and new trees and chains under new names. The second one switches rules to them. When no packet is in the former
// rules any more, the third one deletes. Meanwhile a packet passes if the former or the next peers of its port allow it.
//
// # Ownership
//
// Each process makes tables of its own, with random names, and then removes those of former processes. While both exist, a
// packet has to pass both. The kernel refuses changes of a table by others while its maker lives (flag owner, Linux 5.12),
// and keeps the table after its end (flag persist, Linux 6.9). Between two agents, root in the pod can change or delete the
// table; the next agent trusts nothing of it. On a kernel without both flags, root in the pod can do so at any time.
package packetfilter

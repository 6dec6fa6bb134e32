package packetfilter

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux"
)

// Node enforces the policies of pods for packets that their node forwards through their pairs, e.g. to backends of
// services. Its methods may be called concurrently.
type Node struct {
	socket *socket

	mu    sync.Mutex
	pairs table
	sides map[string][]side // by pair
}

// OpenNode prepares for the table in the namespace of the node. The table of an earlier process works until Adopted.
func OpenNode(ns *linux.Namespace) (*Node, error) {
	s, err := openSocket(ns)
	if err != nil {
		return nil, err
	}
	return &Node{socket: s, pairs: table{socket: s, layer: onNode{}, partial: true}, sides: map[string][]side{}}, nil
}

// Close leaves the rules as they are.
func (n *Node) Close() error { return n.socket.close() }

// Set makes the wanted packets of a pod pass, and no others. pair is the node's end of the pod's pair, e.g.
// "spv0123456789ab". A pod without interfaces in w is open. After an error, the rules are the former or the
// wanted ones, and the next Set repeats the change.
func (n *Node) Set(pair string, w Wanted) error {
	var sides []side
	for i := range w.Interfaces {
		it := &w.Interfaces[i]
		for _, s := range sidesOf(pair, it) {
			for _, a := range it.Addrs {
				s.entries = append(s.entries, entry{nodeMap(s.direction, inet.FamilyOf(a)), interfaceKey(pair) + string(a.AsSlice())})
			}
			sides = append(sides, s)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	former := n.sides[pair]
	n.sides[pair] = sides
	if len(sides) == 0 {
		delete(n.sides, pair)
	}
	if err := n.pairs.apply(pair, sides, n.all); err != nil {
		n.sides[pair] = former
		return fmt.Errorf("set the rules for the pair %s: %w", pair, err)
	}
	return nil
}

// all returns the sides of all pairs.
func (n *Node) all() (all []side) {
	for _, pair := range slices.Sorted(maps.Keys(n.sides)) {
		all = append(all, n.sides[pair]...)
	}
	return all
}

// Adopted removes the tables of former processes, when Set knows all pods.
func (n *Node) Adopted() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pairs.partial, n.pairs.swept = false, false
	if err := n.pairs.sweepOthers(); err != nil {
		return fmt.Errorf("remove the rules of a former agent: %w", err)
	}
	return nil
}

// Drops returns the dropped packets by pair, interface and direction.
func (n *Node) Drops() ([]Drops, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	all, err := n.pairs.drops()
	if err != nil {
		return nil, fmt.Errorf("read the counters of dropped packets: %w", err)
	}
	return all, nil
}

package enforcer

import (
	"fmt"
	"sync"

	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
)

// pairs is the filter of the node. It opens when the first pod needs it.
type pairs struct {
	open  func() (NodeFilter, error)
	clear func() error

	mu struct {
		sync.Mutex
		filter NodeFilter
		// set are the pairs with a filter.
		set     map[string]bool
		adopted bool
	}
}

// set sets what the node may forward from and to a pod; the zero value is everything.
func (n *pairs) set(pair string, wanted packetfilter.Wanted) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	isOpen := len(wanted.Interfaces) == 0
	if isOpen && !n.mu.set[pair] {
		return nil
	}
	if err := n.ensure(); err != nil {
		return err
	}
	if err := n.mu.filter.Set(pair, wanted); err != nil {
		return fmt.Errorf("packet filter of the node: %w", err)
	}
	if isOpen {
		delete(n.mu.set, pair)
		return nil
	}
	n.mu.set[pair] = true
	return nil
}

// ensure opens the filter. n.mu is locked.
func (n *pairs) ensure() error {
	if n.mu.filter != nil {
		return nil
	}
	filter, err := n.open()
	if err != nil {
		return fmt.Errorf("open the packet filter of the node: %w", err)
	}
	n.mu.filter, n.mu.set = filter, map[string]bool{}
	return nil
}

// adopted removes the filters of former agents, once.
func (n *pairs) adopted() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.adopted {
		return nil
	}
	err := error(nil)
	if n.mu.filter == nil {
		err = n.clear()
	} else {
		err = n.mu.filter.Adopted()
	}
	n.mu.adopted = err == nil
	return err
}

// drops returns the dropped packets of the pairs.
func (n *pairs) drops() ([]packetfilter.Drops, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.filter == nil {
		return nil, nil
	}
	return n.mu.filter.Drops()
}

func (n *pairs) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.filter == nil {
		return nil
	}
	filter := n.mu.filter
	n.mu.filter = nil
	return filter.Close()
}

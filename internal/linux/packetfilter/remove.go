package packetfilter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"spiderpool.dev/spiderpool/internal/linux"
)

// Remove removes all filters in a namespace, also those of former agents, and returns their number. If another process
// has one, the error is unix.EPERM.
func Remove(ns *linux.Namespace) (removed int, err error) { return ns.RemoveTables(tablePrefix) }

// RemoveAll is Remove for the node and for each namespace below dir, e.g. "/run/netns". A failure does not stop the others.
func RemoveAll(node *linux.Namespace, dir string) (removed int, err error) {
	removed, err = Remove(node)
	errs := []error{err}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		ns, err := linux.Open(path)
		if errors.Is(err, linux.ErrNoNamespace) {
			continue // another file, or the pod is gone
		}
		if err == nil {
			var some int
			some, err = Remove(ns)
			removed += some
			ns.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove the packet filter in %s: %w", path, err))
		}
	}
	return removed, errors.Join(errs...)
}

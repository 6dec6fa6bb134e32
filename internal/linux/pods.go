package linux

import (
	"errors"
	"os"
	"path/filepath"

	"spiderpool.dev/spiderpool/internal/netplan"
)

// EachPod calls f with each network namespace below dir, where a container runtime mounts
// those of pods, e.g. "/run/netns", and with its state. It leaves out n itself, other
// files, and namespaces that are gone. failed receives the error of one namespace; the
// result is the error of reading dir. A missing dir has no namespaces.
func (n *Namespace) EachPod(dir string, f func(path string, pod *Namespace, st netplan.State) error, failed func(path string, err error)) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if err := n.InPod(path, f); err != nil {
			failed(path, err)
		}
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// InPod calls f with the network namespace at a path and with its state, unless it is n itself, another file, or gone.
func (n *Namespace) InPod(path string, f func(path string, pod *Namespace, st netplan.State) error) error {
	pod, err := Open(path)
	if errors.Is(err, ErrNoNamespace) {
		return nil // another file, or the pod is gone
	}
	if err != nil {
		return err
	}
	defer pod.Close()
	if pod.Same(n) {
		return nil
	}
	st, err := pod.ReadAll()
	if err != nil {
		return err
	}
	return f(path, pod, st)
}

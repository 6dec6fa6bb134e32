package cniinstall

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
)

// multusPlugins are the plugins that the image of Multus installs.
var multusPlugins = []string{"multus", "passthru"}

// Removal takes an installation off one node.
type Removal struct {
	// ConfDir and BinDir are the node's directories of CNI configurations and plugins
	// as mounted here.
	ConfDir, BinDir string
	// Source is the directory with our plugins in the image. Only their names matter.
	Source string
	// Programs are the directories with pinned eBPF programs, as mounted here.
	Programs []string
	// PodNamespaces is the directory with the pods' network namespaces, as mounted here, e.g. "/run/netns"; empty to
	// leave packet filters alone.
	PodNamespaces string
	// Multus removes the configuration of Multus and its plugins.
	Multus bool
	// KeepNetwork keeps the network state of the node and our plugins, because pods use
	// them.
	KeepNetwork bool
}

// Run removes the configuration of Multus first, so that the runtime uses the node's
// next CNI configuration from then on, and then the rest. A failed part does not stop
// the others. A second run removes whatever the first one left.
//
// It keeps plugins that another CNI configuration of the node names, and all other
// files: the logs, and the state directory with releases that a later agent commits.
func (r Removal) Run(log *slog.Logger) error {
	var errs []error
	if r.Multus {
		errs = append(errs, r.removeMultus(log))
	}
	// Without an agent, their entries grow old. kube-proxy translates for running pods, too.
	errs = append(errs, detachPrograms(log, r.Programs))
	host, err := linux.Current()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer host.Close()
	errs = append(errs, r.removePolicies(log, host))
	if r.KeepNetwork {
		log.Info("kept the network state and the plugins for running pods")
		return errors.Join(errs...)
	}
	errs = append(errs, removeNetwork(log, host), r.removePlugins(log))
	return errors.Join(errs...)
}

// detachPrograms removes the directories that keep eBPF programs attached. The kernel detaches a program with its last
// reference, so kube-proxy translates instead of those of services.
func detachPrograms(log *slog.Logger, directories []string) error {
	var errs []error
	for _, directory := range directories {
		if _, err := os.Lstat(directory); err != nil {
			errs = append(errs, ignoreMissing(err))
			continue
		}
		if err := os.RemoveAll(directory); err != nil {
			errs = append(errs, fmt.Errorf("detach the eBPF programs in %s: %w", directory, err))
			continue
		}
		log.Info("detached eBPF programs", "path", directory)
	}
	return errors.Join(errs...)
}

// removePolicies removes the packet filters of the node and of running pods. Without an agent, they would not follow the
// policies any more.
func (r Removal) removePolicies(log *slog.Logger, host *linux.Namespace) error {
	if r.PodNamespaces == "" {
		return nil
	}
	removed, err := packetfilter.RemoveAll(host, r.PodNamespaces)
	if removed > 0 {
		log.Info("removed packet filters", "count", removed)
	}
	return err
}

func (r Removal) removeMultus(log *slog.Logger) error {
	conf := filepath.Join(r.ConfDir, multusConf)
	present, err := readCNIConf(conf)
	switch {
	case err == nil && !present.isMultus():
		log.Warn("kept a file without Multus", "path", conf)
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		// An unreadable file of this name is ours nevertheless, and it would stop the runtime.
		log.Warn("the configuration of Multus is damaged", "path", conf, "err", err)
	}
	if err := removeFile(log, conf); err != nil {
		return err // the kubeconfig stays with the configuration that names it
	}
	kubeconfig := filepath.Join(r.ConfDir, multusKubeconfig)
	if err := removeFile(log, kubeconfig); err != nil {
		return err
	}
	// Another installer may keep files in the directory.
	_ = os.Remove(filepath.Dir(kubeconfig))
	return r.removeUnused(log, multusPlugins)
}

// removePlugins removes our plugins and the file with their paths.
func (r Removal) removePlugins(log *slog.Logger) error {
	entries, err := os.ReadDir(r.Source)
	if err != nil {
		return fmt.Errorf("read the names of our plugins: %w", err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return r.removeUnused(log, append(names, cniconf.NodeFile))
}

// removeUnused removes files of BinDir, or keeps them all if a CNI configuration of the
// node names one of them.
func (r Removal) removeUnused(log *slog.Logger, names []string) error {
	user, err := r.userOf(names)
	if err != nil {
		return err
	}
	if user != "" {
		log.Warn("kept plugins that a CNI configuration names", "plugins", names, "configuration", user)
		return nil
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, removeFile(log, filepath.Join(r.BinDir, name)))
	}
	return errors.Join(errs...)
}

// userOf returns a CNI configuration that contains one of the names as a JSON string, or "".
func (r Removal) userOf(names []string) (string, error) {
	entries, err := os.ReadDir(r.ConfDir)
	if err != nil {
		return "", ignoreMissing(err)
	}
	for _, entry := range entries {
		if entry.IsDir() || !slices.Contains(confExtensions, filepath.Ext(entry.Name())) {
			continue
		}
		path := filepath.Join(r.ConfDir, entry.Name())
		content, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read CNI configuration %s: %w", path, err)
		}
		if slices.ContainsFunc(names, func(name string) bool { return bytes.Contains(content, []byte(`"`+name+`"`)) }) {
			return path, nil
		}
	}
	return "", nil
}

func removeFile(log *slog.Logger, path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	log.Info("removed a file", "path", path)
	return nil
}

// removeNetwork removes our network state from the node, the interfaces last: pods'
// traffic may use them.
func removeNetwork(log *slog.Logger, host *linux.Namespace) error {
	left, err := host.NodeLeftovers()
	if err != nil {
		return err
	}
	if err := host.Delete(left); err != nil {
		return err
	}
	for _, item := range left {
		log.Info("removed network state", "item", item.String())
	}
	removed, kept, err := host.RemoveMasters()
	if len(removed) > 0 {
		log.Info("removed interfaces", "names", removed)
	}
	if len(kept) > 0 {
		log.Warn("kept interfaces that are in use", "names", kept)
	}
	return err
}

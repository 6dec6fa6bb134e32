package cniinstall

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"spiderpool.dev/spiderpool/internal/cniconf"
)

// InstallPlugins copies every file of the directory source, as an executable, to the
// directory target, which it creates if necessary. Other files in target stay.
func InstallPlugins(log *slog.Logger, source, target string) error {
	entries, err := os.ReadDir(source)
	if err != nil {
		return fmt.Errorf("read the plugins to install: %w", err)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("create the directory of CNI plugins: %w", err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(source, entry.Name()))
		if err != nil {
			return fmt.Errorf("read a plugin to install: %w", err)
		}
		path := filepath.Join(target, entry.Name())
		written, err := writeFile(path, content, 0o755)
		if err != nil {
			return fmt.Errorf("install plugin %s: %w", path, err)
		}
		log.Info("installed a plugin", "path", path, "written", written)
	}
	return nil
}

// writeNode writes the paths of the installation for the plugins, before the plugins
// themselves, because the runtime may start a new plugin at once. Without any path, it
// writes nothing. An empty path has its default.
func writeNode(log *slog.Logger, target string, node cniconf.Node) error {
	if node == (cniconf.Node{}) {
		return nil
	}
	fallback := cniconf.DefaultNode()
	content := append(cniconf.Marshal(cniconf.Node{
		Socket: cmp.Or(node.Socket, fallback.Socket), StateDir: cmp.Or(node.StateDir, fallback.StateDir), LogDir: cmp.Or(node.LogDir, fallback.LogDir),
	}), '\n')
	if _, err := cniconf.ParseNode(content); err != nil {
		return fmt.Errorf("paths for the CNI plugins: %w", err)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("create the directory of CNI plugins: %w", err)
	}
	path := filepath.Join(target, cniconf.NodeFile)
	written, err := writeFile(path, content, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	log.Info("wrote the paths of the installation", "path", path, "written", written)
	return nil
}

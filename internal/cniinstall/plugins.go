package cniinstall

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// InstallPlugins copies every file of the directory source, all of which are
// executables, into the node's directory of CNI plugins, which is made when it
// does not exist. Other files there are left alone.
func InstallPlugins(log *slog.Logger, source, target string) error {
	entries, err := os.ReadDir(source)
	if err != nil {
		return fmt.Errorf("plugins to install: %w", err)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("directory of CNI plugins: %w", err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(source, entry.Name()))
		if err != nil {
			return fmt.Errorf("plugin to install: %w", err)
		}
		path := filepath.Join(target, entry.Name())
		written, err := writeFile(path, content, 0o755)
		if err != nil {
			return fmt.Errorf("install plugin %s: %w", path, err)
		}
		log.Info("plugin is installed", "path", path, "written", written)
	}
	return nil
}

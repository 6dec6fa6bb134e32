package cniinstall

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
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

package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Root returns the root of the repository around the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "charts", "spiderpool")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("run this inside the repository: neither this directory nor any above it has charts/spiderpool")
		}
		dir = parent
	}
}

// BuildPrograms builds the programs of a definition into bin.
func BuildPrograms(ctx context.Context, root, bin string, d *Definition) error {
	for _, line := range d.Build {
		module, pkg, ok := strings.Cut(line, " ")
		if !ok {
			return fmt.Errorf("plugin %s: build: %q: want MODULE PACKAGE", d.Name, line)
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-tags=grpcnotrace", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(bin, filepath.Base(pkg)), pkg)
		cmd.Dir = filepath.Join(root, module)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("build %s in %s: %w\n%s", pkg, module, err, out.String())
		}
	}
	return nil
}

// Assets returns the directory of etcd and kube-apiserver: the given one, else
// KUBEBUILDER_ASSETS, else the lab's.
func Assets(ctx context.Context, root, named string) (string, error) {
	dir := named
	if dir == "" {
		dir = os.Getenv("KUBEBUILDER_ASSETS")
	}
	if dir == "" {
		lab := filepath.Join(root, "bin", "lab")
		out, err := exec.CommandContext(ctx, lab, "env", "--dir").Output()
		if err != nil {
			return "", fmt.Errorf("etcd and kube-apiserver are needed: run make lab-tools, or name their directory with --assets or KUBEBUILDER_ASSETS (%s env --dir: %w)", lab, err)
		}
		dir = strings.TrimSpace(string(out))
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for _, program := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return "", fmt.Errorf("no %s in %s: %w", program, dir, err)
		}
	}
	return dir, nil
}

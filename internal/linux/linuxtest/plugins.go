package linuxtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// Plugins is a directory of CNI plugins: $CNI_PLUGINS if set, e.g. on a guest without
// a compiler, or else a temporary one, built on first use.
type Plugins struct {
	// Root is the repository's root, seen from the test.
	Root string
	// Lab are packages in the lab's module of plugins, Own are packages in ours.
	Lab, Own []string

	once  sync.Once
	built string // the temporary directory, "" before the first use
	err   error
}

// Dir returns the directory.
func (p *Plugins) Dir() (string, error) {
	if dir := os.Getenv("CNI_PLUGINS"); dir != "" {
		return dir, nil
	}
	p.once.Do(func() { p.err = p.build() })
	return p.built, p.err
}

func (p *Plugins) build() (err error) {
	if p.built, err = os.MkdirTemp("", "cni-plugins"); err != nil {
		return err
	}
	return errors.Join(p.buildIn(filepath.Join(p.Root, "test/lab/modules/plugins"), p.Lab), p.buildIn(p.Root, p.Own))
}

func (p *Plugins) buildIn(module string, packages []string) error {
	if len(packages) == 0 {
		return nil
	}
	cmd := exec.Command("go", append([]string{"-C", module, "build", "-o", p.built + "/"}, packages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// Remove removes the temporary directory.
func (p *Plugins) Remove() error {
	if p.built == "" {
		return nil
	}
	return os.RemoveAll(p.built)
}

package sim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Preparation describes the work before a program isolates itself.
type Preparation struct {
	// Prefix begins the name of a new state directory. The directory is created in Dir,
	// or in the directory for temporary files.
	Prefix, Dir string
	// Bin is the directory of the programs; if empty, Prepare builds the definitions' programs.
	Bin         string
	Root        string
	Definitions []*Definition
}

// Environment variables that survive the restart by Isolate.
const (
	dirVariable = "SPIDERPOOL_SIM_DIR"
	binVariable = "SPIDERPOOL_SIM_BIN"
)

// Prepare creates the state directory, builds the programs, reports the build times on
// standard error, and isolates the program, which restarts it. It returns only in the
// restarted program, with the directories of the state and of the programs. The caller
// must remove the state directory.
func Prepare(ctx context.Context, p Preparation) (dir, bin string, err error) {
	if Isolated() {
		return os.Getenv(dirVariable), os.Getenv(binVariable), Isolate()
	}
	if p.Dir != "" {
		if err := os.MkdirAll(p.Dir, 0o755); err != nil {
			return "", "", err
		}
	}
	if dir, err = os.MkdirTemp(p.Dir, p.Prefix); err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }() // runs only if there was no restart
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	if bin, err = p.build(ctx, dir); err != nil {
		return "", "", err
	}
	for name, value := range map[string]string{dirVariable: dir, binVariable: bin} {
		if err := os.Setenv(name, value); err != nil {
			return "", "", err
		}
	}
	return "", "", Isolate()
}

func (p Preparation) build(ctx context.Context, dir string) (string, error) {
	if p.Bin != "" {
		return filepath.Abs(p.Bin)
	}
	bin := filepath.Join(dir, "bin")
	for _, d := range p.Definitions {
		began := time.Now()
		fmt.Fprintf(os.Stderr, "build %s … ", d.Name)
		if err := BuildPrograms(ctx, p.Root, bin, d); err != nil {
			return "", err
		}
		fmt.Fprintf(os.Stderr, "%s\n", time.Since(began).Round(100*time.Millisecond))
	}
	return bin, nil
}

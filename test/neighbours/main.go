// Command neighbours runs the agent and the IPAM plugin of two releases together, in
// every combination, through an upgrade of the agent and back, against a real
// kube-apiserver. The custom resource definitions are those of the newer release, as
// after the hook of an upgrade.
//
// The release before is a commit (--ref), built in a worktree of its own. The other
// release is the checkout.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"spiderpool.dev/spiderpool/test/sim"
)

// Names of the two releases: also the directories of their programs.
const (
	before = "before"
	now    = "now"
)

func main() {
	ref := flag.String("ref", "", "commit of the release before (required)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *ref); err != nil {
		fmt.Fprintln(os.Stderr, "neighbours:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, ref string) (err error) {
	root, err := sim.Root()
	if err != nil {
		return err
	}
	assets, err := sim.Assets(ctx, root, "")
	if err != nil {
		return err
	}
	var base string
	if !sim.Isolated() {
		if base, err = build(ctx, root, ref); err != nil {
			return errors.Join(err, os.RemoveAll(base))
		}
	}
	// Prepare restarts this program in its own network namespace, and then returns.
	dir, bin, err := sim.Prepare(ctx, sim.Preparation{Prefix: "s", Dir: base, Bin: filepath.Join(base, now), Root: root})
	if err != nil {
		return errors.Join(err, os.RemoveAll(base))
	}
	base = filepath.Dir(bin)
	w, err := newWalk(base, dir, root, assets)
	if err != nil {
		return err
	}
	if err := w.run(ctx); err != nil {
		return fmt.Errorf("%w (logs in %s)", err, base)
	}
	fmt.Println("agent and plugin of", ref, "and of this checkout work together")
	return os.RemoveAll(base)
}

// build builds the programs of both releases into a new directory, and copies their
// definitions there.
func build(ctx context.Context, root, ref string) (base string, err error) {
	if ref == "" {
		return "", errors.New("--ref is empty: name the commit of the release before, e.g. v0.1.0")
	}
	if base, err = os.MkdirTemp("", "nb"); err != nil {
		return "", err
	}
	tree := filepath.Join(base, "tree")
	if err := git(ctx, root, "worktree", "add", "--detach", "--quiet", tree, ref); err != nil {
		return base, err
	}
	defer func() { err = errors.Join(err, git(ctx, root, "worktree", "remove", "--force", tree)) }()
	for release, source := range map[string]string{before: tree, now: root} {
		text, err := os.ReadFile(filepath.Join(source, "test/sim/plugins/spiderpool.yaml"))
		if err != nil {
			return base, fmt.Errorf("%s has no definition of its processes: %w", ref, err)
		}
		if err := os.WriteFile(definitionFile(base, release), text, 0o644); err != nil {
			return base, err
		}
		d, err := sim.LoadDefinition(definitionFile(base, release))
		if err != nil {
			return base, err
		}
		if err := sim.BuildPrograms(ctx, source, filepath.Join(base, release), d); err != nil {
			return base, err
		}
	}
	return base, nil
}

func definitionFile(base, release string) string { return filepath.Join(base, release+".yaml") }

func git(ctx context.Context, root string, args ...string) error {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return nil
}

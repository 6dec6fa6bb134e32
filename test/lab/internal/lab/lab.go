// Package lab starts and stops a lab on this machine. Up builds the lab's programs,
// starts the machine (a tree of processes in namespaces of their own), and has it
// start the network and the cluster.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/build"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
	"spiderpool.dev/spiderpool/test/lab/internal/state"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// Options are the user's choices.
type Options struct {
	Topology      string
	Nodes         int // 0 means all nodes of the topology
	Kernel        string
	KubeProxyMode string
}

// The values of Options.Kernel.
const (
	// KernelAuto is this machine's kernel if it fits the topology, else User Mode Linux.
	KernelAuto = "auto"
	// KernelHost is this machine's kernel.
	KernelHost = "host"
	// KernelUML is User Mode Linux.
	KernelUML = "uml"
)

// Lab is a lab, running or not.
type Lab struct {
	Dir   state.Dir
	Cache build.Cache
	// Out receives the progress for the user.
	Out io.Writer
}

// Built has the directories made by Build.
type Built struct {
	Programs string
	Plugins  string
	Archives []string
	// Suite has Kubernetes' conformance tests and their images. It is empty without
	// Parts.Conformance.
	Suite string
}

// Parts are the optional parts of Build.
type Parts struct {
	// Guest is the guest kernel.
	Guest bool
	// Conformance is Kubernetes' conformance tests.
	Conformance bool
}

// Build builds everything missing from the cache, including the requested
// parts.
func (l Lab) Build(ctx context.Context, parts Parts) (Built, error) {
	var built Built
	if runtime.GOARCH != "amd64" {
		return built, fmt.Errorf("the lab runs on amd64 only, not on %s", runtime.GOARCH)
	}
	source, err := build.Source()
	if err != nil {
		return built, err
	}
	unlock, err := l.Cache.Lock()
	if err != nil {
		return built, err
	}
	defer unlock()
	log, err := os.OpenFile(filepath.Join(string(l.Cache), "build.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return built, err
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(ctx)
	beside := &sync.WaitGroup{}
	defer beside.Wait()
	defer cancel()
	if err := action.Report(ctx, l.Out, l.buildActions(source, parts, log, &built, beside)); err != nil {
		return built, fmt.Errorf("%w (see %s)", err, log.Name())
	}
	return built, nil
}

// buildActions builds the guest kernel in parallel with the modules. The kernel
// build spends time on unpacking, the modules on linking; together they keep two
// processors busy.
func (l Lab) buildActions(source string, parts Parts, log io.Writer, built *Built, beside *sync.WaitGroup) []action.Action {
	outputs := map[string]string{}
	var modules []string
	actions := []action.Action{{Name: "Debian packages", Do: func(ctx context.Context) error { return l.installPackages(ctx, parts, log) }}}
	var kernel string
	kernelDone := make(chan error, 1)
	if parts.Guest {
		actions = append(actions, action.Action{Name: "guest kernel: start building", Do: func(ctx context.Context) error {
			beside.Go(func() {
				var err error
				kernel, err = l.Cache.Kernel(ctx, filepath.Join(filepath.Dir(source), "kernel"), log, l.Out)
				kernelDone <- err
			})
			return nil
		}})
	}
	wanted := slices.Clone(build.Modules)
	if parts.Conformance {
		wanted = append(wanted, build.Conformance)
	}
	for _, m := range wanted {
		actions = append(actions, action.Action{Name: "build " + m.Name, Do: func(ctx context.Context) error {
			out, err := l.Cache.Module(ctx, source, m, log, l.Out)
			if err != nil {
				return err
			}
			outputs[m.Name] = out
			if m.Name != "plugins" && m.Name != build.Conformance.Name {
				modules = append(modules, out)
			}
			return nil
		}})
	}
	if parts.Guest {
		actions = append(actions, action.Action{Name: "guest kernel: finish building", Do: func(context.Context) error {
			err := <-kernelDone // receives when ctx ends, at the latest
			modules = append(modules, kernel)
			return err
		}})
	}
	return append(actions, action.Action{Name: "container images", Do: func(ctx context.Context) (err error) {
		if built.Archives, err = l.Cache.Images(ctx, outputs, log); err != nil {
			return err
		}
		if parts.Conformance {
			if built.Suite, err = l.Cache.Suite(ctx, outputs, log); err != nil {
				return err
			}
		}
		built.Plugins = outputs["plugins"]
		built.Programs, err = l.Cache.Programs(modules...)
		return err
	}})
}

// installPackages installs the missing Debian packages of the parts.
func (l Lab) installPackages(ctx context.Context, parts Parts, log io.Writer) error {
	packages := slices.Clone(build.HostPackages)
	if parts.Guest {
		packages = append(packages, build.KernelPackages...)
	}
	if parts.Conformance {
		packages = append(packages, build.ConformancePackages...)
	}
	missing, err := build.MissingPackages(ctx, packages)
	if err != nil || len(missing) == 0 {
		return err
	}
	fmt.Fprintf(l.Out, "           installing %s\n", strings.Join(missing, " "))
	return build.InstallPackages(ctx, missing, log)
}

// Up starts the lab. It first removes the remains of an interrupted Up. If a lab
// is already up with the same options, Up does nothing; other options are an error.
func (l Lab) Up(ctx context.Context, options Options) error {
	start := time.Now()
	t, err := load(options)
	if err != nil {
		return err
	}
	options.Nodes = len(t.Nodes)
	if options.Kernel, err = chooseKernel(options.Kernel, t); err != nil {
		return err
	}
	done, err := l.already(ctx, options)
	if err != nil || done {
		return err
	}
	fmt.Fprintf(l.Out, "Building the lab's programs (cache: %s)\n", l.Cache)
	built, err := l.Build(ctx, Parts{Guest: options.Kernel == KernelUML})
	if err != nil {
		return err
	}
	ready := time.Now()
	fmt.Fprintf(l.Out, "Starting the lab: topology %s, %d nodes, on %s\n", options.Topology, options.Nodes, kernelNames[options.Kernel])
	if err := l.start(ctx, options, built); err != nil {
		return fmt.Errorf("%w\nthe logs are in %s; `lab down` removes this lab, `lab up` starts over", err, l.Dir.Logs())
	}
	l.summarize(ready.Sub(start), time.Since(ready), t)
	return nil
}

var kernelNames = map[string]string{KernelHost: "this machine's kernel", KernelUML: "User Mode Linux"}

func load(options Options) (*topology.Topology, error) {
	t, err := topology.Load(options.Topology)
	if err != nil {
		return nil, err
	}
	if options.Nodes == 0 {
		return t, nil
	}
	return t.WithNodes(options.Nodes)
}

// already reports whether a lab is up with these options. It removes a partly
// started lab.
func (l Lab) already(ctx context.Context, options Options) (bool, error) {
	config, err := l.Dir.Load()
	if errors.Is(err, state.ErrNone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	is := Options{Topology: config.Topology, Nodes: config.Nodes, Kernel: config.Kernel, KubeProxyMode: config.KubeProxyMode}
	if config.Complete && l.alive(config) {
		if is != options {
			return false, fmt.Errorf("a lab is up with other options (%+v, not %+v): stop it first with `lab down`", is, options)
		}
		fmt.Fprintln(l.Out, "The lab is already up.")
		return true, nil
	}
	fmt.Fprintln(l.Out, "Removing the remains of an earlier lab")
	return false, l.Down(ctx)
}

// start starts the machine, then the control plane, network and nodes in it.
func (l Lab) start(ctx context.Context, options Options, built Built) error {
	config := state.Config{
		Topology: options.Topology, Nodes: options.Nodes, Kernel: options.Kernel, KubeProxyMode: options.KubeProxyMode,
		Cache: string(l.Cache), Programs: built.Programs, Plugins: built.Plugins, Archives: built.Archives, Started: time.Now(),
	}
	return action.Report(ctx, l.Out, l.actions(&config))
}

// Down stops the lab and removes everything, even after a failed Up. Without a lab
// it does nothing.
func (l Lab) Down(ctx context.Context) error {
	return action.Undo(ctx, l.actions(&state.Config{}))
}

// actions are the steps on this machine that start a lab.
func (l Lab) actions(config *state.Config) []action.Action {
	client := machine.At(l.Dir.Socket())
	return []action.Action{
		{Name: "directory", Do: l.makeDir, Undo: l.removeDir},
		{Name: "control groups", Do: l.makeGroups, Undo: l.removeGroups},
		{Name: "machine: start", Do: func(ctx context.Context) error { return l.startMachine(ctx, config) }, Undo: l.endMachine},
		// The end of the machine and the removal of the directory undo the rest. The
		// guest boots while the control plane starts.
		{Name: "control plane", Do: func(ctx context.Context) error { return machine.At(l.Dir.ControlSocket()).Up(ctx, l.Out) }},
		{Name: "machine: boot", Do: func(ctx context.Context) error { return l.awaitMachine(ctx, *config) }},
		{Name: "machine: network and nodes", Do: func(ctx context.Context) error { return client.Up(ctx, l.Out) }},
		{Name: "tools", Do: func(context.Context) error {
			config.Complete = true
			return errors.Join(l.writeTools(*config), l.Dir.Save(*config))
		}},
	}
}

func (l Lab) summarize(building, starting time.Duration, t *topology.Topology) {
	fmt.Fprintf(l.Out, `
The lab is up: %.0f s to build its programs, %.0f s to start.
It has no CNI configuration: nodes become Ready once a network is installed.

  eval "$(lab env)"                  use kubectl, helm and ctr from this shell
  kubectl get nodes -o wide
  lab status                         list the daemons and the log directory
  lab exec %s -- ip address      run a command in one of: %s
  lab down                           stop the lab and remove everything

`, building.Seconds(), starting.Seconds(), t.Nodes[0].Name, strings.Join(t.HostNames(), " "))
}

package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/test/sim"
)

// callLimit bounds one call of a plugin.
const callLimit = 20 * time.Second

// walk is one cluster with one node. The node's agent changes its release.
type walk struct {
	options     sim.Options
	base        string
	definitions map[string]*sim.Definition // by release
	agent       string                     // release of the running agent
	cluster     *sim.Cluster
	runtime     *sim.Runtime
	netns       string
	held        map[string]*sandbox // by pod
}

// sandbox is a pod with addresses.
type sandbox struct {
	sim.Attachment
	result []byte
	text   string // the addresses
}

func newWalk(base, dir, root, assets string) (*walk, error) {
	w := &walk{base: base, agent: before, definitions: map[string]*sim.Definition{}, held: map[string]*sandbox{}, options: sim.Options{
		Dir: dir, Root: root, Assets: assets, Nodes: 1,
		Pools: []sim.Pool{
			{Name: "four", Version: 4, Subnet: "10.0.0.0/24", First: "10.0.0.1", Last: "10.0.0.40"},
			{Name: "six", Version: 6, Subnet: "fd00::/64", First: "fd00::1", Last: "fd00::40"},
		},
	}}
	for _, release := range []string{before, now} {
		d, err := sim.LoadDefinition(definitionFile(base, release))
		if err != nil {
			return nil, err
		}
		d.Binary = filepath.Join(base, release, "spiderpool")
		w.definitions[release] = d
	}
	w.definitions[before].CRDs = w.definitions[now].CRDs
	// The plugins find their paths in files of the node, of either release.
	files := map[string]string{}
	for _, d := range w.definitions {
		for name, content := range d.Node[0].Files {
			if name != "agent.yaml" {
				files[name] = content
			}
		}
	}
	for _, d := range w.definitions {
		maps.Copy(d.Node[0].Files, files)
	}
	return w, nil
}

func (w *walk) run(ctx context.Context) (err error) {
	var release func() error
	if w.netns, release, err = sim.PodNetNS(); err != nil {
		return err
	}
	defer release()
	w.use(before)
	if w.cluster, err = sim.Start(ctx, w.options); err != nil {
		return err
	}
	defer w.cluster.Stop()
	var stop func()
	if w.runtime, stop, err = sim.ServeRuntime(w.cluster.Nodes[0].CRISocket); err != nil {
		return err
	}
	defer stop()
	for _, step := range []struct{ command, plugin, pod string }{
		{"ADD", now, "a"}, {"ADD", now, "a"}, {"CHECK", now, "a"}, {"CHECK", before, "a"}, {"DEL", now, "a"}, {"DEL", now, "a"},
		{"ADD", before, "b"},
		{"upgrade", now, ""},
		{"CHECK", before, "b"}, {"CHECK", now, "b"}, {"ADD", before, "b"},
		{"ADD", before, "c"}, {"ADD", before, "c"}, {"CHECK", before, "c"},
		{"DEL", before, "b"}, {"DEL", before, "b"},
		{"ADD", now, "d"},
		{"rollback", before, ""},
		{"CHECK", before, "c"}, {"CHECK", now, "d"}, {"ADD", now, "c"}, {"ADD", before, "d"},
		{"DEL", now, "c"}, {"DEL", before, "d"},
	} {
		if step.pod == "" {
			err = w.replaceAgent(ctx, step.plugin)
			fmt.Printf("%-8s to the agent of the release %s: %s\n", step.command, step.plugin, verdict(err))
		} else {
			err = w.call(ctx, step.command, step.plugin, step.pod)
			fmt.Printf("%-8s pod %s, plugin %-6s, agent %-6s: %s %s\n", step.command, step.pod, step.plugin, w.agent, verdict(err), w.addresses(step.pod))
		}
		if err != nil {
			return fmt.Errorf("%s of pod %q by the plugin of the release %s with the agent of the release %s: %w", step.command, step.pod, step.plugin, w.agent, err)
		}
	}
	return w.nothingHeld(ctx)
}

func verdict(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

// use makes the options start the agent and controller of a release.
func (w *walk) use(release string) {
	w.agent = release
	w.options.Definition = w.definitions[release]
	w.options.Bin = filepath.Join(w.base, release)
}

// replaceAgent ends the agent and starts that of another release in its place.
func (w *walk) replaceAgent(ctx context.Context, release string) error {
	w.use(release)
	return w.cluster.ReplaceNodeProcesses(ctx, w.options, 0)
}

// call runs the plugin of a release for the interface eth0 of a pod.
func (w *walk) call(ctx context.Context, command, release, pod string) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	s := w.held[pod]
	if s == nil {
		created, err := w.cluster.CreatePods(ctx, []*corev1.Pod{sim.NewPod("default", pod, sim.NodeName(0))})
		if err != nil {
			return err
		}
		s = &sandbox{Attachment: sim.Attachment{ContainerID: "container-" + pod, NetNS: w.netns, Interface: "eth0", Namespace: "default", Pod: pod, UID: string(created[0].UID)}}
		w.held[pod] = s
		w.runtime.Add(s.Attachment)
	}
	plugin, err := w.options.PluginOf(w.definitions[release], 0)
	if err != nil {
		return err
	}
	previous := s.result
	if command == "ADD" {
		previous = nil
	}
	out := plugin.Call(ctx, command, s.Attachment, previous)
	if out.Err != nil || command != "ADD" {
		return out.Err
	}
	text := fmt.Sprint(out.Addresses)
	if len(out.Addresses) != 2 || s.text != "" && s.text != text {
		return fmt.Errorf("addresses %s, want one of each IP version, and %q if this ADD repeats another", text, s.text)
	}
	s.result, s.text = out.Result, text
	return nil
}

func (w *walk) addresses(pod string) string {
	if s := w.held[pod]; s != nil {
		return s.text
	}
	return ""
}

// nothingHeld waits until no lease is in use.
func (w *walk) nothingHeld(ctx context.Context) error {
	c, err := client.New(w.cluster.Config(), client.Options{Scheme: scheme.New()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return sim.WaitFor(ctx, "no lease is in use", func(ctx context.Context) error {
		blocks := &v2beta1.SpiderIPBlockList{}
		if err := c.List(ctx, blocks); err != nil {
			return err
		}
		for _, block := range blocks.Items {
			if slices.ContainsFunc(block.Spec.Leases, func(l v2beta1.Lease) bool { return l.State == v2beta1.LeaseInUse }) {
				return fmt.Errorf("SpiderIPBlock %s: %+v", block.Name, block.Spec.Leases)
			}
		}
		return nil
	})
}

package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// firstPort is the first TCP port of the cluster's processes. Each node has the next
// ten.
const firstPort = 20000

// writers is the number of concurrent writes of objects.
const writers = 16

// Cluster is a control plane with an IPAM plugin installed on simulated nodes.
type Cluster struct {
	*ControlPlane
	// Kube creates pods. It speaks protobuf, the cheapest encoding.
	Kube kubernetes.Interface
	// Processes are the cluster-wide processes.
	Processes []*Managed
	Nodes     []*Node
	// memory is the parent of Values.Run of all nodes.
	memory string
}

// Node is a simulated node.
type Node struct {
	Name      string
	Plugin    Plugin
	Processes []*Managed
	// CRISocket is the path of the container runtime's socket for the node's agent.
	CRISocket string
}

// Managed is a process with a readiness check.
type Managed struct {
	*Process
	ready string
}

// Options describe a cluster.
type Options struct {
	// Dir is the directory for all files. Keep its path short, because it has sockets.
	Dir string
	// Assets is the directory of etcd and kube-apiserver, Bin the directory of the
	// definition's programs, Root the repository.
	Assets, Bin, Root string
	Definition        *Definition
	Nodes             int
	Pools             []Pool
	// GCSeconds is Values.GCSeconds; 0 means 600, the chart's default.
	GCSeconds int
	// MinLeaseAge is Values.MinLeaseAge.
	MinLeaseAge time.Duration
}

// NodeName returns the name of simulated node i, counted from 0.
func NodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// Start starts everything and returns once every process is ready.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	cluster := o.values("", 0)
	var crds []string
	for _, text := range o.Definition.CRDs {
		dir, err := render(text, cluster)
		if err != nil {
			return nil, err
		}
		crds = append(crds, dir)
	}
	plane, err := StartControlPlane(ctx, filepath.Join(o.Dir, "control-plane"), o.Assets, crds)
	if err != nil {
		return nil, err
	}
	c := &Cluster{ControlPlane: plane}
	defer func() {
		if err != nil {
			c.Stop()
		}
	}()
	config := plane.Config()
	config.ContentConfig = rest.ContentConfig{ContentType: runtime.ContentTypeProtobuf, AcceptContentTypes: runtime.ContentTypeProtobuf + ",application/json"}
	if c.Kube, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if err := c.createObjects(ctx, o, cluster); err != nil {
		return nil, err
	}
	return c, c.startProcesses(ctx, o, cluster)
}

func (o Options) values(node string, index int) Values {
	v := Values{
		Root: o.Root, Bin: o.Bin, Node: node, Dir: filepath.Join(o.Dir, node), Port: firstPort + 10*index,
		Kubeconfig: filepath.Join(o.Dir, "control-plane", "kubeconfig"),
		GCSeconds:  cmp.Or(o.GCSeconds, 600), MinLeaseAge: o.MinLeaseAge,
	}
	v.Run = filepath.Join(v.Dir, "run")
	v.CRISocket = filepath.Join(v.Dir, "cri.sock")
	for _, p := range o.Pools {
		if node != "" && p.Node != "" && p.Node != node {
			continue
		}
		v.Pools = append(v.Pools, p)
		v.IPv4 = v.IPv4 || p.Version == 4
		v.IPv6 = v.IPv6 || p.Version == 6
	}
	return v
}

func (c *Cluster) createObjects(ctx context.Context, o Options, v Values) error {
	for i := range o.Nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: NodeName(i), Labels: map[string]string{corev1.LabelHostname: NodeName(i)}}}
		node, err := c.Kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create node: %w", err)
		}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Simulated"}}
		if _, err := c.Kube.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("make %s ready: %w", node.Name, err)
		}
	}
	text, err := render(o.Definition.Objects, v)
	if err != nil {
		return err
	}
	objects, err := client.New(c.Config(), client.Options{})
	if err != nil {
		return err
	}
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("objects of plugin %s: %w", o.Definition.Name, err)
		}
		if err := objects.Create(ctx, object); err != nil {
			return fmt.Errorf("objects of plugin %s: create %s %s: %w", o.Definition.Name, object.GetKind(), object.GetName(), err)
		}
	}
}

func (c *Cluster) startProcesses(ctx context.Context, o Options, v Values) error {
	var err error
	if c.Processes, err = managed(o.Definition.Cluster, v); err != nil {
		return err
	}
	for i := range o.Nodes {
		nv := o.values(NodeName(i), i+1)
		if err := c.makeDirs(nv); err != nil {
			return err
		}
		node := &Node{Name: nv.Node, CRISocket: nv.CRISocket}
		if node.Plugin, err = o.Definition.Plugin(nv); err != nil {
			return err
		}
		if node.Processes, err = managed(o.Definition.Node, nv); err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, node)
	}
	for _, p := range c.AllProcesses() {
		if err := p.Start(); err != nil {
			return err
		}
	}
	for _, p := range c.AllProcesses() {
		if err := p.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// makeDirs creates the directories of a node. Run is in memory, like /run of a real node.
func (c *Cluster) makeDirs(v Values) error {
	if c.memory == "" {
		var err error
		if c.memory, err = os.MkdirTemp("/dev/shm", "spiderpool-sim"); err != nil {
			return err
		}
	}
	run := filepath.Join(c.memory, v.Node)
	return errors.Join(os.MkdirAll(v.Dir, 0o755), os.Mkdir(run, 0o755), os.Symlink(run, v.Run))
}

func managed(definitions []ProcessDefinition, v Values) ([]*Managed, error) {
	var list []*Managed
	for _, d := range definitions {
		p, ready, err := d.Process(v)
		if err != nil {
			return nil, fmt.Errorf("process %s: %w", d.Name, err)
		}
		list = append(list, &Managed{p, ready})
	}
	return list, nil
}

// PluginOf returns the IPAM plugin of a definition for node i, e.g. that of another
// release than the cluster's.
func (o Options) PluginOf(d *Definition, i int) (Plugin, error) {
	return d.Plugin(o.values(NodeName(i), i+1))
}

// ReplaceNodeProcesses ends the processes of node i and starts those of o.Definition in
// their place, e.g. those of another release.
func (c *Cluster) ReplaceNodeProcesses(ctx context.Context, o Options, i int) (err error) {
	node := c.Nodes[i]
	for _, p := range node.Processes {
		p.Stop()
	}
	if node.Processes, err = managed(o.Definition.Node, o.values(node.Name, i+1)); err != nil {
		return err
	}
	for _, p := range node.Processes {
		if err := errors.Join(p.Start(), p.WaitReady(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// AllProcesses returns the processes of the cluster and its nodes, without the control plane.
func (c *Cluster) AllProcesses() []*Managed {
	list := append([]*Managed(nil), c.Processes...)
	for _, n := range c.Nodes {
		list = append(list, n.Processes...)
	}
	return list
}

// Stop ends all processes, and removes the files in memory.
func (c *Cluster) Stop() {
	for _, p := range c.AllProcesses() {
		p.Kill()
	}
	c.ControlPlane.Stop()
	if c.memory != "" {
		_ = os.RemoveAll(c.memory)
	}
}

// WaitReady waits until the process is ready.
func (m *Managed) WaitReady(ctx context.Context) error {
	return WaitFor(ctx, m.Name, m.Ready, m.Process)
}

// Ready returns an error until the process is ready.
func (m *Managed) Ready(ctx context.Context) error {
	switch path, isSocket := strings.CutPrefix(m.ready, "unix:"); {
	case m.ready == "":
		return nil
	case isSocket:
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.ready, nil)
	if err != nil {
		return err
	}
	resp, err := readyClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return fmt.Errorf("%s answers %s: %s", m.ready, resp.Status, said)
	}
	return nil
}

var readyClient = http.Client{Timeout: 2 * time.Second}

// CreatePods creates running pods on a node and returns them as stored.
func (c *Cluster) CreatePods(ctx context.Context, pods []*corev1.Pod) ([]*corev1.Pod, error) {
	out := make([]*corev1.Pod, len(pods))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for i, p := range pods {
		g.Go(func() error {
			created, err := c.Kube.CoreV1().Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{})
			out[i] = created
			return err
		})
	}
	return out, g.Wait()
}

// NewPod returns a pod in the state between the scheduler and the kubelet.
func NewPod(namespace, name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": "bench"}},
		Spec: corev1.PodSpec{
			NodeName:                      node,
			TerminationGracePeriodSeconds: new(int64),
			Containers:                    []corev1.Container{{Name: "main", Image: "registry.example/app:1"}},
		},
	}
}

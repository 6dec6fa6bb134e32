package view

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/test/scenariotest"
)

// document is an object of a scenario.
type document struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	text              []byte
}

func (d document) key() string { return d.Kind + "/" + d.Namespace + "/" + d.Name }

func documentsOf(t *testing.T, stream []byte) (all []document) {
	t.Helper()
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	for {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		d := document{text: text}
		if err := errors.Join(err, yaml.Unmarshal(text, &d)); err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
}

// TestReports plays testdata/reports/*.txtar. The section "cluster" has objects, "change" others that replace those of the
// same name, and "delete Kind/namespace/name" removes one. After the answer to a question, the cluster is again as it was.
func TestReports(t *testing.T) {
	scenariotest.Play(t, "testdata/reports/*.txtar", func(t *testing.T, sections []txtar.File) (played []txtar.File) {
		var base, now []document
		for _, section := range sections {
			verb, argument, _ := strings.Cut(section.Name, " ")
			data := section.Data
			switch verb {
			case "cluster":
				base = documentsOf(t, data)
				now = base
			case "change":
				changed := documentsOf(t, data)
				now = slices.DeleteFunc(slices.Clone(now), func(d document) bool {
					return slices.ContainsFunc(changed, func(c document) bool { return c.key() == d.key() })
				})
				now = append(now, changed...)
			case "delete":
				former := len(now)
				now = slices.DeleteFunc(slices.Clone(now), func(d document) bool { return d.key() == argument })
				if len(now) == former {
					t.Fatalf("%s: no such object", section.Name)
				}
			default:
				data = reportOn(t, now, verb, argument)
				now = base
			}
			played = append(played, txtar.File{Name: section.Name, Data: data})
		}
		return played
	})
}

// reportOn answers a question about the objects.
func reportOn(t *testing.T, objects []document, verb, argument string) []byte {
	t.Helper()
	w := worldOf(t, objects)
	var value any
	switch verb {
	case "status":
		return linesOf(w.in.Health(now))
	case "preflight":
		return linesOf(w.target.Preflight())
	case "node":
		w.node.Node = w.in.Nodes[slices.IndexFunc(w.in.Nodes, func(n *corev1.Node) bool { return n.Name == argument })]
		for _, pod := range w.pods {
			if pod.Spec.NodeName != argument {
				continue
			}
			w.node.Pods = append(w.node.Pods, pod)
			if pod.Labels["component"] == "agent" {
				w.node.Agent = pod
			}
		}
		value = NewState(w.objects, now).Node(w.node)
	default:
		t.Fatalf("question %q", verb)
	}
	text, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func linesOf(r Report) []byte {
	var b bytes.Buffer
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "%s %s: %s", c.Verdict, c.Subject, c.Finding)
		if c.Remedy != "" {
			fmt.Fprintf(&b, "\n  %s", c.Remedy)
		}
		fmt.Fprintln(&b)
		if (c.Remedy == "") != (c.Verdict == OK) {
			fmt.Fprintln(&b, "  BUG: every problem has a way out, and OK has none")
		}
	}
	return b.Bytes()
}

// world has the objects of a scenario for every question.
type world struct {
	in      Installation
	target  Target
	node    NodeQuestion
	objects Objects
	pods    []*corev1.Pod
}

func worldOf(t *testing.T, objects []document) *world {
	t.Helper()
	w := &world{
		in:     Installation{Release: "v0.2.0", Namespace: "kube-system", Config: config.Default()},
		target: Target{Release: "v0.2.0", ServiceSource: "ServiceCIDR objects"},
	}
	w.node.Families = append(w.node.Families, 4, 6)
	for _, d := range objects {
		w.add(t, d)
	}
	w.in.Pods, w.target.Nodes, w.target.Definitions, w.target.Multus, w.node.Events = w.pods, w.in.Nodes, w.in.Definitions, w.in.Multus, w.in.Events
	w.target.Pools, w.target.Blocks = w.objects.Pools, len(w.objects.Blocks) > 0
	return w
}

func (w *world) add(t *testing.T, d document) {
	t.Helper()
	switch d.Kind {
	case "Version": // of Kubernetes
		w.target.Kubernetes = d.Name
	case "Serves": // a further kind
		w.in.Multus.Served = w.in.Multus.Served || d.Name == "network-attachment-definitions"
		w.target.Policies = w.target.Policies || d.Name == "clusternetworkpolicies"
	case "ServiceCIDR":
		w.target.ServiceNetworks = append(w.target.ServiceNetworks, d.Name)
	case "ConfigMap":
		w.configure(decoded[corev1.ConfigMap](t, d).Data["config.yaml"])
	case "CustomResourceDefinition":
		served, _ := strconv.ParseBool(d.Annotations["served"])
		w.in.Definitions = append(w.in.Definitions, Definition{Name: d.Name, Exists: d.Annotations["missing"] == "", Served: served, Stamp: d.Annotations["release"]})
	case "Deployment":
		if d.Name == "spiderpool-console" {
			w.in.Console = decoded[appsv1.Deployment](t, d)
			break
		}
		w.in.Controller = decoded[appsv1.Deployment](t, d)
	case "Lease":
		w.in.Leader = decoded[coordinationv1.Lease](t, d)
	case "DaemonSet":
		set := decoded[appsv1.DaemonSet](t, d)
		w.in.Multus.DaemonSets = append(w.in.Multus.DaemonSets, *set)
		if d.Name == "spiderpool-agent" {
			w.in.Agents = set
		}
	case "Pod":
		w.pods = append(w.pods, decoded[corev1.Pod](t, d))
	case "Node":
		w.in.Nodes = append(w.in.Nodes, decoded[corev1.Node](t, d))
	case "MutatingWebhookConfiguration":
		w.in.Mutating = decoded[admissionv1.MutatingWebhookConfiguration](t, d)
	case "ValidatingWebhookConfiguration":
		w.in.Validating = decoded[admissionv1.ValidatingWebhookConfiguration](t, d)
	case "EndpointSlice":
		w.in.WebhookSlices = append(w.in.WebhookSlices, *decoded[discoveryv1.EndpointSlice](t, d))
	case "SpiderCoordinator":
		w.in.Coordinator = decoded[v2beta1.SpiderCoordinator](t, d)
	case "SpiderMultusConfig":
		w.in.Attachments = append(w.in.Attachments, decoded[v2beta1.SpiderMultusConfig](t, d))
	case "SpiderCloudNetwork":
		w.in.Clouds = append(w.in.Clouds, *decoded[v2beta1.SpiderCloudNetwork](t, d))
	case "Event":
		w.in.Events = append(w.in.Events, *decoded[corev1.Event](t, d))
	case "SpiderIPPool":
		w.objects.Pools = append(w.objects.Pools, decoded[v2beta1.SpiderIPPool](t, d))
	case "SpiderIPBlock":
		w.objects.Blocks = append(w.objects.Blocks, decoded[v2beta1.SpiderIPBlock](t, d))
	default:
		t.Fatalf("kind %q", d.Kind)
	}
}

func (w *world) configure(text string) {
	w.in.HasConfig = true
	file, err := config.Parse([]byte(text))
	if err != nil {
		w.in.ConfigFault = err.Error()
		return
	}
	w.in.Config = file
}

func decoded[T any](t *testing.T, d document) *T {
	t.Helper()
	object := new(T)
	unmarshal(t, d, object)
	return object
}

func unmarshal(t *testing.T, d document, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(d.text, into); err != nil {
		t.Fatalf("%v in\n%s", err, d.text)
	}
}

const (
	kernelTableStart = "<!-- kernels: printed by go test ./internal/view -update -->\n"
	kernelTableEnd   = "  <!-- end of kernels -->"
)

// TestGuideListsKernels compares the table in docs/guides/install.md with netplan.KernelFeatures; -update writes it.
func TestGuideListsKernels(t *testing.T) {
	page := filepath.Join("..", "..", "docs", "guides", "install.md")
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(content), kernelTableStart)
	got, after, closed := strings.Cut(rest, kernelTableEnd)
	if !ok || !closed {
		t.Fatalf("%s has no lines %q and %q", page, kernelTableStart, kernelTableEnd)
	}
	want := "  | feature | needs |\n  | --- | --- |\n"
	for _, f := range netplan.KernelFeatures {
		needs := strings.Trim(f.Version()+", "+f.Also, ", ")
		want += fmt.Sprintf("  | %s | %s |\n", f.Feature, needs)
	}
	if *scenariotest.Update {
		if err := os.WriteFile(page, []byte(before+kernelTableStart+want+kernelTableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if got != want {
		t.Errorf("%s differs from netplan.KernelFeatures; run go test ./internal/view -update. Want:\n%s", page, want)
	}
}

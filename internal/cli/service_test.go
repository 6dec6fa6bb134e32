package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/service"
	"spiderpool.dev/spiderpool/test/scenariotest"
)

// playTables plays a file with sections for a cluster and for the outputs of commands.
// run prints the output of a section, or returns the error that the user gets.
func playTables(t *testing.T, file string, run func(t *testing.T, out *bytes.Buffer, section txtar.File) error) {
	t.Helper()
	scenariotest.Play(t, file, func(t *testing.T, sections []txtar.File) (played []txtar.File) {
		for _, section := range sections {
			var out bytes.Buffer
			if err := run(t, &out, section); err != nil {
				fmt.Fprintf(&out, "error: %v\n", err)
			}
			played = append(played, txtar.File{Name: section.Name, Data: out.Bytes()})
		}
		return played
	})
}

func TestServiceTables(t *testing.T) {
	var cluster *cluster
	playTables(t, "testdata/service.txtar", func(t *testing.T, out *bytes.Buffer, section txtar.File) error {
		verb, argument, _ := strings.Cut(section.Name, " ")
		switch verb {
		case "cluster":
			cluster = clusterOf(t, section.Data)
			out.Write(section.Data)
			return nil
		case "list":
			return frontendsAnswer(cluster.list(argument)).print(out, "table", threeAtNight())
		case "explain":
			return explainText(out, cluster, argument)
		}
		t.Fatalf("section %q", section.Name)
		return nil
	})
}

func explainText(out io.Writer, c *cluster, argument string) error {
	namespace, name, _ := strings.Cut(argument, "/")
	x, err := c.explain(service.Name{Namespace: namespace, Name: name}, "pods on node n1")
	if err != nil {
		return err
	}
	return explainedAnswer(x).print(out, "table", threeAtNight())
}

// clusterOf reads a YAML stream that begins with the node.
func clusterOf(t *testing.T, stream []byte) (c *cluster) {
	t.Helper()
	eachObject(t, stream, func(kind string, document []byte) {
		switch kind {
		case "Node":
			var object corev1.Node
			parse(t, document, &object)
			c = newCluster(compile.ServiceNode(&object), true)
		case "Service":
			var object corev1.Service
			parse(t, document, &object)
			c.addService(&object)
		case "EndpointSlice":
			var object discoveryv1.EndpointSlice
			parse(t, document, &object)
			c.addSlice(&object)
		}
	})
	return c
}

// eachObject calls f for each document of a YAML stream.
func eachObject(t *testing.T, stream []byte, f func(kind string, document []byte)) {
	t.Helper()
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		var meta metav1.TypeMeta
		if err := errors.Join(err, yaml.Unmarshal(document, &meta)); err != nil {
			t.Fatal(err)
		}
		f(meta.Kind, document)
	}
}

func parse(t *testing.T, document []byte, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(document, into); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
}

func TestServiceJSON(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/service.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var got []frontendView
	c := clusterOf(t, archive.Files[0].Data)
	if err := frontendsAnswer(c.list("kube-system")).print(&out, "json", threeAtNight()); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 1 || got[0].Result != "refuse" || got[0].Frontend != "10.96.0.23:80/TCP" {
		t.Errorf("got %v (%v)", got, err)
	}
}

// testCase is a command, e.g. "list --node n1", and a text of its output or error.
type testCase struct{ command, want string }

// refuses runs subcommands that must fail.
func refuses(t *testing.T, command string, cases []testCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.command, func(t *testing.T) {
			cmd := newRoot()
			cmd.SetArgs(append([]string{command}, strings.Fields(tc.command)...))
			if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestServiceArguments(t *testing.T) {
	refuses(t, "service", []testCase{
		{"list --node n1 -o xml", `--output "xml": write table, wide, json, yaml or name`},
		{"list --node=", "--node: name the node"},
		{"watch --node=", "--node: name the node"},
		{"explain web --node n1", `service "web": write NAMESPACE/NAME`},
		{"explain default/web --node n1 --kubeconfig /does/not/exist", "--kubeconfig"},
	})
}

func TestExternalIPsNeedPermission(t *testing.T) {
	c := newCluster(service.Node{Name: "n1"}, false)
	c.addService(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", ExternalIPs: []string{"203.0.113.7"}, Ports: []corev1.ServicePort{{Port: 80}}},
	})
	x, err := c.explain(service.Name{Namespace: "default", Name: "web"}, "pods on node n1")
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Frontends) != 1 || x.Frontends[0].Kind != "cluster IP" || len(x.Notes) != 1 || !strings.Contains(x.Notes[0], "service.externalIPs is false") {
		t.Errorf("got %+v", x)
	}
}

package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
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
)

var update = flag.Bool("update", false, "write the golden files")

func TestServiceTables(t *testing.T) {
	const file = "testdata/service.txtar"
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var cluster *cluster
	got := &txtar.Archive{Comment: archive.Comment}
	for _, section := range archive.Files {
		verb, argument, _ := strings.Cut(section.Name, " ")
		var out bytes.Buffer
		switch verb {
		case "cluster":
			cluster = clusterOf(t, section.Data)
			out.Write(section.Data)
		case "list":
			err = showList(&out, cluster.list(argument), "table")
		case "explain":
			err = explainText(&out, cluster, argument)
		default:
			t.Fatalf("section %q", section.Name)
		}
		if err != nil {
			out.WriteString("error: " + err.Error() + "\n")
		}
		got.Files = append(got.Files, txtar.File{Name: section.Name, Data: out.Bytes()})
	}
	if text := txtar.Format(got); *update {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(text, txtar.Format(archive)) {
		t.Errorf("%s differs; run with -update and read it. Got:\n%s", file, text)
	}
}

func explainText(out io.Writer, c *cluster, argument string) error {
	namespace, name, _ := strings.Cut(argument, "/")
	x, err := c.explain(service.Name{Namespace: namespace, Name: name}, "pods on node n1")
	if err != nil {
		return err
	}
	return showExplanation(out, x, "table")
}

// clusterOf reads a YAML stream that begins with the node.
func clusterOf(t *testing.T, stream []byte) (c *cluster) {
	t.Helper()
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return c
		}
		var meta metav1.TypeMeta
		if err := errors.Join(err, yaml.Unmarshal(document, &meta)); err != nil {
			t.Fatal(err)
		}
		switch meta.Kind {
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
	if err := showList(&out, c.list("kube-system"), "json"); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 1 || got[0].Result != "refuse" || got[0].Frontend != "10.96.0.23:80/TCP" {
		t.Errorf("got %v (%v)", got, err)
	}
}

func TestServiceArguments(t *testing.T) {
	for _, tc := range []struct{ command, want string }{
		{"list --node n1 -o yaml", `"yaml": write table or json`},
		{"list --node=", "--node: name the node"},
		{"watch --node=", "--node: name the node"},
		{"explain web --node n1", `service "web": write NAMESPACE/NAME`},
		{"explain default/web --node n1 --kubeconfig /does/not/exist", "--kubeconfig"},
	} {
		t.Run(tc.command, func(t *testing.T) {
			cmd := newRoot()
			cmd.SetArgs(append([]string{"service"}, strings.Fields(tc.command)...))
			if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
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

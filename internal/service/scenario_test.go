package service_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/service"
	"spiderpool.dev/spiderpool/test/scenariotest"
)

// TestScenarios plays testdata/*.txtar; the package comment has the grammar.
func TestScenarios(t *testing.T) { scenariotest.Play(t, "testdata/*.txtar", play) }

// play returns the inputs with the outputs that the code gives.
func play(t *testing.T, sections []txtar.File) (played []txtar.File) {
	t.Helper()
	s := &scenario{table: service.NewTable(service.Node{Name: "n1"}, nil)}
	for _, section := range sections {
		verb, _, _ := strings.Cut(section.Name, " ")
		var name, text string
		switch verb {
		case "cluster":
			s.apply(t, section.Data)
			name, text = "entries", entries(s.table)
		case "apply":
			name, text = "diff", s.apply(t, section.Data)
		case "delete":
			name, text = "diff", s.delete(t, section.Data)
		case "entries", "diff":
			continue // written behind its input
		default:
			t.Fatalf("section %q: write cluster, apply or delete", section.Name)
		}
		played = append(played, section, txtar.File{Name: name, Data: []byte(text)})
	}
	return played
}

func entries(table *service.Table) string {
	return strings.ReplaceAll(table.All().String(), "+ ", "")
}

// scenario is the state of one test.
type scenario struct{ table *service.Table }

// apply adds or replaces the objects of a YAML stream and returns the changes of each.
func (s *scenario) apply(t *testing.T, stream []byte) string {
	t.Helper()
	var out strings.Builder
	reader := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(stream)))
	for {
		document := make([]byte, len(stream)+1)
		n, err := reader.Read(document)
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		s.applyOne(t, document[:n], &out)
	}
}

func (s *scenario) applyOne(t *testing.T, document []byte, out *strings.Builder) {
	t.Helper()
	var meta metav1.PartialObjectMetadata
	decode(t, document, &meta, false)
	name := service.Name{Namespace: meta.Namespace, Name: meta.Name}
	switch meta.Kind {
	case "Node":
		var object corev1.Node
		decode(t, document, &object, true)
		if object.Name == "n1" {
			out.WriteString(s.table.SetNode(compile.ServiceNode(&object)).String())
		}
	case "Service":
		var object corev1.Service
		decode(t, document, &object, true)
		compiled, reason, errs := compile.Service(&object)
		for _, err := range errs {
			fmt.Fprintf(out, "! %s: %v\n", name, err)
		}
		if compiled == nil {
			fmt.Fprintf(out, "%s has no frontends: %s\n%s", name, reason, s.table.DeleteService(name))
			return
		}
		out.WriteString(s.table.SetService(compiled).String())
	case "EndpointSlice":
		var object discoveryv1.EndpointSlice
		decode(t, document, &object, true)
		compiled, errs := compile.EndpointSlice(&object)
		for _, err := range errs {
			fmt.Fprintf(out, "! %s: %v\n", name, err)
		}
		if compiled == nil {
			out.WriteString(s.table.DeleteSlice(name).String())
			return
		}
		out.WriteString(s.table.SetSlice(compiled).String())
	default:
		t.Fatalf("kind %q: write Node, Service or EndpointSlice", meta.Kind)
	}
}

func decode(t *testing.T, document []byte, into any, strict bool) {
	t.Helper()
	unmarshal := func(document []byte, into any) error { return sigsyaml.Unmarshal(document, into) }
	if strict {
		unmarshal = func(document []byte, into any) error { return sigsyaml.UnmarshalStrict(document, into) }
	}
	if err := unmarshal(document, into); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
}

// delete removes the objects that the lines name, e.g. "Service default/web".
func (s *scenario) delete(t *testing.T, lines []byte) string {
	t.Helper()
	var out strings.Builder
	for line := range strings.Lines(string(lines)) {
		kind, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		namespace, object, ok := strings.Cut(path, "/")
		name := service.Name{Namespace: namespace, Name: object}
		switch {
		case ok && kind == "Service":
			out.WriteString(s.table.DeleteService(name).String())
		case ok && kind == "EndpointSlice":
			out.WriteString(s.table.DeleteSlice(name).String())
		default:
			t.Fatalf("%q: write Service NAMESPACE/NAME or EndpointSlice NAMESPACE/NAME", line)
		}
	}
	return out.String()
}

//go:build apiserver

package definitions

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"text/tabwriter"

	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/test/scenariotest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// TestTablesAnswerAtGlance prints what the API server prints for kubectl get, by short names.
func TestTablesAnswerAtGlance(t *testing.T) {
	client, err := discovery.NewDiscoveryClientForConfig(kubetest.Config(t))
	if err != nil {
		t.Fatal(err)
	}
	resources, err := client.ServerResourcesForGroupVersion("spiderpool.spidernet.io/v2beta1")
	if err != nil {
		t.Fatal(err)
	}
	plural := map[string]string{}
	for _, resource := range resources.APIResources {
		for _, short := range resource.ShortNames {
			plural[short] = resource.Name
		}
	}
	scenariotest.Play(t, "testdata/tables.txtar", func(t *testing.T, sections []txtar.File) (played []txtar.File) {
		for _, section := range sections {
			if section.Name == "objects" {
				createObjects(t, section.Data)
				played = append(played, section)
				continue
			}
			raw, err := client.RESTClient().Get().AbsPath("/apis/spiderpool.spidernet.io/v2beta1", plural[section.Name]).
				SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw()
			if err != nil {
				t.Fatalf("%s: %v", section.Name, err)
			}
			played = append(played, txtar.File{Name: section.Name, Data: tableText(t, raw)})
		}
		return played
	})
}

// createObjects creates the objects of a YAML stream with their status.
func createObjects(t *testing.T, stream []byte) {
	t.Helper()
	c, reader := kubetest.Client(t), utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		object := &unstructured.Unstructured{}
		if err := errors.Join(err, yaml.Unmarshal(document, &object.Object)); err != nil {
			t.Fatal(err)
		}
		status, hasStatus := object.Object["status"]
		kubetest.Create(t, c, object)
		if !hasStatus || object.GetKind() == "SpiderEndpoint" { // which is written whole
			continue
		}
		object.Object["status"] = status
		if err := c.Status().Update(t.Context(), object); err != nil {
			t.Fatalf("%s: %v", object.GetKind(), err)
		}
	}
}

// tableText draws a metav1.Table like kubectl -o wide, with "age" for ages. Columns that only wide shows begin with "+".
func tableText(t *testing.T, raw []byte) []byte {
	t.Helper()
	var table metav1.Table
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber() // like kubectl, which prints no integer as 5.6e+14
	if err := decoder.Decode(&table); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 3, ' ', 0)
	var heads []string
	for _, column := range table.ColumnDefinitions {
		head := strings.ToUpper(column.Name)
		if column.Priority > 0 {
			head = "+" + head
		}
		heads = append(heads, head)
	}
	fmt.Fprintln(w, strings.Join(heads, "\t"))
	for _, row := range table.Rows {
		var cells []string
		for i, cell := range row.Cells {
			text := fmt.Sprint(cell)
			switch {
			case cell == nil:
				text = "<none>"
			case heads[i] == "AGE":
				text = "age"
			}
			cells = append(cells, text)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	_ = w.Flush()
	return out.Bytes()
}

//go:build apiserver

package charts

import (
	"encoding/xml"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/kube/definitions"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// chartMetadata is the part of Chart.yaml that Artifact Hub shows.
type chartMetadata struct {
	AppVersion, Icon string
	Annotations      map[string]string
}

func metadataOf(t *testing.T) chartMetadata {
	t.Helper()
	var chart chartMetadata
	if err := yaml.Unmarshal([]byte(read(t, "spiderpool/Chart.yaml")), &chart); err != nil {
		t.Fatal(err)
	}
	return chart
}

func TestArtifactHubListsImages(t *testing.T) {
	var listed []struct{ Name, Image string }
	if err := yaml.Unmarshal([]byte(metadataOf(t).Annotations["artifacthub.io/images"]), &listed); err != nil {
		t.Fatal(err)
	}
	everything := render(t, "--set", "plugins.installCNI=true,console.enabled=true,observability.enabled=true,observability.relay.enabled=true",
		"--set", "rdma.rdmaSharedDevicePlugin.install=true,rdma.rdmaSharedDevicePlugin.deviceConfig.deviceIDs=1017")
	var want []string
	for _, match := range regexp.MustCompile(`(?m)image: "?([^\s"]+)`).FindAllStringSubmatch(string(everything), -1) {
		want = append(want, match[1])
	}
	slices.Sort(want)
	want = slices.Compact(want)
	var got []string
	for _, image := range listed {
		got = append(got, image.Image)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("Chart.yaml lists %q, the chart uses %q", got, want)
	}
}

func TestArtifactHubListsDefinitions(t *testing.T) {
	var listed []struct{ Kind, Version, Name, DisplayName, Description string }
	if err := yaml.Unmarshal([]byte(metadataOf(t).Annotations["artifacthub.io/crds"]), &listed); err != nil {
		t.Fatal(err)
	}
	all, err := definitions.All()
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, d := range listed {
		got = append(got, strings.Join([]string{d.Name, d.Kind, d.Version}, " "))
		if d.DisplayName == "" || d.Description == "" {
			t.Errorf("%s has no description", d.Kind)
		}
	}
	for _, d := range all {
		kind, _, _ := unstructured.NestedString(d.Object, "spec", "names", "kind")
		versions, _, err := unstructured.NestedSlice(d.Object, "spec", "versions")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, strings.Join([]string{d.GetName(), kind, versions[0].(map[string]any)["name"].(string)}, " "))
	}
	if !slices.Equal(got, want) {
		t.Errorf("Chart.yaml lists %q, want %q", got, want)
	}
}

func TestArtifactHubExamplesAreValid(t *testing.T) {
	var examples []unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(metadataOf(t).Annotations["artifacthub.io/crdsExamples"]), &examples); err != nil || len(examples) != 2 {
		t.Fatalf("%d examples, %v", len(examples), err)
	}
	c := kubetest.Client(t)
	for i := range examples {
		if err := c.Create(t.Context(), &examples[i], client.DryRunAll, client.FieldValidation("Strict")); err != nil {
			t.Error(err)
		}
	}
}

func TestIconIsOneSmallPicture(t *testing.T) {
	icon, err := os.ReadFile("spiderpool/icon.svg")
	if err != nil || len(icon) > 4096 || !strings.HasSuffix(metadataOf(t).Icon, "/icon.svg") {
		t.Fatalf("%d bytes, %v, Chart.yaml has %s", len(icon), err, metadataOf(t).Icon)
	}
	var picture struct {
		XMLName xml.Name `xml:"http://www.w3.org/2000/svg svg"`
	}
	if err := xml.Unmarshal(icon, &picture); err != nil || strings.Contains(string(icon), "href") {
		t.Errorf("%v, or the picture loads another file", err)
	}
}

package servedschema

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

var all = []any{
	&v2beta1.SpiderIPPool{}, &v2beta1.SpiderSubnet{}, &v2beta1.SpiderReservedIP{}, &v2beta1.SpiderEndpoint{},
	&v2beta1.SpiderMultusConfig{}, &v2beta1.SpiderCoordinator{}, &v2beta1.SpiderIPBlock{}, &v2beta1.SpiderPeerGroup{},
	&v2beta1.SpiderCloudNetwork{},
}

// document is the OpenAPI document that the API server makes of the chart's definitions,
// after edit has changed the text of each.
func document(t *testing.T, edit *strings.Replacer) []byte {
	t.Helper()
	files, err := filepath.Glob("../definitions/crds/*.yaml")
	if err != nil || len(files) != len(all) {
		t.Fatalf("%d definitions, want %d: %v", len(files), len(all), err)
	}
	schemas := map[string]any{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd struct {
			Spec struct {
				Group    string
				Names    struct{ Kind string }
				Versions []struct {
					Name   string
					Schema struct {
						OpenAPIV3Schema map[string]any `json:"openAPIV3Schema"`
					}
				}
			}
		}
		if err := yaml.Unmarshal([]byte(edit.Replace(string(text))), &crd); err != nil {
			t.Fatal(err)
		}
		for _, v := range crd.Spec.Versions {
			s := v.Schema.OpenAPIV3Schema
			s["x-kubernetes-group-version-kind"] = []any{map[string]string{"group": crd.Spec.Group, "version": v.Name, "kind": crd.Spec.Names.Kind}}
			schemas[crd.Spec.Names.Kind+v.Name] = s
		}
	}
	out, err := json.Marshal(map[string]any{"components": map[string]any{"schemas": schemas}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestChartServesEveryField(t *testing.T) {
	missing, err := Missing(document(t, strings.NewReplacer()), all...)
	if err != nil || len(missing) > 0 {
		t.Errorf("missing %v, %v", missing, err)
	}
}

func TestMissingFieldsAreNamed(t *testing.T) {
	for name, test := range map[string]struct {
		edit []string
		want string
	}{
		"field":           {[]string{"              former:\n", "              earlier:\n"}, "SpiderIPBlock.spec.former"},
		"field of a list": {[]string{"containerID:", "container:"}, "SpiderIPBlock.spec.former[].containerID SpiderIPBlock.spec.leases[].containerID"},
		"kind":            {[]string{"kind: SpiderIPBlock\n", "kind: SpiderBlock\n"}, "SpiderIPBlock"},
		"version":         {[]string{"name: v2beta1", "name: v2beta0"}, "SpiderIPBlock"},
		"later field":     {[]string{"              former:\n", "              later: {type: string}\n              former:\n"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			missing, err := Missing(document(t, strings.NewReplacer(test.edit...)), &v2beta1.SpiderIPBlock{})
			if got := strings.Join(missing, " "); err != nil || got != test.want {
				t.Errorf("missing %q, want %q; %v", got, test.want, err)
			}
		})
	}
}

func TestCheckRefusesOldDefinitions(t *testing.T) {
	old := document(t, strings.NewReplacer("              former:\n", "              earlier:\n"))
	for name, test := range map[string]struct {
		status int
		body   []byte
		want   string
	}{
		"present":       {http.StatusOK, document(t, strings.NewReplacer()), ""},
		"old":           {http.StatusOK, old, "lack SpiderIPBlock.spec.former: the API server would drop"},
		"no definition": {http.StatusNotFound, nil, "lack SpiderIPBlock"},
		"no permission": {http.StatusForbidden, nil, "bind the ClusterRole system:discovery"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/openapi/v3/apis/spiderpool.spidernet.io/v2beta1" {
					t.Errorf("request for %s", r.URL.Path)
				}
				w.WriteHeader(test.status)
				_, _ = w.Write(test.body)
			}))
			defer server.Close()
			err := check(t.Context(), slog.New(slog.DiscardHandler), &rest.Config{Host: server.URL}, 0, []any{&v2beta1.SpiderIPBlock{}})
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestFingerprintFollowsFields(t *testing.T) {
	var paths strings.Builder
	list(&paths, reflect.TypeFor[v2beta1.SpiderIPBlock](), "SpiderIPBlock")
	for _, want := range []string{"SpiderIPBlock.spec.former.containerID\n", "SpiderIPBlock.spec.leases.ip\n", "SpiderIPBlock.metadata\n"} {
		if !strings.Contains(paths.String(), want) {
			t.Errorf("%q is not in\n%s", want, &paths)
		}
	}
	block, both := Fingerprint(&v2beta1.SpiderIPBlock{}), Fingerprint(&v2beta1.SpiderIPBlock{}, &v2beta1.SpiderEndpoint{})
	if block == both || block != Fingerprint(&v2beta1.SpiderIPBlock{}) {
		t.Errorf("fingerprints %s and %s", block, both)
	}
}

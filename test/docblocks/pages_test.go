package docblocks_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/test/docblocks"
)

const root = "../.."

func blocks(t *testing.T) []docblocks.Block {
	t.Helper()
	all, err := docblocks.Read(root)
	if err != nil || len(all) == 0 {
		t.Fatalf("%d blocks, error %v", len(all), err)
	}
	return all
}

// commands returns the commands of all blocks, and those of the programs in backticks.
func commands(t *testing.T, programs ...string) (all []docblocks.Command) {
	t.Helper()
	for _, b := range blocks(t) {
		all = append(all, b.Commands()...)
	}
	pages, err := docblocks.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		all = append(all, docblocks.Inline(page, read(t, page), programs...)...)
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// A reader may apply each manifest as it is: every field exists, and admission's rules accept every value.
func TestManifestsOfPagesAreValid(t *testing.T) {
	kinds := map[string]int{}
	for _, b := range blocks(t) {
		for _, manifest := range b.Manifests() {
			kind, err := checkManifest(manifest)
			if err != nil {
				t.Errorf("%s:%d: %v", b.Page, b.Line, err)
			}
			kinds[kind]++
		}
	}
	for _, kind := range []string{"SpiderIPPool", "SpiderMultusConfig", "SpiderReservedIP", "Deployment", "Pod"} {
		if kinds[kind] == 0 {
			t.Errorf("no page has a %s; does the test read the pages?", kind)
		}
	}
}

var known = scheme.New()

// checkManifest returns the kind of a manifest, "" for a part of one, and its first fault.
func checkManifest(document string) (kind string, err error) {
	var any map[string]any
	if err := yaml.UnmarshalStrict([]byte(document), &any); err != nil {
		return "", err
	}
	version, _ := any["apiVersion"].(string)
	kind, _ = any["kind"].(string)
	if version == "" || kind == "" {
		return "", nil
	}
	object, err := known.New(schema.FromAPIVersionAndKind(version, kind))
	if runtime.IsNotRegisteredError(err) && !strings.HasPrefix(version, v2beta1.GroupVersion.Group) {
		return kind, nil
	}
	if err != nil {
		return kind, err
	}
	if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
		return kind, fmt.Errorf("%s: %w", kind, err)
	}
	if err := faults(object).ToAggregate(); err != nil {
		return kind, fmt.Errorf("%s: %w", kind, err)
	}
	return kind, checkAnnotations(any)
}

// faults returns the faults that admission finds without the cluster.
func faults(object runtime.Object) (errs field.ErrorList) {
	switch o := object.(type) {
	case *v2beta1.SpiderIPPool:
		_, errs = compile.Pool(o)
	case *v2beta1.SpiderSubnet:
		_, errs = compile.Subnet(o)
	case *v2beta1.SpiderReservedIP:
		_, errs = compile.ReservedIP(o)
	case *v2beta1.SpiderCoordinator:
		_, errs = compile.Coordinator(field.NewPath("spec"), &o.Spec, &v2beta1.SpiderCoordinatorStatus{})
	case *v2beta1.SpiderMultusConfig:
		nad, found := compile.Attachment(o)
		if errs = found; nad.Unsupported != "" {
			errs = append(errs, field.Invalid(field.NewPath("spec"), o.Name, nad.Unsupported))
		}
	}
	return errs
}

// checkAnnotations parses our annotations wherever the manifest has them, also in the template of a Deployment.
func checkAnnotations(value any) error {
	object, ok := value.(map[string]any)
	if !ok {
		return nil
	}
	for key, inner := range object {
		text, isText := inner.(string)
		var err error
		switch {
		case !isText:
			err = checkAnnotations(inner)
		case key == names.AnnotationPodIPPool:
			_, err = pool.ParseIPPool(text)
		case key == names.AnnotationPodIPPools:
			_, err = pool.ParseIPPools(text)
		case key == names.AnnotationPodRoutes:
			_, err = pool.ParseRoutes(text)
		case key == names.AnnotationPodDNS:
			_, err = pool.ParseDNS(text)
		case key == names.AnnotationNamespaceDefaultIPv4Pool, key == names.AnnotationNamespaceDefaultIPv6Pool:
			_, err = pool.ParseNamespacePools(key, text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var target = regexp.MustCompile(`(?m)^([a-zA-Z0-9 %/-]+):(?:[^=]|$)`)

// makeTargets are the targets of the Makefile, with patterns such as "bin/%".
func makeTargets(makefile string) (targets []string) {
	for _, m := range target.FindAllStringSubmatch(makefile, -1) {
		targets = append(targets, strings.Fields(m[1])...)
	}
	return targets
}

func TestMakeTargetsOfPagesExist(t *testing.T) {
	makefile := read(t, "Makefile")
	targets := makeTargets(strings.ReplaceAll(makefile, "$(BIN)/", "bin/"))
	checked := 0
	for _, c := range commands(t, "make") {
		words, ok := c.Program("make")
		if !ok {
			continue
		}
		for _, word := range words {
			checked++
			name, _, variable := strings.Cut(word, "=")
			pattern := filepath.Dir(word) + "/%"
			switch {
			case variable && !strings.Contains(makefile, "$("+name+")") && !strings.Contains(makefile, "file,$(origin "+name+")"):
				t.Errorf("%s:%d: the Makefile does not use %s", c.Page, c.Line, name)
			case !variable && !strings.HasPrefix(word, "-") && !slices.Contains(targets, word) && !slices.Contains(targets, pattern):
				t.Errorf("%s:%d: make %s is no target", c.Page, c.Line, word)
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d words checked; does the test read the pages?", checked)
	}
}

// hasValue reports whether the schema of the chart has a value, e.g. "ipam.gc.enabled".
func hasValue(node map[string]any, path []string) bool {
	properties, _ := node["properties"].(map[string]any)
	if len(path) == 0 || properties == nil && node["additionalProperties"] != false {
		return true
	}
	name, _, _ := strings.Cut(path[0], "[")
	inner, ok := properties[name].(map[string]any)
	return ok && hasValue(inner, path[1:])
}

// settings splits the argument of --set at its commas, but not within braces.
func settings(argument string) (keys []string) {
	depth, start := 0, 0
	for i, r := range argument + "," {
		switch {
		case r == '{':
			depth++
		case r == '}':
			depth--
		case r == ',' && depth == 0:
			key, _, _ := strings.Cut(argument[start:i], "=")
			keys, start = append(keys, key), i+1
		}
	}
	return keys
}

func TestHelmValuesOfPagesExist(t *testing.T) {
	var values map[string]any
	if err := json.Unmarshal([]byte(read(t, "charts/spiderpool/values.schema.json")), &values); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, c := range commands(t, "helm", "--set") {
		words, _ := c.Program("helm")
		if c.Words[0] == "--set" {
			words = c.Words
		} else if !strings.Contains(strings.Join(words, " "), "spiderpool") {
			continue
		}
		for i, word := range words[:max(0, len(words)-1)] {
			switch word {
			case "--set", "--set-string", "--set-json":
				for _, key := range settings(words[i+1]) {
					if checked++; key != "key" && !hasValue(values, strings.Split(key, ".")) {
						t.Errorf("%s:%d: the chart has no value %s", c.Page, c.Line, key)
					}
				}
			case "-f", "--values":
				if _, err := os.Stat(filepath.Join(root, words[i+1])); err != nil {
					t.Errorf("%s:%d: %v", c.Page, c.Line, err)
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d values checked; does the test read the pages?", checked)
	}
}

var quoted = regexp.MustCompile(`^<!-- (from|pattern): (\S+) -->$`)

// A block below "<!-- from: FILE -->" quotes FILE, an input or golden file of a test: each of its lines is in it. One below
// "<!-- pattern: FILE -->" shows a message of a Go file, where %s, %d and %q stand for values.
func TestQuotesOfPagesAreReal(t *testing.T) {
	checked := 0
	for _, b := range blocks(t) {
		m := quoted.FindStringSubmatch(b.Above)
		if m == nil {
			continue
		}
		content := read(t, m[2])
		for i, line := range strings.Split(strings.TrimRight(b.Code, "\n"), "\n") {
			if checked++; !contains(content, line, m[1] == "pattern") {
				t.Errorf("%s:%d: %s does not have: %s", b.Page, b.Line+i, m[2], line)
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d lines checked; does the test read the pages?", checked)
	}
}

// TestSymptomsComeFromPrograms: each message in the page of symptoms is the output of a program in a test, and the test names it.
func TestSymptomsComeFromPrograms(t *testing.T) {
	const page = "docs/guides/troubleshooting.md"
	names := map[string]bool{}
	for _, b := range blocks(t) {
		name, file, ok := b.Output()
		if !ok {
			if b.Page == page && b.Language == "text" {
				t.Errorf("%s:%d: write <!-- output: NAME of FILE --> above the block, and call docblocks.Shows in the test FILE", b.Page, b.Line)
			}
			continue
		}
		if names[name] {
			t.Errorf("%s:%d: the output %s has two blocks", b.Page, b.Line, name)
		}
		names[name] = true
		if !regexp.MustCompile(`["\s]` + regexp.QuoteMeta(name) + `["\s]`).MatchString(read(t, file)) {
			t.Errorf("%s:%d: %s does not name the output %s", b.Page, b.Line, file, name)
		}
	}
	if len(names) < 20 {
		t.Errorf("only %d outputs; does the test read the pages?", len(names))
	}
}

var formatted = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)

// contains reports whether content has the line, as it is or in a Go string; with pattern, whether it has a format of it.
func contains(content, line string, pattern bool) bool {
	if line = strings.TrimSpace(line); strings.Contains(content, line) || strings.Contains(strings.ReplaceAll(content, `\"`, `"`), line) {
		return true
	}
	if !pattern {
		return false
	}
	for _, m := range formatted.FindAllStringSubmatch(content, -1) {
		expr := regexp.MustCompile(`%[sdqv]`).ReplaceAllString(regexp.QuoteMeta(m[1]), ".+")
		if strings.Contains(m[1], "%") && len(m[1]) > 20 && regexp.MustCompile("^"+expr+"$").MatchString(line) {
			return true
		}
	}
	return false
}

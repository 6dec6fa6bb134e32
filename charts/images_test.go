//go:build apiserver

package charts

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
)

func TestImagesComeFromMirror(t *testing.T) {
	manifest := render(t, append(guide, "--set", "global.imageRegistryOverride=mirror.example:5000",
		"--set", "spiderpoolController.image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
		"--set", "spiderpoolAgent.image.tag=v9")...)
	var images []string
	for _, ds := range objectsOf[appsv1.DaemonSet](t, manifest, "DaemonSet") {
		for _, c := range append(ds.Spec.Template.Spec.InitContainers, ds.Spec.Template.Spec.Containers...) {
			images = append(images, c.Image)
		}
	}
	for _, d := range objectsOf[appsv1.Deployment](t, manifest, "Deployment") {
		images = append(images, d.Spec.Template.Spec.Containers[0].Image)
	}
	wanted := map[string]bool{
		"mirror.example:5000/spiderpool-agent:v9":                                                                           true,
		"mirror.example:5000/k8snetworkplumbingwg/multus-cni:v4.2.3":                                                        true,
		"mirror.example:5000/spiderpool-controller@sha256:0000000000000000000000000000000000000000000000000000000000000000": true,
	}
	for _, image := range images {
		if !wanted[image] {
			t.Errorf("image %s", image)
		}
	}
	if len(images) != 7 {
		t.Errorf("images %q, want 7", images)
	}
}

func TestOurImagesComeFromOneRegistry(t *testing.T) {
	manifest := render(t, "--set", "global.imageRegistry=registry.example/team,plugins.installCNI=true")
	got := map[string]bool{}
	for image := range images(manifest) {
		got[image] = true
	}
	want := map[string]bool{
		"registry.example/team/spiderpool-agent:v0.1.0": true, "registry.example/team/spiderpool-controller:v0.1.0": true,
		"registry.example/team/spiderpool-plugins:v0.1.0": true, "ghcr.io/k8snetworkplumbingwg/multus-cni:v4.2.3": true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
}

// images yields the image of each container, also those of hooks.
func images(manifest []byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(string(manifest)) {
			if image, ok := strings.CutPrefix(strings.TrimLeft(line, " -"), "image: "); ok && !yield(strings.TrimSpace(image)) {
				return
			}
		}
	}
}

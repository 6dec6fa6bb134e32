package image

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func imageFor(t *testing.T, architecture string) v1.Image {
	t.Helper()
	img, err := Build(Spec{
		Add: []Add{{Source: tree(t), Destination: "/opt"}, {Text: architecture, Destination: "/etc/architecture"}}, Architecture: architecture,
	})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestSameImagesGiveSameOCIArchive(t *testing.T) {
	t.Parallel()
	var archives [2][]byte
	for i := range archives {
		file := filepath.Join(t.TempDir(), "app.oci.tar")
		if _, err := WriteOCIArchive(file, "registry.example/app:v1", []v1.Image{imageFor(t, "amd64"), imageFor(t, "arm64")}); err != nil {
			t.Fatal(err)
		}
		var err error
		if archives[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same images give different archives")
	}
}

func TestOCIArchiveHasEveryArchitecture(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "app.oci.tar")
	if _, err := WriteOCIArchive(file, "registry.example/app:v1", []v1.Image{imageFor(t, "amd64"), imageFor(t, "arm64")}); err != nil {
		t.Fatal(err)
	}
	images, closeImages, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer closeImages()
	if len(images) != 1 || len(images[0].Names) != 1 || images[0].Names[0] != "registry.example/app:v1" || images[0].Index == nil {
		t.Fatalf("got %+v, want one image registry.example/app:v1 with an index", images)
	}
	manifest, err := images[0].Index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"amd64", "arm64"} {
		if len(manifest.Manifests) != 2 || manifest.Manifests[i].Platform == nil || manifest.Manifests[i].Platform.Architecture != want {
			t.Fatalf("got manifests %+v, want amd64 and arm64", manifest.Manifests)
		}
		img, err := images[0].Index.Image(manifest.Manifests[i].Digest)
		if err != nil {
			t.Fatal(err)
		}
		if got := listing(t, img); got != listing(t, imageFor(t, want)) {
			t.Errorf("%s holds\n%s", want, got)
		}
	}
}

func TestArchitectureReplacesPlaceholder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, architecture := range []string{"amd64", "arm64"} {
		if err := os.WriteFile(filepath.Join(dir, architecture), []byte(architecture), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, architecture := range []string{"amd64", "arm64"} {
		img, err := Build(Spec{Add: []Add{{Source: dir + "/{arch}", Destination: "/program", Mode: 0o755}}, Architecture: architecture})
		if err != nil {
			t.Fatal(err)
		}
		if want := "program 755 \"" + architecture + "\"\n"; listing(t, img) != want {
			t.Errorf("the image for %s holds %q, want %q", architecture, listing(t, img), want)
		}
	}
}

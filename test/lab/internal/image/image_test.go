package image

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

func TestParseAddRefusesInvalidText(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "a", ":/b", "a:b", "a:/b:9", "a:/b:755:c"} {
		if add, err := ParseAdd(text); err == nil {
			t.Errorf("ParseAdd(%q) = %+v, want an error", text, add)
		}
	}
	add, err := ParseAdd("bin/agent:/usr/bin/agent:755")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Add{Source: "bin/agent", Destination: "/usr/bin/agent", Mode: 0o755}, add); diff != "" {
		t.Errorf("ParseAdd (-want +got):\n%s", diff)
	}
}

func TestSameFilesGiveSameDigest(t *testing.T) {
	t.Parallel()
	var digests []string
	for range 2 {
		dir := tree(t)
		img, err := Build(Spec{Add: []Add{{Source: dir, Destination: "/opt"}}, Entrypoint: []string{"/opt/run"}})
		if err != nil {
			t.Fatal(err)
		}
		digest, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest.String())
	}
	if digests[0] != digests[1] {
		t.Errorf("equal trees have digests %s and %s", digests[0], digests[1])
	}
}

func TestLayerHoldsFilesLinksAndParents(t *testing.T) {
	t.Parallel()
	img, err := Build(Spec{Add: []Add{
		{Source: tree(t), Destination: "/opt"},
		{Source: filepath.Join(tree(t), "run"), Destination: "/usr/bin/run", Mode: 0o700},
		{Link: "/usr/bin/run", Destination: "/bin/sh"},
		{Directory: true, Destination: "/tmp", Mode: 0o1777},
		{Text: "root:x:0:0::/:\n", Destination: "/etc/passwd"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := `bin/ 755
bin/sh -> /usr/bin/run
etc/ 755
etc/passwd 644 "root:x:0:0::/:\n"
opt/ 755
opt/link -> run
opt/run 755 "#!/bin/sh\n"
opt/sub/ 755
opt/sub/data 644 "data"
tmp/ 1777
usr/ 755
usr/bin/ 755
usr/bin/run 700 "#!/bin/sh\n"
`
	if got := listing(t, img); got != want {
		t.Errorf("layer:\n%s\nwant:\n%s", got, want)
	}
}

func TestNewEntrypointDropsArgumentsOfBase(t *testing.T) {
	t.Parallel()
	base, err := Build(Spec{Entrypoint: []string{"/a"}, Cmd: []string{"x"}, Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	img, err := Build(Spec{Base: base, Entrypoint: []string{"/b"}, Env: []string{"K=V"}})
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{Entrypoint: []string{"/b"}, Env: []string{"PATH=/bin", "K=V"}}
	if diff := cmp.Diff(want, file.Config, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestOpenReadsEveryFormat(t *testing.T) {
	t.Parallel()
	img, err := Build(Spec{Add: []Add{{Source: tree(t), Destination: "/"}}})
	if err != nil {
		t.Fatal(err)
	}
	const ref = "registry.example/team/app:v1"
	docker := filepath.Join(t.TempDir(), "docker.tar")
	if err := WriteArchive(docker, ref, img); err != nil {
		t.Fatal(err)
	}
	oci := t.TempDir()
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
		Annotations: map[string]string{"io.containerd.image.name": ref}}})
	if _, err := layout.Write(oci, index); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "oci.tar")
	tarDirectory(t, oci, archive)

	for _, source := range []string{docker, oci, archive} {
		images, closeImages, err := Open(source)
		if err != nil {
			t.Fatalf("Open(%s): %v", source, err)
		}
		if len(images) != 1 || len(images[0].Names) != 1 || images[0].Names[0] != ref {
			t.Fatalf("Open(%s) = %+v, want one image named %s", source, images, ref)
		}
		if got, want := listing(t, images[0].Image), listing(t, img); got != want {
			t.Errorf("Open(%s) holds\n%s\nwant\n%s", source, got, want)
		}
		if err := closeImages(); err != nil {
			t.Error(err)
		}
	}
	rootfs, _, err := Open(tree(t))
	if err != nil || len(rootfs) != 1 || len(rootfs[0].Names) != 0 {
		t.Fatalf("Open(root file system) = %+v, %v, want one image without a name", rootfs, err)
	}
}

func TestArchiveEntryOutsideIsRefused(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "evil.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.WriteHeader(&tar.Header{Name: "../escaped", Typeflag: tar.TypeReg, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if images, _, err := Open(file); err == nil {
		t.Errorf("Open = %+v, want an error", images)
	}
}

func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "run"), []byte("#!/bin/sh\n"), 0o755),
		os.Symlink("run", filepath.Join(dir, "link")),
		os.Mkdir(filepath.Join(dir, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub", "data"), []byte("data"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// listing returns the text form of an image's layers.
func listing(t *testing.T, img v1.Image) string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, layer := range layers {
		r, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		archive := tar.NewReader(r)
		for {
			h, err := archive.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			out.WriteString(line(h, content))
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

func line(h *tar.Header, content []byte) string {
	switch h.Typeflag {
	case tar.TypeSymlink:
		return h.Name + " -> " + h.Linkname + "\n"
	case tar.TypeDir:
		return h.Name + " " + fmt.Sprintf("%o\n", h.Mode)
	default:
		return h.Name + " " + fmt.Sprintf("%o %q\n", h.Mode, content)
	}
}

func tarDirectory(t *testing.T, dir, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

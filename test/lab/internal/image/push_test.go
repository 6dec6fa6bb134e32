package image

import (
	"io"
	"log"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestPushReplacesHostOfName(t *testing.T) {
	t.Parallel()
	img, err := Build(Spec{Add: []Add{{Source: tree(t), Destination: "/opt"}}, Entrypoint: []string{"/opt/run"}, Architecture: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "a.tar")
	if err := WriteArchive(archive, "spiderpool.dev/agent:v1", img); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")

	pushed, err := Push(t.Context(), archive, host+"/team/net")
	if err != nil {
		t.Fatal(err)
	}
	want := host + "/team/net/agent:v1"
	if diff := cmp.Diff([]string{want}, pushed); diff != "" {
		t.Errorf("pushed (-want +got):\n%s", diff)
	}
	ref, err := name.ParseReference(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	config, err := got.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm64" || cmp.Diff(config.Config.Entrypoint, []string{"/opt/run"}) != "" {
		t.Errorf("the registry has an image for %s that starts %q", config.Architecture, config.Config.Entrypoint)
	}
	if listing(t, got) != listing(t, img) {
		t.Error("the registry has other files")
	}
}

func TestPushKeepsAllArchitectures(t *testing.T) {
	t.Parallel()
	archive := filepath.Join(t.TempDir(), "a.oci.tar")
	digest, err := WriteOCIArchive(archive, "spiderpool.dev/agent:v1", []v1.Image{imageFor(t, "amd64"), imageFor(t, "arm64")})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	pushed, err := Push(t.Context(), archive, strings.TrimPrefix(server.URL, "http://")+"/team")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(pushed[0])
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got != digest {
		t.Errorf("the registry has the index %s, the archive %s", got, digest)
	}
}

func TestPushRefusesScheme(t *testing.T) {
	t.Parallel()
	if pushed, err := Push(t.Context(), "a.tar", "https://registry.example"); err == nil || !strings.Contains(err.Error(), "without a scheme") {
		t.Errorf("pushed %q, error %v", pushed, err)
	}
}

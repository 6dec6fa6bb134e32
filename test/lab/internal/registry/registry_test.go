package registry

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"spiderpool.dev/spiderpool/test/lab/internal/image"
)

func TestOfferedImageKeepsItsRegistrysName(t *testing.T) {
	t.Parallel()
	img := build(t, "hello")
	archive := filepath.Join(t.TempDir(), "a.tar")
	if err := image.WriteArchive(archive, "k8s.gcr.io/e2e/echo:2.5", img); err != nil {
		t.Fatal(err)
	}
	r := New(t.TempDir(), io.Discard)
	if err := r.Offer(archive); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	defer server.Close()

	// An archive does not store the manifest, so the registry's manifest has a new digest.
	images, closeImages, err := image.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer closeImages()
	digest, err := images[0].Image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	got := get(t, server.URL+"/v2/e2e/echo/manifests/2.5?ns=k8s.gcr.io", http.StatusOK)
	if header := got.Header.Get("Docker-Content-Digest"); header != digest.String() {
		t.Errorf("digest %s, want %s", header, digest)
	}
	get(t, server.URL+"/v2/e2e/echo/manifests/2.5?ns=docker.io", http.StatusNotFound)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	get(t, server.URL+"/v2/e2e/echo/blobs/"+layer.String()+"?ns=k8s.gcr.io", http.StatusOK)
}

func TestPushReplacesImageOfSameName(t *testing.T) {
	t.Parallel()
	r := New(t.TempDir(), io.Discard)
	server := httptest.NewServer(r)
	defer server.Close()
	for _, content := range []string{"one", "two"} {
		if err := Push(t.Context(), to(t, server), "nginx", build(t, content)); err != nil {
			t.Fatal(err)
		}
	}
	digest, err := build(t, "two").Digest()
	if err != nil {
		t.Fatal(err)
	}
	got := get(t, server.URL+"/v2/library/nginx/manifests/latest?ns=docker.io", http.StatusOK)
	if header := got.Header.Get("Docker-Content-Digest"); header != digest.String() {
		t.Errorf("digest %s, want that of the second image, %s", header, digest)
	}
}

func TestRegistryPortIsPartOfName(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(New(t.TempDir(), io.Discard))
	defer server.Close()
	if err := Push(t.Context(), to(t, server), "localhost:5000/app:v1", build(t, "x")); err != nil {
		t.Fatal(err)
	}
	get(t, server.URL+"/v2/app/manifests/v1?ns=localhost:5000", http.StatusOK)
}

func TestBadNameIsRefused(t *testing.T) {
	t.Parallel()
	err := Push(t.Context(), http.DefaultTransport, "UPPER/case:v1", build(t, "x"))
	if err == nil || !strings.Contains(err.Error(), "UPPER/case") {
		t.Errorf("got %v", err)
	}
}

func build(t *testing.T, content string) v1.Image {
	t.Helper()
	img, err := image.Build(image.Spec{Add: []image.Add{{Text: content, Destination: "/file"}}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// to connects to the server, for any host name.
func to(t *testing.T, server *httptest.Server) http.RoundTripper {
	t.Helper()
	return &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}}
}

func get(t *testing.T, address string, want int) *http.Response {
	t.Helper()
	response, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != want {
		t.Errorf("GET %s: %s, want %d", address, response.Status, want)
	}
	return response
}

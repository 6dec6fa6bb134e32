// Package registry is the lab's image registry. It serves every image of the lab under
// its usual name, for any registry in that name.
//
// It is a mirror of all registries. A container runtime sends the original registry in
// the query (ns=docker.io), which becomes the first part of the repository here. Images
// offered at the start are served from their files, without a copy.
package registry

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"spiderpool.dev/spiderpool/test/lab/internal/image"
)

// Registry is an http.Handler that speaks the OCI distribution protocol.
type Registry struct {
	handler http.Handler
	blobs   *blobs
}

// New returns an empty registry that stores pushed images in the directory and logs
// refused requests to requests.
func New(dir string, requests io.Writer) *Registry {
	b := &blobs{pushed: registry.NewDiskBlobHandler(dir), offered: map[v1.Hash]opener{}}
	return &Registry{blobs: b, handler: registry.New(
		registry.WithBlobHandler(b), registry.Logger(log.New(requests, "", log.LstdFlags)))}
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if host := req.URL.Query().Get("ns"); host != "" {
		if rest, ok := strings.CutPrefix(req.URL.Path, "/v2/"); ok && rest != "" {
			req = req.Clone(req.Context())
			req.URL.Path = "/v2/" + directory(host) + "/" + rest
		}
	}
	r.handler.ServeHTTP(w, req)
}

// Offer serves the images of an archive or a directory under their names. The files must
// stay in place.
func (r *Registry) Offer(source string) error {
	images, _, err := image.Open(source)
	if err != nil {
		return err
	}
	for _, img := range images {
		for _, ref := range img.Names {
			if err := r.offer(ref, img.Image); err != nil {
				return fmt.Errorf("offer %s: %w", ref, err)
			}
		}
	}
	return nil
}

func (r *Registry) offer(ref string, img v1.Image) error {
	repository, identifier, err := location(ref)
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	config, err := partial.ConfigLayer(img)
	if err != nil {
		return err
	}
	for _, layer := range append(layers, config) {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		size, err := layer.Size()
		if err != nil {
			return err
		}
		r.blobs.offer(digest, opener{size: size, open: layer.Compressed})
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return err
	}
	req := httptest.NewRequest(http.MethodPut, "/v2/"+repository+"/manifests/"+identifier, strings.NewReader(string(manifest)))
	req.Header.Set("Content-Type", string(mediaType))
	answer := httptest.NewRecorder()
	r.handler.ServeHTTP(answer, req)
	if answer.Code != http.StatusCreated {
		return fmt.Errorf("store manifest: %d %s", answer.Code, answer.Body)
	}
	return nil
}

// Push loads an image into a running registry under the name. transport connects to the
// registry.
func Push(ctx context.Context, transport http.RoundTripper, ref string, img v1.Image) error {
	repository, identifier, err := location(ref)
	if err != nil {
		return err
	}
	to, err := name.ParseReference("registry.lab/"+repository+":"+identifier, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(to, img, remote.WithContext(ctx), remote.WithTransport(transport))
}

// location returns the repository and tag of an image name in this registry.
func location(ref string) (repository, identifier string, err error) {
	parsed, err := name.NewTag(ref)
	if err != nil {
		return "", "", fmt.Errorf("image name %q: %w", ref, err)
	}
	host := parsed.RegistryStr()
	if host == name.DefaultRegistry {
		host = "docker.io"
	}
	return directory(host) + "/" + parsed.RepositoryStr(), parsed.TagStr(), nil
}

// directory turns a registry's host and port into a part of a repository's name.
func directory(host string) string { return strings.ReplaceAll(host, ":", "_") }

// Hosts returns a hosts.toml that makes the registry at address a mirror of all others
// and keeps containerd from trying the originals.
func Hosts(address string) string {
	u := url.URL{Scheme: "http", Host: address}
	return fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", u.String(), u.String())
}

type opener struct {
	size int64
	open func() (io.ReadCloser, error)
}

// blobs are the offered blobs on top of the pushed ones.
type blobs struct {
	pushed  registry.BlobHandler
	mu      sync.RWMutex
	offered map[v1.Hash]opener
}

func (b *blobs) offer(h v1.Hash, o opener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.offered[h] = o
}

func (b *blobs) find(h v1.Hash) (opener, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	o, ok := b.offered[h]
	return o, ok
}

// Get implements registry.BlobHandler.
func (b *blobs) Get(ctx context.Context, repository string, h v1.Hash) (io.ReadCloser, error) {
	if o, ok := b.find(h); ok {
		return o.open()
	}
	return b.pushed.Get(ctx, repository, h)
}

// Stat implements registry.BlobStatHandler.
func (b *blobs) Stat(ctx context.Context, repository string, h v1.Hash) (int64, error) {
	if o, ok := b.find(h); ok {
		return o.size, nil
	}
	return b.pushed.(registry.BlobStatHandler).Stat(ctx, repository, h)
}

// Put implements registry.BlobPutHandler.
func (b *blobs) Put(ctx context.Context, repository string, h v1.Hash, content io.ReadCloser) error {
	return b.pushed.(registry.BlobPutHandler).Put(ctx, repository, h, content)
}

package image

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// WriteOCIArchive writes images of different architectures as one image under the name,
// in an OCI archive: a tar file with an image layout of the OCI image specification. It
// returns the digest of the index, the digest of the image in every registry. Equal
// images give an equal file. The write is atomic.
func WriteOCIArchive(file, ref string, images []v1.Image) (v1.Hash, error) {
	tag, err := name.NewTag(ref)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("image name %q: %w", ref, err)
	}
	index, err := join(images)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return v1.Hash{}, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return v1.Hash{}, err
	}
	defer os.RemoveAll(dir)
	to, err := layout.Write(dir, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return v1.Hash{}, fmt.Errorf("write OCI layout: %w", err)
	}
	// containerd reads the first annotation, skopeo the second.
	names := map[string]string{refAnnotations[0]: tag.String(), refAnnotations[1]: tag.String()}
	if err := to.AppendIndex(index, layout.WithAnnotations(names)); err != nil {
		return v1.Hash{}, fmt.Errorf("write OCI layout: %w", err)
	}
	if err := pack(file, dir); err != nil {
		return v1.Hash{}, fmt.Errorf("write %s: %w", file, err)
	}
	return index.Digest()
}

// join returns an index with the images and their platforms.
func join(images []v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		config, err := img.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("read image config: %w", err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: config.OS, Architecture: config.Architecture}},
		})
	}
	return index, nil
}

// pack writes the directory as a tar file with fixed modes, owners and times.
func pack(file, dir string) error {
	entries, err := collect([]Add{{Source: dir, Destination: "/", Mode: 0o644}})
	if err != nil {
		return err
	}
	partial, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(partial.Name())
	if err := partial.Chmod(0o644); err != nil {
		return err
	}
	if err := writeTar(partial, entries); err != nil {
		return err
	}
	if err := partial.Close(); err != nil {
		return err
	}
	return os.Rename(partial.Name(), file)
}

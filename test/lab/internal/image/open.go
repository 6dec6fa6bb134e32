package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Named is an image and its names in the archive.
type Named struct {
	Names []string
	Image v1.Image
	// Index is the same image for all architectures, or nil if the archive has one
	// architecture only.
	Index v1.ImageIndex
}

// refAnnotation is the annotation for an image's name in an OCI index, used by
// `docker save`, skopeo and buildkit.
var refAnnotations = []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"}

// Open reads the images of a docker archive, an OCI archive, a directory with an
// OCI layout, or a root file system (one image without a name). Call close when the
// images are no longer needed; it removes unpacked files.
func Open(source string) (images []Named, close func() error, err error) {
	nothing := func() error { return nil }
	info, err := os.Stat(source)
	if err != nil {
		return nil, nothing, err
	}
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(source, "oci-layout")); errors.Is(err, fs.ErrNotExist) {
			img, err := Build(Spec{Add: []Add{{Source: source, Destination: "/"}}})
			return []Named{{Image: img}}, nothing, err
		}
		images, err = openLayout(source)
		return images, nothing, err
	}
	docker, err := contains(source, "manifest.json")
	if err != nil {
		return nil, nothing, fmt.Errorf("read %s: %w", source, err)
	}
	if docker {
		images, err = openDocker(source)
		return images, nothing, err
	}
	dir, err := os.MkdirTemp("", "lab-image-")
	if err != nil {
		return nil, nothing, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	if err := unpack(source, dir); err != nil {
		return nil, remove, fmt.Errorf("unpack %s: %w", source, err)
	}
	images, err = openLayout(dir)
	return images, remove, err
}

func openDocker(file string) ([]Named, error) {
	opener := func() (io.ReadCloser, error) { return os.Open(file) }
	manifest, err := tarball.LoadManifest(opener)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	var images []Named
	for _, descriptor := range manifest {
		var tag *name.Tag
		if len(descriptor.RepoTags) > 0 {
			parsed, err := name.NewTag(descriptor.RepoTags[0])
			if err != nil {
				return nil, fmt.Errorf("read %s: image name %q: %w", file, descriptor.RepoTags[0], err)
			}
			tag = &parsed
		} else if len(manifest) > 1 {
			return nil, fmt.Errorf("read %s: it has several images, and one has no name", file)
		}
		img, err := tarball.Image(opener, tag)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		images = append(images, Named{Names: descriptor.RepoTags, Image: img})
	}
	return images, nil
}

func openLayout(dir string) ([]Named, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("read OCI layout %s: %w", dir, err)
	}
	images, err := imagesOf(index, nil)
	if err != nil {
		return nil, fmt.Errorf("read OCI layout %s: %w", dir, err)
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("read OCI layout %s: it has no image for linux/amd64", dir)
	}
	return images, nil
}

// imagesOf lists the index's images for this platform. Images of a nested index get
// the nested index's name.
func imagesOf(index v1.ImageIndex, inherited []string) ([]Named, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var images []Named
	for _, d := range manifest.Manifests {
		names := inherited
		for _, key := range refAnnotations {
			if ref := d.Annotations[key]; strings.ContainsAny(ref, "/:") {
				names = []string{ref}
				break
			}
		}
		switch {
		case d.MediaType.IsIndex():
			nested, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			more, err := imagesOf(nested, names)
			if err != nil {
				return nil, err
			}
			for i := range more {
				more[i].Index = nested
			}
			images = append(images, more...)
		case d.MediaType.IsImage() && (d.Platform == nil || d.Platform.OS == "linux" && d.Platform.Architecture == "amd64"):
			img, err := index.Image(d.Digest)
			if err != nil {
				return nil, err
			}
			images = append(images, Named{Names: names, Image: img})
		}
	}
	return images, nil
}

// contains reports whether the tar file has an entry of that name.
func contains(file, entry string) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	archive := tar.NewReader(f)
	for {
		h, err := archive.Next()
		switch {
		case err == io.EOF:
			return false, nil
		case err != nil:
			return false, err
		case filepath.Clean(h.Name) == entry:
			return true, nil
		}
	}
}

// unpack writes the regular files of a tar file below a directory. It refuses paths
// that leave the directory.
func unpack(file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	archive := tar.NewReader(f)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := root.MkdirAll(filepath.Dir(filepath.Clean(h.Name)), 0o755); err != nil {
			return err
		}
		if err := unpackFile(root, filepath.Clean(h.Name), archive); err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, name string, content io.Reader) error {
	to, err := root.Create(name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, content); err != nil {
		to.Close()
		return err
	}
	return to.Close()
}

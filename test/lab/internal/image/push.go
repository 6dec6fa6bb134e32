package image

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Push uploads the images of an archive to a registry and returns their new names. The
// host and path in to, e.g. "registry.example.com/team", replace the host in each name:
// spiderpool.dev/spiderpool-agent:v1 becomes registry.example.com/team/spiderpool-agent:v1.
// The credentials are those of "docker login".
func Push(ctx context.Context, archive, to string) (pushed []string, err error) {
	if strings.Contains(to, "://") {
		return nil, fmt.Errorf("registry %q: write the host and path without a scheme, e.g. registry.example.com/team", to)
	}
	images, closeImages, err := Open(archive)
	defer func() { err = errors.Join(err, closeImages()) }()
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		if len(img.Names) == 0 {
			return pushed, errors.New("an image without a name; build it with --tag")
		}
		for _, ref := range img.Names {
			tag, err := name.NewTag(ref)
			if err != nil {
				return pushed, fmt.Errorf("image name %q: %w", ref, err)
			}
			moved, err := name.NewTag(to + "/" + tag.RepositoryStr() + ":" + tag.TagStr())
			if err != nil {
				return pushed, fmt.Errorf("registry %q: %w", to, err)
			}
			if err := upload(ctx, moved, img); err != nil {
				return pushed, err
			}
			pushed = append(pushed, moved.String())
		}
	}
	return pushed, nil
}

// upload writes the image, for all architectures that the archive has.
func upload(ctx context.Context, to name.Tag, img Named) error {
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	if img.Index != nil {
		return remote.WriteIndex(to, img.Index, options...)
	}
	return remote.Write(to, img.Image, options...)
}

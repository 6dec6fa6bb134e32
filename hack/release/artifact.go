package main

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// artifact is an image or an archive with Go programs.
type artifact struct {
	name     string // name with a tag of an image, or file name of an archive
	file     string // file name
	digest   string // SHA-256 of the image's index, or of the archive
	image    bool
	programs []program
}

// program is a Go program of an artifact.
type program struct {
	path string // with the platform, e.g. linux/arm64:usr/bin/spiderpool-agent
	info *debug.BuildInfo
}

// modules returns the modules in the programs of the artifact, without the main module,
// sorted. A replaced module counts as its replacement.
func (a *artifact) modules() []debug.Module {
	found := map[debug.Module]bool{}
	for _, p := range a.programs {
		for _, dep := range p.info.Deps {
			if dep.Replace != nil {
				dep = dep.Replace
			}
			found[debug.Module{Path: dep.Path, Version: dep.Version}] = true
		}
	}
	return sortedModules(found)
}

func sortedModules(set map[debug.Module]bool) []debug.Module {
	var all []debug.Module
	for module := range set {
		all = append(all, module)
	}
	slices.SortFunc(all, func(a, b debug.Module) int { return strings.Compare(a.Path+"@"+a.Version, b.Path+"@"+b.Version) })
	return all
}

// openImages reads the OCI archives (*.oci.tar) of the directory.
func openImages(dir string) (images []*artifact, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.oci.tar"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no image *.oci.tar", dir)
	}
	for _, file := range files {
		image, err := openImage(file)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		images = append(images, image)
	}
	return images, nil
}

// openImage reads an OCI archive with one image for several platforms.
func openImage(file string) (*artifact, error) {
	image := &artifact{file: filepath.Base(file), image: true}
	err := eachPlatform(file, func(top v1.Descriptor, platform string, img v1.Image) error {
		image.name, image.digest = top.Annotations["org.opencontainers.image.ref.name"], top.Digest.Hex
		programs, err := programsOf(img, platform)
		image.programs = append(image.programs, programs...)
		return err
	})
	return image, err
}

// eachPlatform calls do with the index of an OCI archive, and with the image for each platform, e.g. linux/arm64.
func eachPlatform(file string, do func(top v1.Descriptor, platform string, img v1.Image) error) (err error) {
	dir, err := os.MkdirTemp("", "release-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := unpack(file, dir); err != nil {
		return err
	}
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return err
	}
	top, err := root.IndexManifest()
	if err != nil {
		return err
	}
	if len(top.Manifests) != 1 || !top.Manifests[0].MediaType.IsIndex() {
		return fmt.Errorf("it has %d entries, want one image for several platforms", len(top.Manifests))
	}
	index, err := root.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range manifest.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			return err
		}
		if err := do(top.Manifests[0], d.Platform.String(), img); err != nil {
			return err
		}
	}
	return nil
}

// programsOf returns the programs of an image. Another kind of file is an error, because
// the SBOM would lack it.
func programsOf(img v1.Image, platform string) (found []program, err error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	for _, layer := range layers {
		err := eachFileOf(layer, func(header *tar.Header, content []byte) error {
			name := header.Name
			if strings.HasPrefix(name, "licenses/") {
				return nil
			}
			info, err := buildinfo.Read(bytes.NewReader(content))
			if err != nil {
				return fmt.Errorf("%s is no Go program, and the SBOM describes Go programs only: %w", name, err)
			}
			found = append(found, program{path: platform + ":" + name, info: info})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// eachFileOf calls do with each regular file of the layer.
func eachFileOf(layer v1.Layer, do func(header *tar.Header, content []byte) error) (err error) {
	content, err := layer.Uncompressed()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	return eachFile(content, do)
}

// eachFile calls do with each regular file of a tar archive.
func eachFile(content io.Reader, do func(header *tar.Header, content []byte) error) error {
	archive := tar.NewReader(content)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		file, err := io.ReadAll(archive)
		if err != nil {
			return err
		}
		if err := do(header, file); err != nil {
			return err
		}
	}
}

// unpack writes the files of a tar file below the directory.
func unpack(file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return eachFile(f, func(header *tar.Header, content []byte) error { return put(dir, header, content) })
}

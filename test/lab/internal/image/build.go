// Package image builds, reads and writes container images without a container
// runtime: files of this machine become an image, an archive or a directory becomes
// images, an image becomes an archive.
//
// It only reads and writes files; the caller moves the images. The same files, modes
// and settings always give the same digest: all owners are root, all times are zero,
// and entries are sorted.
package image

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec describes an image.
type Spec struct {
	// Base is the base image; nil is an empty one.
	Base v1.Image
	// Add is one layer on top of the base. A later entry replaces an earlier one
	// with the same destination.
	Add []Add
	// Entrypoint, Cmd, WorkingDir and User replace the base's settings unless empty.
	// Env (KEY=VALUE) is appended to the base's.
	Entrypoint []string
	Cmd        []string
	Env        []string
	WorkingDir string
	User       string
	Labels     map[string]string
	// Architecture of the programs, in Go's terms, e.g. arm64; empty for this machine's.
	Architecture string
}

// Add adds a file, a symbolic link, or a directory with its contents to an image.
type Add struct {
	// Source is a path on this machine. The contents of a directory go to
	// Destination. "{arch}" stands for the architecture of the image, e.g.
	// "bin/{arch}/agent".
	Source string
	// Link makes Destination a symbolic link to this path, unless empty. Source is
	// empty then.
	Link string
	// Text is the content of a file, unless empty. Source is empty then.
	Text string
	// Directory makes Destination an empty directory. Source is empty then.
	Directory bool
	// Destination is an absolute path in the image.
	Destination string
	// Mode is the permission of the file, or of every regular file in the directory.
	// Zero keeps the source's mode.
	Mode fs.FileMode
}

// ParseAdd reads "SRC:DST" or "SRC:DST:MODE", with MODE in octal.
func ParseAdd(text string) (Add, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		return Add{}, fmt.Errorf("--add %q: want SRC:DST or SRC:DST:MODE, e.g. bin/agent:/usr/bin/agent:755", text)
	}
	add := Add{Source: parts[0], Destination: parts[1]}
	if !path.IsAbs(add.Destination) {
		return Add{}, fmt.Errorf("--add %q: destination %q must be an absolute path", text, add.Destination)
	}
	if len(parts) == 3 {
		mode, err := strconv.ParseUint(parts[2], 8, 12)
		if err != nil {
			return Add{}, fmt.Errorf("--add %q: mode %q must be octal, e.g. 755", text, parts[2])
		}
		add.Mode = fs.FileMode(mode)
	}
	return add, nil
}

// Build builds the image. It reads every source once now, and again for each read of
// the layer.
func Build(spec Spec) (v1.Image, error) {
	img := spec.Base
	if img == nil {
		img = mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	}
	if len(spec.Add) > 0 {
		adds := slices.Clone(spec.Add)
		for i := range adds {
			adds[i].Source = strings.ReplaceAll(adds[i].Source, "{arch}", cmp.Or(spec.Architecture, runtime.GOARCH))
		}
		entries, err := collect(adds)
		if err != nil {
			return nil, err
		}
		// Images of the lab live for minutes and cross only a veth pair, so better
		// compression costs more than it saves.
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return stream(entries), nil },
			tarball.WithCompressionLevel(gzip.BestSpeed), tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, fmt.Errorf("build layer: %w", err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, fmt.Errorf("append layer: %w", err)
		}
	}
	return configure(img, spec)
}

func configure(img v1.Image, spec Spec) (v1.Image, error) {
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read image config: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", cmp.Or(spec.Architecture, runtime.GOARCH)
	if len(spec.Entrypoint) > 0 {
		// Like docker: a new entrypoint clears the base's arguments.
		file.Config.Entrypoint, file.Config.Cmd = spec.Entrypoint, nil
	}
	if len(spec.Cmd) > 0 {
		file.Config.Cmd = spec.Cmd
	}
	file.Config.Env = append(file.Config.Env, spec.Env...)
	if spec.WorkingDir != "" {
		file.Config.WorkingDir = spec.WorkingDir
	}
	if spec.User != "" {
		file.Config.User = spec.User
	}
	for key, value := range spec.Labels {
		if file.Config.Labels == nil {
			file.Config.Labels = map[string]string{}
		}
		file.Config.Labels[key] = value
	}
	return mutate.ConfigFile(img, file)
}

// WriteArchive writes the image under the name as an archive for `docker load` and
// `lab image load`. The write is atomic.
func WriteArchive(file, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("image name %q: %w", ref, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	partial, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(partial.Name())
	if err := tarball.Write(tag, img, partial); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := partial.Close(); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(partial.Name(), file)
}

// entry is one header of the layer and the source of its content.
type entry struct {
	header *tar.Header
	source string
	text   string
}

// collect lists the layer's entries by destination, parents first.
func collect(adds []Add) ([]entry, error) {
	byPath := map[string]entry{}
	put := func(e entry) {
		for dir := path.Dir(e.header.Name); dir != "."; dir = path.Dir(dir) {
			if _, ok := byPath[dir]; !ok {
				byPath[dir] = entry{header: &tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}}
			}
		}
		byPath[e.header.Name] = e
	}
	for _, add := range adds {
		destination := strings.TrimPrefix(path.Clean(add.Destination), "/")
		switch {
		case add.Link != "":
			put(entry{header: &tar.Header{Typeflag: tar.TypeSymlink, Name: destination, Linkname: add.Link, Mode: 0o777}})
		case add.Directory:
			mode := add.Mode
			if mode == 0 {
				mode = 0o755
			}
			put(entry{header: &tar.Header{Typeflag: tar.TypeDir, Name: destination, Mode: int64(mode)}})
		case add.Source == "":
			mode := add.Mode
			if mode == 0 {
				mode = 0o644
			}
			put(entry{header: &tar.Header{Typeflag: tar.TypeReg, Name: destination, Mode: int64(mode), Size: int64(len(add.Text))}, text: add.Text})
		default:
			if err := walk(add, destination, put); err != nil {
				return nil, fmt.Errorf("add %s: %w", add.Source, err)
			}
		}
	}
	entries := make([]entry, 0, len(byPath))
	for _, e := range byPath {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.header.Name, b.header.Name) })
	return entries, nil
}

// walk adds the source, or everything below it, at the destination.
func walk(add Add, destination string, put func(entry)) error {
	root, err := os.Stat(add.Source) // Stat follows a symbolic link
	if err != nil {
		return err
	}
	if !root.IsDir() {
		put(entry{header: header(root, destination, add.Mode), source: add.Source})
		return nil
	}
	return filepath.WalkDir(add.Source, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(add.Source, file)
		if err != nil {
			return err
		}
		to := path.Join(destination, filepath.ToSlash(relative))
		if to == "" || to == "." {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			put(entry{header: &tar.Header{Typeflag: tar.TypeDir, Name: to, Mode: int64(info.Mode().Perm())}})
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			put(entry{header: &tar.Header{Typeflag: tar.TypeSymlink, Name: to, Linkname: target, Mode: 0o777}})
		case info.Mode().IsRegular():
			put(entry{header: header(info, to, add.Mode), source: file})
		default:
			return fmt.Errorf("%s is neither a file, a directory nor a symbolic link", file)
		}
		return nil
	})
}

func header(info fs.FileInfo, name string, mode fs.FileMode) *tar.Header {
	if mode == 0 {
		mode = info.Mode().Perm()
	}
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode), Size: info.Size()}
}

// stream returns a reader that produces the entries as a tar file.
func stream(entries []entry) io.ReadCloser {
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTar(w, entries)) }()
	return r
}

func writeTar(w io.Writer, entries []entry) error {
	archive := tar.NewWriter(w)
	for _, e := range entries {
		h := *e.header
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if err := archive.WriteHeader(&h); err != nil {
			return err
		}
		if err := writeContent(archive, e); err != nil {
			return fmt.Errorf("%s: %w", e.header.Name, err)
		}
	}
	return archive.Close()
}

func writeContent(w io.Writer, e entry) error {
	if e.source == "" {
		_, err := io.WriteString(w, e.text)
		return err
	}
	file, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(w, file)
	return err
}

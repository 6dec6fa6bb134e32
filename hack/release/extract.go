package main

import (
	"archive/tar"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// extractCommand writes the files of all images of a release below a directory, for one platform, and prints the path of
// each image's entrypoint.
func extractCommand(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("extract", flag.ContinueOnError)
	platform := flags.String("platform", "", "platform of the images, e.g. linux/arm64")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *platform == "" || flags.NArg() != 2 {
		return errors.New("extract: want --platform, the directory of the release and a directory to write")
	}
	files, err := filepath.Glob(filepath.Join(flags.Arg(0), "*.oci.tar"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s has no image *.oci.tar", flags.Arg(0))
	}
	for _, file := range files {
		entrypoint, err := extract(file, *platform, filepath.Join(flags.Arg(1), strings.TrimSuffix(filepath.Base(file), ".oci.tar")))
		if err != nil {
			return fmt.Errorf("extract %s: %w", file, err)
		}
		fmt.Fprintln(out, entrypoint)
	}
	return nil
}

// extract writes the files of the image for a platform below a directory, and returns the path of its entrypoint there.
func extract(file, platform, dir string) (entrypoint string, err error) {
	err = eachPlatform(file, func(_ v1.Descriptor, of string, img v1.Image) error {
		if of != platform {
			return nil
		}
		config, err := img.ConfigFile()
		if err != nil {
			return err
		}
		if is := config.OS + "/" + config.Architecture; is != platform {
			return fmt.Errorf("the index says %s, the configuration of the image %s", platform, is)
		}
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		for _, layer := range layers {
			if err := eachFileOf(layer, func(header *tar.Header, content []byte) error { return put(dir, header, content) }); err != nil {
				return err
			}
		}
		if len(config.Config.Entrypoint) == 0 {
			return errors.New("the image has no entrypoint")
		}
		entrypoint = filepath.Join(dir, config.Config.Entrypoint[0])
		_, err = os.Stat(entrypoint)
		return err
	})
	if err == nil && entrypoint == "" {
		err = fmt.Errorf("it has no image for %s", platform)
	}
	return entrypoint, err
}

// put writes a file of an archive below a directory, with its permissions.
func put(dir string, header *tar.Header, content []byte) error {
	if !filepath.IsLocal(header.Name) {
		return fmt.Errorf("the entry %q leaves the archive", header.Name)
	}
	to := filepath.Join(dir, header.Name)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, header.FileInfo().Mode().Perm())
}

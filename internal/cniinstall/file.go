package cniinstall

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"spiderpool.dev/spiderpool/internal/atomicfile"
)

// writeFile writes the file atomically unless it has this content and mode already.
// It reports whether it wrote.
func writeFile(path string, content []byte, mode fs.FileMode) (written bool, err error) {
	if same, err := hasContent(path, content, mode); err != nil || same {
		return false, err
	}
	return true, atomicfile.Write(path, content, mode)
}

func hasContent(path string, content []byte, mode fs.FileMode) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.IsDir() {
		return false, fmt.Errorf("%s is a directory, but a file must take its place: remove it", path)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm() != mode || info.Size() != int64(len(content)) {
		return false, nil
	}
	old, err := os.ReadFile(path)
	return bytes.Equal(old, content), err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Package atomicfile replaces files so that a reader, and the node after a power cut,
// finds the old content or the new one, never a part.
//
// google/renameio does the same but for the directory: it does not sync it, so a
// power cut may undo a rename that the caller has already reported as done. It also
// renames a trial file in os.TempDir at each write.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// UnfinishedPrefix begins the name of every file that Write has not finished. A crash
// leaves such files behind. The container runtime ignores names that begin with a dot.
const UnfinishedPrefix = "."

// Write replaces the file at path. When it returns nil, content and name are on disk.
func Write(path string, content []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, UnfinishedPrefix+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return SyncDir(dir)
}

// SyncDir makes the names in dir, such as those of files just created, renamed or
// removed, survive a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

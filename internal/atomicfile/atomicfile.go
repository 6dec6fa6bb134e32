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
func Write(path string, content []byte, mode fs.FileMode) error {
	u, err := Begin(path)
	if err != nil {
		return err
	}
	return u.Commit(content, mode)
}

// Replace is Write without a wait for the disk. A power cut may leave the old content,
// the new one or an empty file, so the path should be in memory, e.g. below /run.
func Replace(path string, content []byte, mode fs.FileMode) error {
	u, err := Begin(path)
	if err != nil {
		return err
	}
	return u.replace(content, mode, func() error { return nil })
}

// Unfinished is a file between Begin and Commit or Abort. It has a name of its own in
// the directory of its target: UnfinishedPrefix, the name of the target, a dot and a
// number, e.g. ".a.conf.123".
type Unfinished struct {
	path string
	tmp  *os.File
}

// Begin creates the unfinished file for path.
func Begin(path string) (*Unfinished, error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), UnfinishedPrefix+filepath.Base(path)+".*")
	if err != nil {
		return nil, err
	}
	return &Unfinished{path, tmp}, nil
}

// Commit gives the file its content and the name of its target. When it returns nil,
// content and name are on disk. If another process has removed the unfinished file,
// Commit changes nothing and the error is fs.ErrNotExist.
func (u *Unfinished) Commit(content []byte, mode fs.FileMode) error {
	if err := u.replace(content, mode, u.tmp.Sync); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(u.path))
}

// replace writes the content, calls sync and renames the file.
func (u *Unfinished) replace(content []byte, mode fs.FileMode, sync func() error) error {
	_, err := u.tmp.Write(content)
	if err == nil {
		err = u.tmp.Chmod(mode)
	}
	if err == nil {
		err = sync()
	}
	if err = errors.Join(err, u.tmp.Close()); err == nil {
		err = os.Rename(u.tmp.Name(), u.path)
	}
	if err != nil {
		return errors.Join(err, u.remove())
	}
	return nil
}

// Abort removes the unfinished file.
func (u *Unfinished) Abort() error { return errors.Join(u.tmp.Close(), u.remove()) }

func (u *Unfinished) remove() error {
	if err := os.Remove(u.tmp.Name()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
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

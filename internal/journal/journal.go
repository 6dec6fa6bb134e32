// Package journal keeps uncommitted releases on disk (ipam.Journal): one file per
// attachment, in one directory of the node.
//
// Several processes share the directory: the agent, a second agent during an update,
// and the CNI plugin while no agent answers. They see each other's releases, because
// the directory is the only state.
//
//   - A release survives a crash at any moment once finish(true) has returned: package
//     atomicfile syncs the file and the directory.
//   - A release begun before an ADD of the same container and interface never reaches
//     the disk after it: Supersede removes the unfinished file, so that its rename
//     fails.
//   - Supersede and Replay lock the attachment: one byte of the file "lock", at an
//     offset derived from the attachment (open file description locks, fcntl(2)). The
//     lock ends with its process.
//
// Replay sets aside a file that it cannot read, or whose content belongs under another
// name, as NAME.damaged, and reports it.
package journal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/atomicfile"
	"spiderpool.dev/spiderpool/internal/wire"
)

const (
	// suffix ends the name of every complete file.
	suffix = ".release.json"
	// damagedSuffix ends the name of a file that Replay has set aside.
	damagedSuffix = ".damaged"
	// lockName is the file with the locks of the attachments.
	lockName = "lock"
	// maxFiles limits the files in the directory, e.g. 40 restarts of each of 100 pods
	// without an agent. Reclaim releases the addresses beyond.
	maxFiles = 4096
	// maxRecordBytes limits a file. A record takes about 300 bytes.
	maxRecordBytes = 16 << 10
	// abandonedAfter is the age at which an unfinished file belongs to no process: a DEL
	// takes minutes at most.
	abandonedAfter = time.Hour
	// lockPause is the time between two attempts to take a lock.
	lockPause = 10 * time.Millisecond
)

// Journal is a directory of releases. Its methods are safe for concurrent use, also by
// several processes.
type Journal struct {
	// Dir is the directory. It is created, with mode 0700, when the first release begins.
	Dir string
}

// In returns the journal of the node whose agent has the state directory dir, e.g.
// /var/lib/spiderpool.
func In(dir string) Journal { return Journal{Dir: filepath.Join(dir, "releases")} }

// record is the content of a file, in JSON.
type record struct {
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
	Namespace   string `json:"namespace"`
	Pod         string `json:"pod"`
	PodUID      string `json:"podUID,omitempty"`
}

// fileName hashes the container ID, so that it cannot choose a path such as ../x.
func fileName(at wire.Attachment) string {
	sum := sha256.Sum256([]byte(at.ContainerID + "\x00" + at.Interface))
	return hex.EncodeToString(sum[:16]) + suffix
}

// Begin implements ipam.Journal.
func (j Journal) Begin(at wire.Attachment) (finish func(keep bool) error) {
	file, err := j.begin(fileName(at))
	return func(keep bool) error {
		switch {
		case err != nil && keep:
			return fmt.Errorf("write a release to disk: %w", err)
		case err != nil:
			return nil
		case !keep:
			return file.Abort()
		}
		return j.keep(file, at)
	}
}

func (j Journal) begin(name string) (*atomicfile.Unfinished, error) {
	path := filepath.Join(j.Dir, name)
	file, err := atomicfile.Begin(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if err := j.Create(); err != nil {
		return nil, err
	}
	return atomicfile.Begin(path)
}

// Create creates the directory.
func (j Journal) Create() error {
	if err := os.MkdirAll(j.Dir, 0o700); err != nil {
		return fmt.Errorf("create the directory of the journal: %w", err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(j.Dir)); err != nil {
		return fmt.Errorf("sync the parent of the journal's directory: %w", err)
	}
	return nil
}

func (j Journal) keep(file *atomicfile.Unfinished, at wire.Attachment) error {
	entries, err := os.ReadDir(j.Dir)
	if err == nil && len(entries) > maxFiles {
		err = fmt.Errorf("%s has %d files, the most is %d", j.Dir, len(entries), maxFiles)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write a release to disk: %w", err), file.Abort())
	}
	content, err := json.Marshal(record{
		ContainerID: at.ContainerID, Interface: at.Interface, Namespace: at.PodNamespace, Pod: at.PodName, PodUID: at.PodUID,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("encode a release: %w", err), file.Abort())
	}
	if err := file.Commit(content, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write a release to disk: %w", err)
	}
	return nil // fs.ErrNotExist: superseded
}

// Supersede implements ipam.Journal.
func (j Journal) Supersede(ctx context.Context, at wire.Attachment) (kept bool, err error) {
	name := fileName(at)
	found, err := j.namesOf(name)
	if err != nil || len(found) == 0 {
		return false, err
	}
	unlock, err := j.lock(ctx, name)
	if err != nil {
		return false, err
	}
	defer unlock()
	// The unfinished files go first: afterwards none can become the complete one.
	if found, err = j.namesOf(name); err != nil {
		return false, err
	}
	for _, f := range append(found, name) {
		err := os.Remove(filepath.Join(j.Dir, f))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return kept, fmt.Errorf("delete a release from disk: %w", err)
		}
		kept = kept || err == nil && f == name
	}
	return kept, atomicfile.SyncDir(j.Dir)
}

// namesOf returns the complete file of that name and its unfinished files.
func (j Journal) namesOf(name string) (found []string, err error) {
	entries, err := os.ReadDir(j.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the directory of the journal: %w", err)
	}
	for _, e := range entries { // unfinished names begin with a dot, so they come first
		if e.Name() == name || strings.HasPrefix(e.Name(), atomicfile.UnfinishedPrefix+name+".") {
			found = append(found, e.Name())
		}
	}
	return found, nil
}

// Replay implements ipam.Journal. It also removes abandoned unfinished files.
func (j Journal) Replay(ctx context.Context, commit func(context.Context, wire.Attachment) error) (left int, err error) {
	names, err := j.names()
	if err != nil {
		return 0, err
	}
	var errs []error
	for i, name := range names {
		err := j.replay(ctx, name, commit)
		var damage *damagedError
		switch {
		case errors.Is(err, errLocked):
			left++
		case errors.As(err, &damage):
			errs = append(errs, err)
		case err != nil:
			return left + len(names) - i, errors.Join(append(errs, err)...)
		}
	}
	return left, errors.Join(errs...)
}

// names returns the complete files, and removes abandoned ones.
func (j Journal) names() (names []string, err error) {
	entries, err := os.ReadDir(j.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the directory of the journal: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			names = append(names, e.Name())
			continue
		}
		info, err := e.Info()
		if err != nil || !strings.HasPrefix(e.Name(), atomicfile.UnfinishedPrefix) || time.Since(info.ModTime()) < abandonedAfter {
			continue
		}
		if err := os.Remove(filepath.Join(j.Dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove an unfinished file of the journal: %w", err)
		}
	}
	return names, nil
}

func (j Journal) replay(ctx context.Context, name string, commit func(context.Context, wire.Attachment) error) error {
	unlock, err := j.tryLock(name)
	if err != nil {
		return err
	}
	defer unlock()
	at, err := j.read(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // superseded, or committed by another agent
	case err != nil:
		return j.setAside(name, err)
	}
	if err := commit(ctx, at); err != nil {
		return err
	}
	// A DEL may have replaced the file meanwhile. Its release is committed too: an ADD
	// in between would have waited for the lock.
	if err := os.Remove(filepath.Join(j.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete a release from disk: %w", err)
	}
	return atomicfile.SyncDir(j.Dir)
}

func (j Journal) read(name string) (wire.Attachment, error) {
	f, err := os.Open(filepath.Join(j.Dir, name))
	if err != nil {
		return wire.Attachment{}, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxRecordBytes+1))
	if err != nil {
		return wire.Attachment{}, err
	}
	if len(content) > maxRecordBytes {
		return wire.Attachment{}, fmt.Errorf("more than %d bytes", maxRecordBytes)
	}
	var r record
	if err := json.Unmarshal(content, &r); err != nil {
		return wire.Attachment{}, err
	}
	at := wire.Attachment{ContainerID: r.ContainerID, Interface: r.Interface, PodNamespace: r.Namespace, PodName: r.Pod, PodUID: r.PodUID}
	if want := fileName(at); name != want {
		return wire.Attachment{}, fmt.Errorf("its release of interface %q of container %q belongs into %s", r.Interface, r.ContainerID, want)
	}
	return at, nil
}

// damagedError is a file that Replay set aside.
type damagedError struct {
	path string
	err  error
}

func (e *damagedError) Error() string {
	return fmt.Sprintf("release %s is damaged and now named %s%s: %v; reclaim will release its address", e.path, filepath.Base(e.path), damagedSuffix, e.err)
}

func (j Journal) setAside(name string, why error) error {
	path := filepath.Join(j.Dir, name)
	if err := os.Rename(path, path+damagedSuffix); err != nil {
		return fmt.Errorf("set a damaged release aside: %w", err)
	}
	return &damagedError{path, why}
}

// Len returns the number of releases on disk.
func (j Journal) Len() int {
	n := 0
	entries, _ := os.ReadDir(j.Dir) // the next Replay reports the error
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			n++
		}
	}
	return n
}

// Oldest returns the time of the oldest release on disk; zero if there is none.
func (j Journal) Oldest() time.Time {
	var oldest time.Time
	entries, _ := os.ReadDir(j.Dir) // the next Replay reports the error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		info, err := e.Info()
		if err == nil && (oldest.IsZero() || info.ModTime().Before(oldest)) {
			oldest = info.ModTime()
		}
	}
	return oldest
}

// errLocked means that another process, or another call in this one, works on the
// attachment.
var errLocked = errors.New("another agent, or an ADD, works on the release")

// lock takes the lock of an attachment, and waits for it until ctx ends.
func (j Journal) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		if unlock, err = j.tryLock(name); !errors.Is(err, errLocked) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the release on disk: %w", err)
		case <-time.After(lockPause):
		}
	}
}

func (j Journal) tryLock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(j.Dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the locks of the journal: %w", err)
	}
	sum := sha256.Sum256([]byte(name))
	at := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: int64(binary.BigEndian.Uint64(sum[:]) >> 2), Len: 1}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &at)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		err = errLocked
	case err != nil:
		err = fmt.Errorf("lock a release: %w", err)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

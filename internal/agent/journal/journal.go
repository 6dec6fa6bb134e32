// Package journal keeps uncommitted releases on disk (ipam.Journal): one file per
// attachment, in one directory.
//
// When Add has returned, the release survives a crash at any moment: package
// atomicfile syncs the file and the directory. All reports an unreadable file, and
// still returns the other releases. It reports a corrupt file once per process and
// leaves it in place for inspection.
package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"spiderpool.dev/spiderpool/internal/atomicfile"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
)

// suffix ends the name of every complete file.
const suffix = ".release.json"

// Journal is a directory of releases. Its methods are safe for concurrent use.
type Journal struct {
	dir string

	// disk serializes changes of the directory. mu guards last and keys only, so that
	// Generation does not wait for the disk. Lock disk before mu.
	disk sync.Mutex
	mu   sync.Mutex
	last uint64            // the newest generation
	keys map[string]uint64 // the generation of each release, by file name
}

// record is the content of a file, in JSON.
type record struct {
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
	Namespace   string `json:"namespace"`
	Pod         string `json:"pod"`
	PodUID      string `json:"podUID,omitempty"`
}

// Open returns the journal in dir. It creates the directory if it is missing, and
// removes the unfinished files of a crashed process.
func Open(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the directory of the journal: %w", err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("sync the parent of the journal's directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the directory of the journal: %w", err)
	}
	j := &Journal{dir: dir, keys: map[string]uint64{}}
	for _, entry := range entries {
		switch {
		case strings.HasSuffix(entry.Name(), suffix):
			j.set(entry.Name())
		case strings.HasPrefix(entry.Name(), atomicfile.UnfinishedPrefix):
			if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
				return nil, fmt.Errorf("remove an unfinished file of the journal: %w", err)
			}
		}
	}
	return j, nil
}

// fileName hashes the container ID, so that it cannot choose a path such as ../x.
func fileName(at lease.Attachment) string {
	sum := sha256.Sum256([]byte(at.ContainerID + "\x00" + at.Interface))
	return hex.EncodeToString(sum[:16]) + suffix
}

// Add implements ipam.Journal.
func (j *Journal) Add(r ipam.Release) error {
	content, err := json.Marshal(record{
		ContainerID: r.ContainerID, Interface: r.Interface, Namespace: r.Pod.Namespace, Pod: r.Pod.Name, PodUID: r.PodUID,
	})
	if err != nil {
		return fmt.Errorf("encode a release: %w", err)
	}
	j.disk.Lock()
	defer j.disk.Unlock()
	name := fileName(r.Attachment)
	if err := atomicfile.Write(filepath.Join(j.dir, name), content, 0o600); err != nil {
		return fmt.Errorf("write a release to disk: %w", err)
	}
	j.set(name)
	return nil
}

// Generation implements ipam.Journal.
func (j *Journal) Generation(at lease.Attachment) uint64 { return j.generation(fileName(at)) }

func (j *Journal) generation(name string) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.keys[name]
}

// set assigns the next generation to the file. Generations start again with each
// process, because no ADD and no replay outlives a process.
func (j *Journal) set(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	j.keys[name] = j.last
}

func (j *Journal) forget(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.keys, name)
}

// Remove implements ipam.Journal.
func (j *Journal) Remove(at lease.Attachment, generation uint64) error {
	j.disk.Lock()
	defer j.disk.Unlock()
	name := fileName(at)
	if kept := j.generation(name); kept == 0 || kept != generation {
		return nil
	}
	if err := os.Remove(filepath.Join(j.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete a release from disk: %w", err)
	}
	j.forget(name)
	return atomicfile.SyncDir(j.dir)
}

// All implements ipam.Journal. With an error, it returns the readable releases.
func (j *Journal) All() ([]ipam.Release, error) {
	j.disk.Lock()
	defer j.disk.Unlock()
	j.mu.Lock()
	names := slices.Collect(maps.Keys(j.keys))
	j.mu.Unlock()
	var releases []ipam.Release
	var errs []error
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(j.dir, name))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var r record
		if err := json.Unmarshal(content, &r); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", filepath.Join(j.dir, name), err))
			j.forget(name)
			continue
		}
		releases = append(releases, ipam.Release{
			Attachment: lease.Attachment{ContainerID: r.ContainerID, Interface: r.Interface},
			Pod:        lease.PodKey{Namespace: r.Namespace, Name: r.Pod}, PodUID: r.PodUID, Generation: j.generation(name),
		})
	}
	return releases, errors.Join(errs...)
}

// Len returns the number of releases on disk.
func (j *Journal) Len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.keys)
}

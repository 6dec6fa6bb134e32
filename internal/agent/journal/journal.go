// Package journal keeps releases on disk that could not be committed yet
// (ipam.Journal): one file for each attachment, in one directory.
//
// A release is on disk, and found again after a crash at any moment, once Add has
// returned: the file is written under another name, synced, renamed, and the
// directory is synced. A file that cannot be read is reported, and does not keep
// the others from being found. One that makes no sense is reported once in the
// life of the process, and left for whoever wants to look at it.
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

	// disk is for one change of the directory at a time, mu for keys alone: who asks
	// what is kept does not wait for the disk.
	disk sync.Mutex
	mu   sync.Mutex
	last uint64            // generation given
	keys map[string]uint64 // generation of the release, by the name of its file
}

// record is the content of a file.
type record struct {
	ContainerID string `json:"containerID"`
	Interface   string `json:"interface"`
	Namespace   string `json:"namespace"`
	Pod         string `json:"pod"`
	PodUID      string `json:"podUID,omitempty"`
}

// Open returns the journal in dir, which is made if it is missing.
func Open(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the journal: %w", err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("make the directory of the journal last: %w", err)
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
				return nil, fmt.Errorf("tidy the directory of the journal: %w", err)
			}
		}
	}
	return j, nil
}

// fileName does not let a container ID choose a path.
func fileName(at lease.Attachment) string {
	sum := sha256.Sum256([]byte(at.ContainerID + "\x00" + at.Interface))
	return hex.EncodeToString(sum[:16]) + suffix
}

// Add implements ipam.Journal.
func (j *Journal) Add(r ipam.Release) error {
	content, err := json.Marshal(record{
		ContainerID: r.ContainerID, Interface: r.Interface, Namespace: r.Namespace, Pod: r.Pod, PodUID: r.PodUID,
	})
	if err != nil {
		return fmt.Errorf("encode a release: %w", err)
	}
	j.disk.Lock()
	defer j.disk.Unlock()
	name := fileName(r.Attachment)
	if err := atomicfile.Write(filepath.Join(j.dir, name), content, 0o600); err != nil {
		return fmt.Errorf("keep a release: %w", err)
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

// set gives the file its next generation. Generations start anew with the process,
// because no ADD and no replay outlives it.
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
		return fmt.Errorf("forget a release: %w", err)
	}
	j.forget(name)
	return atomicfile.SyncDir(j.dir)
}

// All implements ipam.Journal. With an error it returns what could be read.
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
			Namespace:  r.Namespace, Pod: r.Pod, PodUID: r.PodUID, Generation: j.generation(name),
		})
	}
	return releases, errors.Join(errs...)
}

// Len returns how many releases are kept.
func (j *Journal) Len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.keys)
}

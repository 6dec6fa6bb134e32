package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Translations are the pinned maps that tell the service of a socket.
type Translations struct {
	// Peers is by the cookie of a connected socket, Replies by the cookie of another socket and its backend.
	Peers, Replies *ebpf.Map
}

// OpenTranslations opens the maps that Load has pinned below dir. It returns nil before.
func OpenTranslations(dir string) (*Translations, error) {
	var t Translations
	for name, m := range map[string]**ebpf.Map{serviceMapPeers: &t.Peers, serviceMapReplies: &t.Replies} {
		opened, err := ebpf.LoadPinnedMap(filepath.Join(dir, mapLayout, name), nil)
		if err != nil {
			_ = t.Close()
			if errors.Is(err, os.ErrNotExist) {
				return nil, nil
			}
			return nil, fmt.Errorf("open the pinned eBPF map %s: %w", name, err)
		}
		*m = opened
	}
	return &t, nil
}

// Same reports whether both have the same maps, which another Load may have replaced. Both may be nil.
func (t *Translations) Same(other *Translations) bool {
	if t == nil || other == nil {
		return t == other
	}
	return sameMap(t.Peers, other.Peers) && sameMap(t.Replies, other.Replies)
}

func sameMap(a, b *ebpf.Map) bool {
	var ids [2]ebpf.MapID
	for i, m := range []*ebpf.Map{a, b} {
		info, err := m.Info()
		if err != nil {
			return false
		}
		ids[i], _ = info.ID()
	}
	return ids[0] == ids[1]
}

// Close closes the maps. t may be nil.
func (t *Translations) Close() error {
	if t == nil {
		return nil
	}
	var errs []error
	for _, m := range []*ebpf.Map{t.Peers, t.Replies} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

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

// ID identifies the maps, which another Load may replace, until the next start of the kernel. It is 0 for nil.
func (t *Translations) ID() uint32 {
	if t == nil {
		return 0
	}
	info, err := t.Peers.Info()
	if err != nil {
		return 0
	}
	id, _ := info.ID()
	return uint32(id)
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

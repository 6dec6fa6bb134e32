package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Check returns why the node cannot translate services with eBPF, and the remedy: a
// kernel without the hooks, missing permission, no bpffs at the parent of dir, no control
// group v2 at group, or another load balancer at its sockets. It needs CAP_BPF,
// CAP_NET_ADMIN and CAP_SYS_ADMIN.
func Check(dir, group string) error {
	if err := isType(filepath.Dir(dir), unix.BPF_FS_MAGIC, "a bpffs", "mount -t bpf bpf /sys/fs/bpf"); err != nil {
		return err
	}
	if err := isType(group, unix.CGROUP2_SUPER_MAGIC, "a control group v2",
		"mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, and set service.cgroup to the group of the pods"); err != nil {
		return err
	}
	if _, err := hostCookie(); err != nil {
		return err
	}
	for _, helper := range []asm.BuiltinFunc{asm.FnGetNetnsCookie, asm.FnGetSocketCookie} {
		if err := explain("the helper "+helper.String(), features.HaveProgramHelper(ebpf.CGroupSockAddr, helper)); err != nil {
			return err
		}
	}
	for _, kind := range []ebpf.MapType{ebpf.Hash, ebpf.LRUHash} {
		if err := explain("maps of type "+kind.String(), features.HaveMapType(kind)); err != nil {
			return err
		}
	}
	return others(dir, group)
}

func explain(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("this kernel lacks %s of eBPF. Use Linux 5.14 or later with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF", what)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("the kernel permits no eBPF programs here. Give the process the capabilities BPF and NET_ADMIN: %w", err)
	default:
		return fmt.Errorf("look for %s of eBPF: %w", what, err)
	}
}

func isType(path string, magic int64, what, remedy string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return fmt.Errorf("%s must be %s; %s: %w", path, what, remedy, err)
	}
	if int64(fs.Type) != magic {
		return fmt.Errorf("%s must be %s; %s", path, what, remedy)
	}
	return nil
}

// hostCookie returns the cookie of this process's network namespace, which is the node's.
func hostCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, errors.New("this kernel has no cookies of network namespaces (SO_NETNS_COOKIE). Use Linux 5.14 or later")
	}
	if err != nil {
		return 0, fmt.Errorf("read the cookie of the network namespace: %w", err)
	}
	return cookie, nil
}

// groupID returns the ID of a control group, i.e. its inode number.
func groupID(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("read the ID of the control group %s: %w", path, err)
	}
	return st.Ino, nil
}

// Others returns an error that names the programs of another load balancer at the same sockets, e.g. one that was
// attached after Load. Until the caller removes ours, each connection is still translated once: the programs of a
// group run before those of the groups above, and those attached first before later ones, so the others see a backend.
// The method may run concurrently with others.
func (p *Programs) Others() error { return others(p.dir, p.group) }

// others returns an error that names the programs of others that translate connections
// of the group, e.g. those of Cilium. Two translations of one connection contradict
// each other.
func others(dir, group string) error {
	g, err := os.Open(group)
	if err != nil {
		return fmt.Errorf("open the control group: %w", err)
	}
	defer g.Close()
	for _, to := range []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(g.Fd()), Attach: to, QueryFlags: queryEffective})
		if err != nil {
			return fmt.Errorf("list the eBPF programs %s of %s: %w", to, group, err)
		}
		ours, err := pinnedProgram(filepath.Join(dir, to.String()))
		if err != nil {
			return err
		}
		var foreign []string
		for _, p := range found.Programs {
			if p.ID != ours {
				foreign = append(foreign, nameOf(p.ID))
			}
		}
		if len(foreign) > 0 {
			slices.Sort(foreign)
			return fmt.Errorf("another load balancer translates the connections of %s: %s at %s. Keep it and set service.mode to kubeproxy, or remove it",
				group, strings.Join(foreign, ", "), to)
		}
	}
	return nil
}

// queryEffective is BPF_F_QUERY_EFFECTIVE: also the programs of the groups above.
const queryEffective = 1

// pinnedProgram returns the program of the pinned link, or 0.
func pinnedProgram(pin string) (ebpf.ProgramID, error) {
	l, err := link.LoadPinnedLink(pin, &ebpf.LoadPinOptions{ReadOnly: false})
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open the pinned link %s: %w", pin, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("read the pinned link %s: %w", pin, err)
	}
	return info.Program, nil
}

// nameOf returns e.g. "cil_sock4_connect (ID 117)". The kernel cuts names at 15 characters.
func nameOf(id ebpf.ProgramID) string {
	name := "a program"
	if p, err := ebpf.NewProgramFromID(id); err == nil {
		defer p.Close()
		if info, err := p.Info(); err == nil && info.Name != "" {
			name = info.Name
		}
	}
	return fmt.Sprintf("%s (ID %d)", name, id)
}

package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/netplan"
)

// A kernel may have NAT for iptables and not for nftables. Only there the
// masquerading is an iptables chain: read through the kernel's own interface,
// because that happens at every ADD, and written once by the node's iptables,
// for which no library speaks.

const (
	iptChain = "SPIDERPOOL"
	// iptJump is the comment of the rule that leads to the chain.
	iptJump = "spiderpool v1: what pods send through their node"
	// iptWait is how many seconds iptables waits for its lock.
	iptWait = "10"
)

func iptMatch(comment string) string { return `-m comment --comment "` + comment + `"` }

// iptRules is the content of the chain. The input interface of a packet that is
// already routed can be matched in a chain of one's own, which POSTROUTING calls.
func iptRules(m netplan.Masquerade) string {
	comments, _ := masqueradeRules(m)
	return fmt.Sprintf("-A %[1]s -i %[2]s+ %[3]s -j MASQUERADE --random-fully\n"+
		"-A %[1]s -o %[2]s+ -m conntrack --ctstate DNAT %[4]s -j MASQUERADE --random-fully\n",
		iptChain, m.Links, iptMatch(comments[0]), iptMatch(comments[1]))
}

// hasIPTablesMasquerade looks for the rules in the kernel's nat table, if that is in use.
func (n *Namespace) hasIPTablesMasquerade(m netplan.Masquerade) (bool, error) {
	comments, _ := masqueradeRules(m)
	found := false
	err := n.Do(func() error {
		table, err := natTable(m.Family)
		found = err == nil && !slices.ContainsFunc(append(comments, iptJump), func(c string) bool {
			return !bytes.Contains(table, append([]byte(c), 0))
		})
		return err
	})
	return found, err
}

// natTable returns the rules of the calling thread's nat table as the kernel
// has them (linux/netfilter_ipv4/ip_tables.h); nothing where there is none.
func natTable(f netplan.Family) ([]byte, error) {
	names, level, domain := "/proc/thread-self/net/ip_tables_names", unix.SOL_IP, unix.AF_INET
	if f == netplan.IPv6 {
		names, level, domain = "/proc/thread-self/net/ip6_tables_names", unix.SOL_IPV6, unix.AF_INET6
	}
	list, err := os.ReadFile(names)
	if errors.Is(err, os.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(list)), "nat") {
		return nil, nil // asking for the table would make the kernel load it
	}
	if err != nil {
		return nil, err
	}
	s, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, err
	}
	defer unix.Close(s)
	const (
		soGetInfo, soGetEntries = 64, 65
		infoSize, sizeOffset    = 84, 80 // struct ipt_getinfo, its last field
		entriesHeader           = 40     // struct ipt_get_entries without the entries
		nameSize                = 32
	)
	for {
		info := make([]byte, infoSize)
		copy(info, "nat")
		if err := getsockopt(s, level, soGetInfo, info); err != nil {
			return nil, fmt.Errorf("read the nat table: %w", err)
		}
		size := binary.NativeEndian.Uint32(info[sizeOffset:])
		entries := make([]byte, entriesHeader+int(size))
		copy(entries, "nat")
		binary.NativeEndian.PutUint32(entries[nameSize:], size)
		switch err := getsockopt(s, level, soGetEntries, entries); {
		case errors.Is(err, unix.EAGAIN): // the table changed its size in between
		case err != nil:
			return nil, fmt.Errorf("read the nat table: %w", err)
		default:
			return entries[entriesHeader:], nil
		}
	}
}

func getsockopt(fd, level, name int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (n *Namespace) addIPTablesMasquerade(m netplan.Masquerade) error {
	jump := "POSTROUTING -j " + iptChain + " " + iptMatch(iptJump)
	return n.Do(func() error {
		var rules strings.Builder
		fmt.Fprintf(&rules, "*nat\n:%s - [0:0]\n%s", iptChain, iptRules(m))
		if table, err := natTable(m.Family); err != nil || !bytes.Contains(table, []byte(iptJump+"\x00")) {
			fmt.Fprintf(&rules, "-I %s\n", jump)
		}
		rules.WriteString("COMMIT\n")
		return iptablesRestore(m.Family, rules.String())
	})
}

func (n *Namespace) removeIPTablesMasquerade(m netplan.Masquerade) error {
	there, err := n.hasIPTablesMasquerade(m)
	if err != nil || !there {
		return err
	}
	return n.Do(func() error {
		return iptablesRestore(m.Family, fmt.Sprintf("*nat\n:%[1]s - [0:0]\n-D POSTROUTING -j %[1]s %[2]s\n-X %[1]s\nCOMMIT\n",
			iptChain, iptMatch(iptJump)))
	})
}

// iptablesRestore gives rules to the tool that writes to the kernel's iptables
// interface; where a distribution's iptables is the one for nftables, that is
// iptables-legacy.
func iptablesRestore(f netplan.Family, rules string) error {
	base := "iptables"
	if f == netplan.IPv6 {
		base = "ip6tables"
	}
	path, err := exec.LookPath(base + "-legacy-restore")
	if err != nil {
		if path, err = exec.LookPath(base + "-restore"); err != nil {
			return fmt.Errorf("the kernel has no NAT for nftables, and the node has no %s-restore: %w", base, err)
		}
	}
	cmd := exec.Command(path, "--noflush", "--wait", iptWait)
	cmd.Stdin = strings.NewReader(rules)
	// Run in this thread's namespace: a new process has that of the thread that starts it.
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, bytes.TrimSpace(out))
	}
	return nil
}

// Package dad reads the state of duplicate address detection (RFC 4862, section 5.4).
package dad

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Flags of linux/if_addr.h.
const (
	failed    = 0x08 // IFA_F_DADFAILED
	tentative = 0x40 // IFA_F_TENTATIVE
)

// Addr is an IPv6 address of an interface.
type Addr struct {
	netip.Addr
	// Tentative: the kernel may still ask for the address, and does not use it yet.
	Tentative bool
	// Failed: another machine defends the address. The kernel keeps it tentative.
	Failed bool
}

// Addrs returns the IPv6 addresses of the interface in the thread's network namespace,
// none without IPv6 in the kernel.
func Addrs(dev string) ([]Addr, error) {
	content, err := os.ReadFile("/proc/thread-self/net/if_inet6")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parse(string(content), dev)
}

// parse reads lines of address, interface index, prefix length, scope and flags in
// hexadecimal, and the interface, e.g.
// "fe800000000000000042acfffe110002 02 40 20 80 eth0".
func parse(text, dev string) ([]Addr, error) {
	var addrs []Addr
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 6 || fields[5] != dev {
			continue
		}
		raw, err := hex.DecodeString(fields[0])
		if err != nil || len(raw) != 16 {
			return nil, fmt.Errorf("line %q of if_inet6 has no address", lines.Text())
		}
		flags, err := strconv.ParseUint(fields[4], 16, 32)
		if err != nil {
			return nil, fmt.Errorf("line %q of if_inet6 has no flags: %w", lines.Text(), err)
		}
		addrs = append(addrs, Addr{netip.AddrFrom16([16]byte(raw)), flags&tentative != 0, flags&failed != 0})
	}
	return addrs, lines.Err()
}

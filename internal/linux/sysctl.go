package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"spiderpool.dev/spiderpool/internal/netplan"
)

// readSysctls returns the values of the existing parameters.
func (n *Namespace) readSysctls(paths []string) (netplan.State, error) {
	var st netplan.State
	if len(paths) == 0 {
		return nil, nil
	}
	err := n.Do(func() error {
		for _, p := range paths {
			value, err := os.ReadFile(filepath.Join(n.sysctls, p))
			switch {
			case errors.Is(err, os.ErrNotExist):
			case err != nil:
				return fmt.Errorf("read sysctl %s: %w", p, err)
			default:
				st = append(st, netplan.Sysctl{Path: p, Value: strings.TrimSpace(string(value))})
			}
		}
		return nil
	})
	return st, err
}

func (n *Namespace) writeSysctl(s netplan.Sysctl) error {
	return n.Do(func() error {
		if err := os.WriteFile(filepath.Join(n.sysctls, s.Path), []byte(s.Value), 0); err != nil {
			return fmt.Errorf("set sysctl %s to %s: %w", s.Path, s.Value, err)
		}
		return nil
	})
}

// HasIPv6 reports whether the kernel has IPv6.
func (n *Namespace) HasIPv6() bool {
	_, err := os.Stat(filepath.Join(n.sysctls, "net/ipv6"))
	return err == nil
}

// AcceptRA returns net.ipv6.conf.*.accept_ra of every interface.
func (n *Namespace) AcceptRA() (map[string]int, error) {
	values := map[string]int{}
	err := n.Do(func() error {
		files, err := filepath.Glob(filepath.Join(n.sysctls, "net/ipv6/conf/*/accept_ra"))
		if err != nil {
			return err
		}
		for _, f := range files {
			dev := filepath.Base(filepath.Dir(f))
			if dev == "all" || dev == "default" {
				continue
			}
			text, err := os.ReadFile(f)
			if err != nil {
				continue // the interface is gone
			}
			if v, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
				values[dev] = v
			}
		}
		return nil
	})
	return values, err
}

// Sysctl returns the value of a parameter, or "" if it does not exist.
func (n *Namespace) Sysctl(path string) (string, error) {
	st, err := n.readSysctls([]string{path})
	if err != nil || len(st) == 0 {
		return "", err
	}
	return st[0].(netplan.Sysctl).Value, nil
}

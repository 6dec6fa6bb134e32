package build

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// HostPackages are the Debian packages used by the lab, on this machine or in its
// images.
var HostPackages = []string{"runc", "iptables", "nftables", "ipset", "ipvsadm", "conntrack", "tcpdump", "iproute2",
	"iputils-ping", "busybox-static", "curl", "iperf3"}

// MissingPackages returns the packages not yet installed.
func MissingPackages(ctx context.Context, packages []string) ([]string, error) {
	// dpkg-query fails for an unknown package, but still lists the others.
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "dpkg-query", append([]string{"-W", "-f", "${Package} ${db:Status-Status}\n"}, packages...)...)
	cmd.Stdout = &out
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("list installed packages (the lab needs Debian or Ubuntu): %w", err)
	}
	installed := strings.Split(out.String(), "\n")
	return slices.DeleteFunc(slices.Clone(packages), func(name string) bool {
		return slices.Contains(installed, name+" installed")
	}), nil
}

// InstallPackages installs Debian packages without their recommendations.
func InstallPackages(ctx context.Context, packages []string, log io.Writer) error {
	if len(packages) == 0 {
		return nil
	}
	install := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	for _, args := range [][]string{{"update"}, install} {
		if err := apt(ctx, "", log, args...); err != nil {
			return err
		}
	}
	return nil
}

// Unpacked returns a directory with the files of Debian packages, without installing
// them. Use it for packages that would start a service, e.g. nginx.
func (c Cache) Unpacked(ctx context.Context, packages []string, log io.Writer) (string, error) {
	out := filepath.Join(string(c), "debian-"+strings.Join(packages, "-"))
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	next := out + ".building"
	if err := fresh(next); err != nil {
		return "", err
	}
	download := filepath.Join(next, "download")
	if err := os.Mkdir(download, 0o755); err != nil {
		return "", err
	}
	// apt downloads as the user _apt.
	if err := os.Chmod(download, 0o777); err != nil {
		return "", err
	}
	if err := apt(ctx, download, log, append([]string{"download"}, packages...)...); err != nil {
		// On a fresh machine the package lists are empty.
		if err := apt(ctx, "", log, "update"); err != nil {
			return "", err
		}
		if err := apt(ctx, download, log, append([]string{"download"}, packages...)...); err != nil {
			return "", err
		}
	}
	files, err := filepath.Glob(filepath.Join(download, "*.deb"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		if err := run(ctx, next, log, "dpkg-deb", "-x", file, next); err != nil {
			return "", err
		}
	}
	if err := os.RemoveAll(download); err != nil {
		return "", err
	}
	return out, os.Rename(next, out)
}

func apt(ctx context.Context, dir string, log io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// libraryDirs are Debian's directories of shared libraries.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"}

// libraries returns the shared libraries and the loader of dynamically linked
// programs, as paths on this machine.
func libraries(programs ...string) ([]string, error) {
	found := map[string]string{}
	queue := slices.Clone(programs)
	for len(queue) > 0 {
		file := queue[0]
		queue = queue[1:]
		needed, err := neededBy(file)
		if err != nil {
			return nil, err
		}
		for _, name := range needed {
			if _, ok := found[name]; ok {
				continue
			}
			path, err := findLibrary(name)
			if err != nil {
				return nil, fmt.Errorf("%s needs %s: %w", file, name, err)
			}
			found[name] = path
			queue = append(queue, path)
		}
	}
	list := make([]string, 0, len(found))
	for _, path := range found {
		list = append(list, path)
	}
	slices.Sort(list)
	return list, nil
}

// neededBy returns the shared libraries required by the file, and its loader.
func neededBy(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	defer f.Close()
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if section := f.Section(".interp"); section != nil {
		loader, err := section.Data()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		names = append(names, strings.TrimRight(string(loader), "\x00"))
	}
	return names, nil
}

func findLibrary(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range libraryDirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, err
		}
	}
	return "", fmt.Errorf("not in %s", strings.Join(libraryDirs, " nor in "))
}

package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// KernelPackages are the Debian packages needed to build the guest kernel.
var KernelPackages = []string{"gcc", "libc6-dev", "make", "flex", "bison", "bc", "xz-utils"}

// kernelSuite is the source of the guest kernel: Debian unstable. Since 6.16, User Mode
// Linux catches system calls with seccomp, which makes it several times faster. The
// stable release has 6.12. We build it ourselves because unstable's binary package
// lacks NAT.
const kernelSuite = "deb http://deb.debian.org/debian sid main\n"

// sourcePackage matches the name of a kernel source package.
var sourcePackage = regexp.MustCompile(`linux-source-[0-9.]+`)

// Kernel builds User Mode Linux with the configuration file "config" in the directory,
// unless the cache has it. It returns the directory of the program "linux".
func (c Cache) Kernel(ctx context.Context, dir string, log, out io.Writer) (string, error) {
	key, err := hashDir(dir)
	if err != nil {
		return "", fmt.Errorf("hash the kernel's configuration: %w", err)
	}
	dest := filepath.Join(string(c), "modules", "kernel-"+key)
	if _, err := os.Stat(dest); err == nil {
		return dest, nil
	}
	fmt.Fprintln(out, "           building User Mode Linux (the first time 5 to 10 minutes on two processors)")
	work := dest + ".building"
	if err := fresh(work); err != nil {
		return "", err
	}
	source := filepath.Join(work, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		return "", err
	}
	archive, err := kernelSource(ctx, work, log)
	if err != nil {
		return "", fmt.Errorf("get the kernel's source: %w", err)
	}
	if err := run(ctx, source, log, "tar", "-xf", archive, "--strip-components=1"); err != nil {
		return "", err
	}
	config := filepath.Join(dir, "config")
	if err := run(ctx, source, log, "make", "ARCH=um", "KCONFIG_ALLCONFIG="+config, "allnoconfig"); err != nil {
		return "", err
	}
	if err := checkConfig(config, filepath.Join(source, ".config")); err != nil {
		return "", err
	}
	if err := run(ctx, source, log, "make", "ARCH=um", fmt.Sprintf("-j%d", runtime.NumCPU()), "linux"); err != nil {
		return "", err
	}
	ready := filepath.Join(work, "ready")
	if err := os.Mkdir(ready, 0o755); err != nil {
		return "", err
	}
	if err := run(ctx, source, log, "strip", "-o", filepath.Join(ready, "linux"), "linux"); err != nil {
		return "", err
	}
	return dest, errors.Join(os.Rename(ready, dest), os.RemoveAll(work))
}

// kernelSource downloads the suite's newest kernel and returns the archive. apt checks
// its signature. The package lists of this machine stay unchanged.
func kernelSource(ctx context.Context, work string, log io.Writer) (string, error) {
	lists, cache, unpacked := filepath.Join(work, "lists"), filepath.Join(work, "cache"), filepath.Join(work, "unpacked")
	for _, dir := range []string{filepath.Join(lists, "partial"), filepath.Join(cache, "archives", "partial"), unpacked} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	suites := filepath.Join(work, "sources.list")
	if err := os.WriteFile(suites, []byte(kernelSuite), 0o644); err != nil {
		return "", err
	}
	options := []string{"-o", "Dir::Etc::sourcelist=" + suites, "-o", "Dir::Etc::sourceparts=-",
		"-o", "Dir::State::lists=" + lists, "-o", "Dir::Cache=" + cache, "-o", "APT::Sandbox::User=root"}
	if err := apt(ctx, work, log, append(options, "update")...); err != nil {
		return "", err
	}
	depends, err := exec.CommandContext(ctx, "apt-cache", append(options, "depends", "linux-source")...).Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache depends linux-source: %w", err)
	}
	name := sourcePackage.FindString(string(depends))
	if name == "" {
		return "", fmt.Errorf("linux-source depends on no kernel source package: %s", depends)
	}
	if err := apt(ctx, work, log, append(options, "download", name)...); err != nil {
		return "", err
	}
	archive, err := one(filepath.Join(work, name+"_*.deb"))
	if err != nil {
		return "", err
	}
	if err := run(ctx, work, log, "dpkg-deb", "-x", archive, unpacked); err != nil {
		return "", err
	}
	return one(filepath.Join(unpacked, "usr", "src", name+".tar.*"))
}

// one returns the single file that matches the pattern.
func one(pattern string) (string, error) {
	files, err := filepath.Glob(pattern)
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("%d files match %s, want one", len(files), pattern)
	}
	if err != nil {
		return "", err
	}
	return files[0], nil
}

// checkConfig returns an error that lists every wanted line missing from the built
// configuration. Such an option was removed from the kernel or depends on others.
func checkConfig(wanted, got string) error {
	want, err := os.ReadFile(wanted)
	if err != nil {
		return err
	}
	have, err := os.ReadFile(got)
	if err != nil {
		return err
	}
	var missing []string
	for line := range strings.Lines(string(want)) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") && !bytes.Contains(have, []byte("\n"+line+"\n")) {
			missing = append(missing, line)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the kernel ignored these lines of %s: %s", wanted, strings.Join(missing, ", "))
	}
	return nil
}

func run(ctx context.Context, dir string, log io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

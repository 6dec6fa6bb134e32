// Package build makes the lab's programs from the Go modules below
// test/lab/modules, and its container images from these programs and Debian packages.
//
// The results go to a cache outside the checkout, each under a hash of its inputs.
// So they are rebuilt only after a change, and labs of different checkouts do not
// disturb each other.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/sys/unix"
)

const (
	cacheEnv     = "SPIDERPOOL_LAB_CACHE"
	defaultCache = "/var/cache/spiderpool-lab"
	sourceEnv    = "SPIDERPOOL_LAB_SOURCE"
)

// Cache is the directory of all build results. It must be on the root file system,
// because nodes see that one.
type Cache string

// DefaultCache is the directory in the environment variable, or /var/cache/spiderpool-lab.
func DefaultCache() Cache {
	if dir := os.Getenv(cacheEnv); dir != "" {
		return Cache(filepath.Clean(dir))
	}
	return defaultCache
}

// Source finds the directory of the lab's Go modules. The environment variable wins,
// then the checkout of this program, then the checkout of the working directory.
func Source() (string, error) {
	if dir := os.Getenv(sourceEnv); dir != "" {
		return dir, nil
	}
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for _, start := range []string{filepath.Dir(program), here} {
		for dir := start; ; dir = filepath.Dir(dir) {
			modules := filepath.Join(dir, "test", "lab", "modules")
			if _, err := os.Stat(modules); err == nil {
				return modules, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("the lab's modules are neither above %s nor above %s: run the lab in its checkout, or set %s to the directory test/lab/modules",
		filepath.Dir(program), here, sourceEnv)
}

// Module is a Go module below test/lab/modules with its programs.
type Module struct {
	Name string
	// Tags are build tags.
	Tags []string
	// Links are further names of the module's program. The program chooses its
	// function by name.
	Links []string
	// Version is a module path. The version of that module is stamped into the
	// Kubernetes programs.
	Version string
	// Test is a package. Its tests become a program named after the package, with
	// the suffix ".test".
	Test string
	// Packages are further programs, beside the tools of go.mod.
	Packages []string
	// Files of the module Version are copied next to the programs.
	Files []string
	// Hint is the duration of a first build, for the progress text.
	Hint string
}

// Modules are all modules in build order: first the module that delays the others
// most.
var Modules = []Module{
	{Name: "kubernetes", Version: "k8s.io/kubernetes", Hint: " (the first time 5 to 10 minutes on two processors)",
		Links: []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}},
	{Name: "cluster", Tags: []string{"no_btrfs", "no_devmapper", "no_zfs"}},
	{Name: "plugins"},
	{Name: "echoserver"},
	{Name: "pause"},
}

// Lock creates the cache's directory and locks it against other processes until
// unlock is called.
func (c Cache) Lock() (unlock func(), err error) {
	if err := os.MkdirAll(string(c), 0o755); err != nil {
		return nil, err
	}
	file, err := os.Create(filepath.Join(string(c), "lock"))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
	}
	return func() { file.Close() }, nil
}

// Module builds a module unless the cache has it, and returns the directory of its
// programs. The output of the Go tool goes to log. Before a build, Module writes a
// progress line to out.
func (c Cache) Module(ctx context.Context, source string, m Module, log, out io.Writer) (string, error) {
	dir := filepath.Join(source, m.Name)
	flags, err := m.flags(dir)
	if err != nil {
		return "", err
	}
	words := append(slices.Concat(flags, m.Packages, m.Files), runtime.Version())
	if m.Test != "" {
		words = append(words, m.Test)
	}
	key, err := hashDir(dir, words...)
	if err != nil {
		return "", fmt.Errorf("hash module %s: %w", m.Name, err)
	}
	dest := filepath.Join(string(c), "modules", m.Name+"-"+key)
	if _, err := os.Stat(dest); err == nil {
		return dest, nil
	}
	fmt.Fprintf(out, "           building %s%s\n", m.Name, m.Hint)
	next := dest + ".building"
	if err := fresh(next); err != nil {
		return "", err
	}
	target := "tool"
	if _, err := os.Stat(filepath.Join(dir, "main.go")); err == nil {
		target = "."
	}
	build := func(verb []string, target string) error {
		cmd := exec.CommandContext(ctx, "go", slices.Concat(verb, flags, []string{"-o", next + "/", target})...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("build module %s: %w", m.Name, err)
		}
		return nil
	}
	for _, target := range append([]string{target}, m.Packages...) {
		if err := build([]string{"build"}, target); err != nil {
			return "", err
		}
	}
	if m.Test != "" {
		if err := build([]string{"test", "-c"}, m.Test); err != nil {
			return "", err
		}
	}
	if len(m.Files) > 0 {
		if err := m.copyFiles(ctx, dir, next); err != nil {
			return "", fmt.Errorf("build module %s: %w", m.Name, err)
		}
	}
	for _, link := range m.Links {
		if err := os.Symlink(m.Name, filepath.Join(next, link)); err != nil {
			return "", err
		}
	}
	return dest, os.Rename(next, dest)
}

// copyFiles copies Files to a directory. The source is the module Version, as
// required by the module in dir.
func (m Module) copyFiles(ctx context.Context, dir, to string) error {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", m.Version)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off")
	from, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("find %s: %w", m.Version, err)
	}
	for _, name := range m.Files {
		content, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(from)), name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(name)), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// fresh creates an empty directory and removes the remains of an interrupted build.
func fresh(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// flags returns the build flags. Flags, module files and Go version together identify
// a build.
func (m Module) flags(dir string) ([]string, error) {
	linker := "-s -w"
	if m.Version != "" {
		version, err := requiredVersion(filepath.Join(dir, "go.mod"), m.Version)
		if err != nil {
			return nil, err
		}
		major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
		minor, _, _ := strings.Cut(rest, ".")
		for variable, value := range map[string]string{"gitVersion": version, "gitMajor": major, "gitMinor": minor} {
			linker += fmt.Sprintf(" -X k8s.io/component-base/version.%s=%s", variable, value)
		}
	}
	flags := []string{"-trimpath", "-ldflags=" + sorted(linker)}
	if len(m.Tags) > 0 {
		flags = append(flags, "-tags="+strings.Join(m.Tags, ","))
	}
	return flags, nil
}

// Programs creates a directory with a link to every program of the modules and
// returns it.
func (c Cache) Programs(modules ...string) (string, error) {
	var programs []string
	for _, dir := range modules {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return "", err
		}
		for _, entry := range entries {
			programs = append(programs, filepath.Join(dir, entry.Name()))
		}
	}
	return c.links("programs", programs)
}

// links creates a directory of links to the files, under their base names. Its own
// name is the given one plus a hash of the files.
func (c Cache) links(name string, files []string) (string, error) {
	dir := filepath.Join(string(c), name+"-"+hash(strings.NewReader(strings.Join(files, "\n"))))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, file := range files {
		err := os.Symlink(file, filepath.Join(dir, filepath.Base(file)))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	return dir, nil
}

func requiredVersion(file, module string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	parsed, err := modfile.Parse(file, content, nil)
	if err != nil {
		return "", err
	}
	for _, require := range parsed.Require {
		if require.Mod.Path == module {
			return require.Mod.Version, nil
		}
	}
	return "", fmt.Errorf("%s does not require %s", file, module)
}

// hashDir hashes the names and contents of all files below a directory, plus further
// words.
func hashDir(dir string, words ...string) (string, error) {
	var all []io.Reader
	tree := os.DirFS(dir)
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(tree, name)
		all = append(all, strings.NewReader(fmt.Sprintf("%s %d %s", name, len(content), content)))
		return err
	})
	if err != nil {
		return "", err
	}
	all = append(all, strings.NewReader(strings.Join(words, "\n")))
	return hash(io.MultiReader(all...)), nil
}

func hash(r io.Reader) string {
	h := sha256.New()
	// Writes to a hash and reads from a string never fail.
	_, _ = io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// sorted orders linker flags, which come from a map.
func sorted(linker string) string {
	parts := strings.Split(linker, " -X ")
	slices.Sort(parts[1:])
	return strings.Join(parts, " -X ")
}

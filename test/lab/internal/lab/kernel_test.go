//go:build kernel

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"spiderpool.dev/spiderpool/test/lab/internal/build"
	"spiderpool.dev/spiderpool/test/lab/internal/cgroup"
	"spiderpool.dev/spiderpool/test/lab/internal/cli"
	"spiderpool.dev/spiderpool/test/lab/internal/lab"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
	"spiderpool.dev/spiderpool/test/lab/internal/state"
)

// TestMain runs the lab's program when the lab under test starts this binary.
func TestMain(m *testing.M) {
	if os.Args[0] == "lab" {
		os.Exit(cli.Run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// options describe the smallest lab, which runs on every machine.
var options = lab.Options{Topology: "l2", Nodes: 1, Kernel: lab.KernelHost, KubeProxyMode: "iptables"}

func newLab(t *testing.T) (lab.Lab, *bytes.Buffer) {
	t.Helper()
	// Outside the test's own directory, whose removal would hide remains of the lab.
	dir, err := os.MkdirTemp("/run", "spiderpool-lab-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	l := lab.Lab{Dir: state.Dir(dir), Cache: build.DefaultCache(), Out: io.MultiWriter(&out, t.Output())}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l, &out
}

func TestDownLeavesNothing(t *testing.T) {
	l, _ := newLab(t)
	before := traces(t, l.Dir)
	if err := l.Up(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	if during := traces(t, l.Dir); slices.Equal(during, before) {
		t.Fatal("traces finds nothing of a running lab")
	}
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := traces(t, l.Dir); !slices.Equal(after, before) {
		t.Errorf("left behind:\n%s", strings.Join(added(before, after), "\n"))
	}
	if err := l.Down(t.Context()); err != nil {
		t.Errorf("Down without a lab: %v", err)
	}
}

func TestInterruptedUpStartsOver(t *testing.T) {
	l, out := newLab(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	interrupted := l
	interrupted.Out = triggerWriter{w: l.Out, on: "containerd: start", do: cancel}
	if err := interrupted.Up(ctx, options); !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted Up ended with %v", err)
	}
	if err := l.Up(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "Removing the remains") {
		t.Error("the output does not mention the removal of the remains")
	}
	var version bytes.Buffer
	code, err := machine.At(l.Dir.Socket()).Exec(t.Context(), machine.Command{
		Host: "master", Args: []string{"kubectl", "get", "--raw", "/readyz"}, Stdout: &version, Stderr: t.Output()})
	if err != nil || code != 0 || version.String() != "ok" {
		t.Errorf("readyz: exit code %d, error %v, output %q", code, err, version.String())
	}

	out.Reset()
	if err := l.Up(t.Context(), options); err != nil || !strings.Contains(out.String(), "already up") {
		t.Errorf("second Up: error %v, output %q", err, out)
	}
	other := options
	other.KubeProxyMode = "nftables"
	if err := l.Up(t.Context(), other); err == nil || !strings.Contains(err.Error(), "lab down") {
		t.Errorf("Up with other options: %v, want the advice to run `lab down`", err)
	}
}

func TestNodeKeepsItsFiles(t *testing.T) {
	l, _ := newLab(t)
	if err := l.Up(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	c := machine.At(l.Dir.Socket())
	const file = "/etc/spiderpool-lab-test"
	code, err := c.Exec(t.Context(), machine.Command{Host: "master", Args: []string{"touch", file}, Stdout: t.Output(), Stderr: t.Output()})
	if err != nil || code != 0 {
		t.Fatalf("touch: exit code %d, %v", code, err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file exists on this machine: %v", err)
	}
	var mounts bytes.Buffer
	code, err = c.Exec(t.Context(), machine.Command{
		Host: "master", Args: []string{"cat", "/proc/self/mountinfo"}, Stdout: &mounts, Stderr: t.Output()})
	if err != nil || code != 0 {
		t.Fatalf("mountinfo: exit code %d, %v", code, err)
	}
	for line := range strings.Lines(mounts.String()) {
		if strings.Fields(line)[4] == "/" && !strings.Contains(line, "shared:") {
			t.Errorf("the root mount does not propagate to pods: %s", line)
		}
	}
	if !strings.Contains(mounts.String(), " /sys/fs/bpf ") {
		t.Error("the node has no bpffs")
	}
}

func TestRebootKeepsOnlyTheDisk(t *testing.T) {
	l, _ := newLab(t)
	if err := l.Up(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	c := machine.At(l.Dir.Socket())
	run := func(command string) string {
		t.Helper()
		var out bytes.Buffer
		code, err := c.Exec(t.Context(), machine.Command{Host: "master", Args: []string{"sh", "-c", command}, Stdout: &out, Stderr: t.Output()})
		if err != nil || code != 0 {
			t.Fatalf("%s: exit code %d, %v", command, code, err)
		}
		return out.String()
	}
	const bootID = "cat /proc/sys/kernel/random/boot_id"
	before := run("mkdir -p /etc/cni/net.d && touch /etc/kept /etc/cni/net.d/kept /run/lost && nft add table inet lost && iptables -N LOST && " + bootID)
	if err := c.Daemon(t.Context(), "master", "reboot"); err != nil {
		t.Fatal(err)
	}
	if after := run(bootID); after == before {
		t.Errorf("the boot ID is %s before and after", after)
	}
	if got := run("ls /etc/kept /etc/cni/net.d/kept /run/lost 2>/dev/null; nft list tables inet; iptables -S | grep LOST; true"); got != "/etc/cni/net.d/kept\n/etc/kept\n" {
		t.Errorf("after the reboot, the node has\n%swant the two files on its disk", got)
	}
	status, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range status.Daemons {
		if strings.HasPrefix(d.Name, "master/") && d.Process == 0 {
			t.Errorf("daemon %s does not run after the reboot", d.Name)
		}
	}
	if err := c.Daemon(t.Context(), "nowhere", "reboot"); err == nil {
		t.Error("an unknown node was rebooted")
	}
}

// triggerWriter calls do when the text in on is written.
type triggerWriter struct {
	w  io.Writer
	on string
	do func()
}

func (t triggerWriter) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(t.on)) {
		t.do()
	}
	return t.w.Write(p)
}

// traces lists everything on this machine that a lab could leave behind, except
// state that other programs may change meanwhile.
func traces(t *testing.T, dir state.Dir) []string {
	t.Helper()
	var list []string
	add := func(kind string, items ...string) {
		for _, item := range items {
			list = append(list, kind+" "+item)
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		add("link", link.Attrs().Name)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		add("mount", strings.Fields(line)[4])
	}
	names, err := filepath.Glob("/run/netns/splab-*")
	if err != nil {
		t.Fatal(err)
	}
	add("network namespace", names...)
	exists, err := cgroup.Exists(dir.Control())
	if err != nil {
		t.Fatal(err)
	}
	add("control group", fmt.Sprint(exists))
	_, err = os.Stat(string(dir))
	add("directory", fmt.Sprint(err == nil))
	add("process", processes(t, dir)...)
	slices.Sort(list)
	return list
}

// processes lists the lab's processes. They inherit the environment of its first
// process, or have its directory on their command line.
func processes(t *testing.T, dir state.Dir) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join("/proc", fmt.Sprint(os.Getpid()))
	var list []string
	for _, file := range files {
		// A process that ended meanwhile leaves no trace.
		env, _ := os.ReadFile(filepath.Join(file, "environ"))
		line, _ := os.ReadFile(filepath.Join(file, "cmdline"))
		groups, _ := os.ReadFile(filepath.Join(file, "cgroup"))
		if file != self && bytes.Contains(slices.Concat(env, line, groups), []byte(dir.Control())) {
			list = append(list, file+" "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return list
}

// added returns the elements of after missing in before.
func added(before, after []string) []string {
	return slices.DeleteFunc(slices.Clone(after), func(s string) bool { return slices.Contains(before, s) })
}

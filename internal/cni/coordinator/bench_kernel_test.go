//go:build kernel

package coordinator

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// BenchmarkAddNextToMainPlugin runs, for one pod after another, the macvlan
// plugin and the coordinator as a runtime does, both built as they are
// released, and reports the median of what each adds to a pod's ADD.
func BenchmarkAddNextToMainPlugin(b *testing.B) {
	bin := b.TempDir()
	for _, args := range [][]string{
		{"install", "-trimpath", "-ldflags=-s -w", "github.com/containernetworking/plugins/plugins/main/macvlan@v1.9.1"},
		{"build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(bin, "coordinator"), "spiderpool.dev/spiderpool/cmd/coordinator"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+bin)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	node, other := linuxtest.NewMachine(b, "node"), linuxtest.NewMachine(b, "vpc")
	linuxtest.Wire(node, "ens5", other, "x")
	node.Addr("ens5", "172.31.22.228/20", "2406:da1e:c4:ed01::10/64")
	socket := fakeAgent(b, guideReply())
	took := map[string][]time.Duration{}
	run := func(kind, name string, pod *linuxtest.Machine, id, conf string) {
		began, before := time.Now(), childCPU(b)
		out, err := node.Run(conf, []string{
			cniconf.NodeFileVariable + "=" + nodeFile(socket), "CNI_COMMAND=ADD", "CNI_CONTAINERID=" + id, "CNI_NETNS=" + pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=" + bin,
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p",
		}, filepath.Join(bin, name))
		took[kind] = append(took[kind], time.Since(began))
		took[kind+"-cpu"] = append(took[kind+"-cpu"], childCPU(b)-before)
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	i := 0
	for b.Loop() {
		i++
		pod, id := linuxtest.NewMachine(b, "pod"), fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i), byte(i >> 8)}))
		v4, v6 := fmt.Sprintf("172.31.%d.%d/20", 17+i/250, 2+i%250), fmt.Sprintf("2406:da1e:c4:ed01:1::%x/64", i)
		run("main-plugin", "macvlan", pod, id, `{"cniVersion":"1.0.0","name":"n","type":"macvlan","master":"ens5","ipam":{}}`)
		pod.Addr("eth0", v4, v6)
		run("coordinator", "coordinator", pod, id, fmt.Sprintf(`{"cniVersion":"1.0.0","name":"n","type":"coordinator",
			"prevResult":{"cniVersion":"1.0.0",
			"interfaces":[{"name":"eth0","sandbox":"s"}],"ips":[{"address":%q,"interface":0},{"address":%q,"interface":0}]}}`, v4, v6))
	}
	for kind, all := range took {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, kind+"-ms")
	}
	var starts []time.Duration
	for range 50 {
		began := time.Now()
		cmd := exec.Command(filepath.Join(bin, "coordinator"))
		cmd.Env = []string{"CNI_COMMAND=VERSION"}
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		starts = append(starts, time.Since(began))
	}
	slices.Sort(starts)
	b.ReportMetric(float64(starts[len(starts)/2].Microseconds())/1000, "start-ms")
}

// childCPU is the CPU time that the processes that ended so far took.
func childCPU(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

//go:build kernel

package benchservice

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/test/stats"
)

var (
	sizes   = flag.String("services", "10,1000,10000", "comma-separated numbers of services in the cluster, in ascending order")
	rounds  = flag.Int("rounds", 5, "measurements per path, in turn; the report has the medians")
	seconds = flag.Float64("seconds", 2, "duration of each figure")
	results = flag.String("json", "", "file for the results")
)

// Paths without kube-proxy; the others have the name of its mode.
const (
	pathOwn  = "own address"
	pathEBPF = "eBPF"
)

// path is a way from a client pod to a backend.
type path struct {
	name   string
	client *linuxtest.Machine
	group  string // the client's control group
	// near and far are the addresses of a backend on the client's node and on another one.
	near, far netip.AddrPort
}

// result are the figures of a path to one backend.
type result struct {
	Services int
	Backend  string
	Path     string
	Rounds   []figures
	Median   figures
}

func BenchmarkServices(b *testing.B) {
	if err := run(b); err != nil {
		b.Fatal(err)
	}
}

func run(tb testing.TB) error {
	var counts []int
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 10 || len(counts) > 0 && n <= counts[len(counts)-1] {
			return fmt.Errorf("--services %s: want ascending numbers of 10 or more, e.g. 10,1000,10000", *sizes)
		}
		counts = append(counts, n)
	}
	c, n := newCluster(tb), newNetwork(tb)
	paths, farBackend := build(c, n)
	var proxied []*linuxtest.Machine
	for _, p := range paths {
		if p.name != pathOwn && p.name != pathEBPF {
			proxied = append(proxied, p.client)
		}
	}
	var all []*result
	for _, count := range counts {
		began := time.Now()
		c.grow(count - 1)
		c.sync()
		c.awaitProxies(farBackend, proxied)
		fmt.Printf("%d services after %s\n", c.services, time.Since(began).Round(time.Second))
		measured, err := measure(paths, c.services)
		if err != nil {
			return err
		}
		all = append(all, measured...)
		report(os.Stdout, measured)
	}
	if *results != "" {
		return stats.WriteJSON(*results, all)
	}
	return nil
}

// build makes the nodes, pods and services of all paths.
func build(c *cluster, n *network) (paths []path, farBackend string) {
	far, farBackend := n.pod(n.node("far", 250))
	startServer(n.tb, far)
	farService := netip.AddrPortFrom(c.must("far", farBackend), 80)
	modes := []string{pathEBPF, "iptables", "nftables", "ipvs"}
	for i, mode := range modes {
		if mode == "ipvs" {
			if out, err := n.ethernet.Run("", nil, "ipvsadm", "-Ln"); err != nil {
				fmt.Printf("not measured: ipvs, because this kernel has no IPVS (%s)\n", strings.TrimSpace(out))
				continue
			}
		}
		node := n.node(strings.ToLower(mode), 10+i)
		client, _ := n.pod(node)
		backend, nearBackend := n.pod(node)
		startServer(n.tb, backend)
		near := netip.AddrPortFrom(c.must("near-"+node.Name, nearBackend), 80)
		if mode != pathEBPF {
			c.kubeProxy(node, nodeAddr(10+i), mode)
			paths = append(paths, path{name: mode, client: client, near: near, far: farService})
			continue
		}
		own := func(addr string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(addr), serverPort) }
		paths = append(paths,
			path{name: pathOwn, client: client, near: own(nearBackend), far: own(farBackend)},
			path{name: pathEBPF, client: client, group: c.group, near: near, far: farService})
	}
	return paths, farBackend
}

// measure measures all paths in turn.
func measure(paths []path, services int) ([]*result, error) {
	var all []*result
	for _, backend := range []string{"same node", "other node"} {
		for _, p := range paths {
			all = append(all, &result{Services: services, Backend: backend, Path: p.name})
		}
	}
	for round := range *rounds {
		for i, r := range all {
			p := paths[i%len(paths)]
			to := p.near
			if r.Backend == "other node" {
				to = p.far
			}
			o := order{Address: to.Addr().As4(), Port: int(to.Port()), Duration: time.Duration(*seconds * float64(time.Second)), CPU: lastCPU()}
			f, err := o.measure(p.client, p.group)
			if err != nil {
				return nil, fmt.Errorf("%s to the %s: %w", p.name, r.Backend, err)
			}
			fmt.Printf("%d/%d  %-10s  %-11s  %6.2f Gbit/s  %6.1f µs  %6.0f connections/s\n", round+1, *rounds, r.Backend, p.name, f.Gbit, f.P50, f.Connections)
			r.Rounds = append(r.Rounds, f)
		}
	}
	for _, r := range all {
		r.Median = median(r.Rounds)
	}
	return all, nil
}

func iptablesVersion() string {
	out, err := exec.Command("iptables", "--version").Output()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

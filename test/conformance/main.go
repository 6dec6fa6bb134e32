// Command conformance runs Kubernetes' own end-to-end tests on a cluster whose only
// network is Spiderpool. It starts the lab, installs the chart so that every pod gets its
// interface from Spiderpool, runs a set of the tests of networks, lists the tests that did
// not pass with their reasons, and stops the lab. The set "policy" also has the tests of
// sigs.k8s.io/network-policy-api.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"spiderpool.dev/spiderpool/test/e2e/walk"
)

const (
	// manifests has the guide's manifests for each topology, with hostPorts and more
	// addresses.
	manifests = "test/conformance/testdata"
	// results is the directory of the tests' log and report.
	results = "dist/conformance"
	logFile = results + "/e2e.log"
)

// processes is the number of tests at a time, by topology. Most tests wait most of the time. On aws, the nodes share one
// processor, and each has 16 IPv4 addresses for pods.
var processes = map[string]int{"l2": 4, "aws": 2}

// choice is a set of tests, and the cluster that they run on.
type choice struct {
	// labels is a label filter of Ginkgo. run and skip are regular expressions of names;
	// an empty skip skips nothing.
	labels, run, skip string
	// serviceMode is the Helm value service.mode.
	serviceMode string
	// nodes is the number of nodes. They are in three zones.
	nodes int
	// clusterPolicies adds the tests of network-policy-api.
	clusterPolicies bool
	// topology is the lab's network, l2 or aws.
	topology string
}

// sets are the choices by name.
var sets = map[string]choice{
	// The tests required of every pod network.
	"conformance": {labels: "sig-network && Conformance", serviceMode: "kubeproxy", nodes: 2},
	// These and the ones about services, DNS and connections. Left out are tests of
	// network policy, throughput, the internet and a cloud, the ones that reconfigure the
	// DNS server of the cluster, and one that looks on a node for the connection of its pod,
	// which takes the direct path.
	"services": {labels: "sig-network && Feature: isSubsetOf {IPv6DualStack}", skip: "Netpol|IPerf|Internet|Provider:GCE|DNS configMap|CLOSE_WAIT",
		serviceMode: "ebpf", nodes: 3},
	// NetworkPolicy and ClusterNetworkPolicy. The tests connect to cluster IPs, so eBPF
	// gives the packets their final addresses before a policy sees them.
	"policy": {labels: "sig-network && Feature: containsAny NetworkPolicy", serviceMode: "ebpf", nodes: 2, clusterPolicies: true},
}

// sctpTests is a regular expression for the tests with SCTP associations.
const sctpTests = "SCTPConnectivity"

func main() {
	lab := flag.String("lab", "bin/lab", "path of the lab program")
	set := flag.String("set", "conformance", "set of tests: conformance; services, which contains the first one; or policy")
	run := flag.String("run", ".", "regular expression that selects tests of the set")
	mode := flag.String("service-mode", "", "Helm value service.mode (default: kubeproxy for conformance, ebpf for the others)")
	nodes := flag.Int("nodes", 0, "number of nodes (default: 3 for services, 2 for the others)")
	topology := flag.String("topology", "l2", "topology of the lab: l2 or aws")
	keep := flag.Bool("keep", false, "keep the lab running afterwards")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := choose(*set, *run, *mode, *nodes, *topology)
	if err == nil {
		err = conform(ctx, *lab, c, *keep)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// choose returns the set with that name. mode and nodes replace the set's, unless empty.
func choose(set, run, mode string, nodes int, topology string) (choice, error) {
	c, ok := sets[set]
	if !ok {
		return c, fmt.Errorf("unknown set %q: want conformance, services or policy", set)
	}
	c.run, c.topology = run, topology
	c.serviceMode = cmp.Or(mode, c.serviceMode)
	c.nodes = cmp.Or(nodes, c.nodes)
	return c, nil
}

func conform(ctx context.Context, binary string, c choice, keep bool) (err error) {
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	suite, err := build(ctx, binary)
	if err != nil {
		return err
	}
	// For the manifests.
	if err := os.Setenv("SERVICE_MODE", c.serviceMode); err != nil {
		return err
	}
	if !keep {
		defer func() { err = errors.Join(err, walk.Down(ctx, binary, os.Stdout)) }()
	}
	lab, err := walk.Up(ctx, binary, c.topology, os.Stdout, "--nodes", fmt.Sprint(c.nodes))
	if err != nil {
		return err
	}
	if err := install(ctx, lab, suite, c); err != nil {
		return err
	}
	v, err := judgedAll(ctx, lab, suite, c)
	if err != nil {
		return err
	}
	// The last tests' addresses may still be on their way back.
	if _, err := lab.Kubectl(ctx, "get spiderippools"); err != nil {
		return err
	}
	v.write(os.Stdout)
	fmt.Printf("The tests' log is %s\n", logFile)
	return v.err()
}

// judgedAll runs the set, as far as the kernel of the nodes can.
func judgedAll(ctx context.Context, lab *walk.Lab, suite string, c choice) (verdict, error) {
	protocols, err := lab.Exec(ctx, "master", "cat /proc/net/protocols")
	if err != nil {
		return verdict{}, err
	}
	sctp := strings.Contains(protocols, "\nSCTP ")
	if c.clusterPolicies && !sctp {
		c.skip = sctpTests
		fmt.Println("The kernel of the nodes has no SCTP: the tests with associations are left out.")
	}
	v, err := judged(ctx, lab, suite, c)
	if err != nil || !c.clusterPolicies {
		return v, err
	}
	more, err := judgedClusterPolicies(ctx, lab, suite, c, sctp)
	v.join(more)
	return v, err
}

// build builds the tests and their images, and returns the directory of both.
func build(ctx context.Context, binary string) (string, error) {
	cmd := exec.CommandContext(ctx, binary, "build", "--conformance")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}

// install makes Spiderpool the only network of the lab's cluster, with the guide's
// steps up to the pools, and loads the tests' images. It spreads the nodes over zones,
// because topology tests need three.
func install(ctx context.Context, lab *walk.Lab, suite string, c choice) error {
	site, err := walk.SiteOf(c.topology)
	if err != nil {
		return err
	}
	site.Manifests, site.Nodes = filepath.Join(manifests, c.topology), map[string]walk.Node{"master": {}}
	for len(site.Nodes) < c.nodes {
		site.Nodes[fmt.Sprintf("worker%d", len(site.Nodes))] = walk.Node{}
	}
	if err := walk.Install(ctx, lab, site); err != nil {
		return err
	}
	fmt.Print("\n== Run the tests of networks\n")
	for i, node := range slices.Sorted(maps.Keys(site.Nodes)) {
		if _, err := lab.Kubectl(ctx, fmt.Sprintf("label --overwrite node %s topology.kubernetes.io/zone=zone-%d", node, i%3)); err != nil {
			return err
		}
	}
	_, err = lab.Sh(ctx, lab.Binary+" image load "+suite+"/*.tar")
	return err
}

// judged runs the tests and returns the verdict.
func judged(ctx context.Context, lab *walk.Lab, suite string, c choice) (v verdict, err error) {
	if err := os.MkdirAll(results, 0o755); err != nil {
		return v, err
	}
	file := filepath.Join(lab.Root, results, "report.json")
	if err := os.RemoveAll(file); err != nil {
		return v, err
	}
	log, err := os.Create(logFile)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	tests := filepath.Join(suite, "e2e.test")
	args := []string{fmt.Sprintf("--procs=%d", processes[c.topology]), "--label-filter=" + c.labels, "--focus=" + c.run, "--skip=" + c.skip, "--timeout=2h",
		"--output-dir=" + filepath.Dir(file), "--json-report=" + filepath.Base(file), "-v", "--no-color", "--silence-skips", tests, "--", "--provider=skeleton",
		fmt.Sprintf("--num-nodes=%d", c.nodes)}
	if c.skip == "" {
		args = slices.DeleteFunc(args, func(arg string) bool { return arg == "--skip=" })
	}
	fmt.Printf("$ ginkgo %s\n", strings.Join(args, " "))
	// Run with the lab's kubectl and KUBECONFIG.
	inLab := []string{"-c", `eval "$("$0" env)" && exec "$@"`, lab.Binary, filepath.Join(suite, "ginkgo")}
	cmd := exec.CommandContext(ctx, "sh", append(inLab, args...)...)
	cmd.Stdout = io.MultiWriter(log, &progress{out: os.Stdout})
	cmd.Stderr = cmd.Stdout
	start := time.Now()
	failure := cmd.Run() // fails if a test fails; the report has the details
	report, err := os.ReadFile(file)
	if err != nil {
		return v, errors.Join(failure, err)
	}
	fmt.Printf("  after %s\n\n", time.Since(start).Round(time.Second))
	return judge(report)
}

package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/test/e2e/walk"
)

//go:embed pods.yaml
var manifest string

// The servers' ports, as in pods.yaml: of the pods, and of the nodes for pods behind a
// bridge.
const (
	iperfPort, pingPort         = 5201, 5202
	iperfNodePort, pingNodePort = 30201, 30202
)

// startLimit bounds the start of the pods, reachLimit the time until the client then
// reaches the server.
const (
	startLimit = 10 * time.Minute
	reachLimit = 2 * time.Minute
)

// The nodes of the client's and the server's pods.
const clientNode, serverNode = "master", "worker1"

// network is one measured network between the two pods.
type network struct {
	Name string
	// Attachment is the pods' network attachment; empty means the node's network.
	Attachment string

	client              string // the pod's name
	address             string // the server's address for the client
	iperfPort, pingPort int
}

// networksOf returns the measured networks of a site.
func networksOf(site walk.Site) []*network {
	_, underlay, _ := strings.Cut(site.Attachment, "/")
	kind, _, _ := strings.Cut(underlay, "-")
	return []*network{{Name: "host"}, {Name: kind, Attachment: site.Attachment}, {Name: "bridge", Attachment: "kube-system/bridge"}}
}

// pods renders pods.yaml for the networks.
func pods(networks []*network) (string, error) {
	var out strings.Builder
	t, err := template.New("pods.yaml").Parse(manifest)
	if err == nil {
		err = t.Execute(&out, networks)
	}
	return out.String(), err
}

// place finds the client's pod and the server's address.
func (n *network) place(pods []corev1.Pod) error {
	on := map[string]corev1.Pod{}
	for _, p := range pods {
		on[p.Spec.NodeName] = p
	}
	client, server := on[clientNode], on[serverNode]
	if client.Name == "" || server.Name == "" {
		return fmt.Errorf("no pod on %s or on %s", clientNode, serverNode)
	}
	n.client, n.address, n.iperfPort, n.pingPort = client.Name, server.Status.PodIP, iperfPort, pingPort
	if n.Name == "bridge" {
		n.address, n.iperfPort, n.pingPort = server.Status.HostIP, iperfNodePort, pingNodePort
	}
	return nil
}

// bench is a measurement on a lab with Spiderpool installed.
type bench struct {
	lab     *walk.Lab
	seconds int
}

// measure creates the pods of all networks and measures the networks in turn, so that
// a temporary disturbance of this machine affects all of them.
func measure(ctx context.Context, o *options, lab *walk.Lab, site walk.Site, archive string) ([]result, error) {
	fmt.Printf("\n== Start the pods\n")
	networks := networksOf(site)
	if err := start(ctx, lab, networks, archive); err != nil {
		return nil, err
	}
	kernel, err := kernelOf(ctx, lab)
	if err != nil {
		return nil, err
	}
	fmt.Printf("\n== Measure on %s\n", kernel)
	lab.Out = io.Discard
	b := &bench{lab, o.seconds}
	var results []result
	for _, n := range networks {
		if err := b.reachable(ctx, n); err != nil {
			return nil, fmt.Errorf("network %s: %w", n.Name, err)
		}
		results = append(results, result{Topology: site.Name, Kernel: kernel, Network: n.Name})
	}
	for i := range o.rounds {
		for j, n := range networks {
			f, err := b.once(ctx, n)
			if err != nil {
				return nil, fmt.Errorf("network %s: %w", n.Name, err)
			}
			results[j].Rounds = append(results[j].Rounds, f)
			fmt.Printf("%-8s %d/%d  %s\n", n.Name, i+1, o.rounds, f.summary())
		}
	}
	for i := range results {
		results[i].Median = median(results[i].Rounds)
	}
	return results, nil
}

// start creates the pods and places the networks.
func start(ctx context.Context, lab *walk.Lab, networks []*network, archive string) error {
	if _, err := lab.Sh(ctx, lab.Binary+" image load "+archive); err != nil {
		return err
	}
	text, err := pods(networks)
	if err != nil {
		return err
	}
	file := filepath.Join(filepath.Dir(archive), "pods.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	if _, err := lab.Kubectl(ctx, "apply -f "+file); err != nil {
		return err
	}
	for _, n := range networks {
		if _, err := lab.Kubectl(ctx, fmt.Sprintf("rollout status daemonset/bench-net-%s --timeout=%s", n.Name, startLimit)); err != nil {
			return err
		}
	}
	// Behind bridges, client and server may have the same address, so the Service must select one of them.
	if _, err := lab.Kubectl(ctx, "label pods -l bench-net --field-selector spec.nodeName="+serverNode+" bench-net-role=server"); err != nil {
		return err
	}
	if _, err := lab.Kubectl(ctx, "get pods -o wide"); err != nil {
		return err
	}
	quiet := *lab
	quiet.Out = io.Discard
	for _, n := range networks {
		out, err := quiet.Kubectl(ctx, "get pods -o json -l bench-net="+n.Name)
		if err != nil {
			return err
		}
		var list corev1.PodList
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			return err
		}
		if err := n.place(list.Items); err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	return nil
}

// kernelOf returns the release and the kind of the nodes' kernel.
func kernelOf(ctx context.Context, lab *walk.Lab) (string, error) {
	status, err := lab.Sh(ctx, lab.Binary+" status | grep ^Kernel")
	if err != nil {
		return "", err
	}
	return kernelIn(status)
}

// kernelIn reads the line "Kernel 6.18.5 (uml); of the control plane 6.12.9".
func kernelIn(status string) (string, error) {
	nodes, _, found := strings.Cut(strings.TrimPrefix(status, "Kernel"), ";")
	if !found {
		return "", fmt.Errorf("`lab status` does not show the nodes' kernel: %q", status)
	}
	return strings.TrimSpace(nodes), nil
}

// reachable waits until the client reaches the server, because kube-proxy updates its
// rules a moment after the pods start.
func (b *bench) reachable(ctx context.Context, n *network) error {
	for deadline := time.Now().Add(reachLimit); ; {
		_, errTCP := b.pingpong(ctx, n, "tcp", time.Millisecond)
		_, errUDP := b.pingpong(ctx, n, "udp", time.Millisecond)
		err := errors.Join(errTCP, errUDP)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(time.Second)
	}
}

// once takes one measurement of a network.
func (b *bench) once(ctx context.Context, n *network) (figures, error) {
	out, failed := b.lab.Kubectl(ctx, fmt.Sprintf("exec %s -c iperf3 -- iperf3 --json --client %s --port %d --time %d",
		n.client, n.address, n.iperfPort, b.seconds))
	var f figures
	var err error
	if f.GbitPerS, err = throughput(out); err != nil {
		return f, errors.Join(fmt.Errorf("iperf3: %w", err), failed)
	}
	duration := time.Duration(b.seconds) * time.Second
	if f.TCP, err = b.pingpong(ctx, n, "tcp", duration); err != nil {
		return f, err
	}
	f.UDP, err = b.pingpong(ctx, n, "udp", duration)
	return f, err
}

func (b *bench) pingpong(ctx context.Context, n *network, protocol string, duration time.Duration) (latency, error) {
	var l latency
	out, err := b.lab.Kubectl(ctx, fmt.Sprintf("exec %s -c pingpong -- pingpong %s %s:%d %s", n.client, protocol, n.address, n.pingPort, duration))
	if err != nil {
		return l, err
	}
	return l, json.Unmarshal([]byte(out), &l)
}

// throughput returns the rate received by the server in Gbit/s, from the JSON report
// of the iperf3 client.
func throughput(report string) (float64, error) {
	var r struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				BitsPerS float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(report), &r); err != nil {
		return 0, fmt.Errorf("parse its report: %w", err)
	}
	if r.Error != "" {
		return 0, errors.New(r.Error)
	}
	if r.End.Received.BitsPerS == 0 {
		return 0, errors.New("the server received nothing")
	}
	return r.End.Received.BitsPerS / 1e9, nil
}

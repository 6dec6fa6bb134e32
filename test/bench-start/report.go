package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/test/stats"
)

// result are the measurements of a network, and one object in bench-start.json.
type result struct {
	Network string `json:"network"`
	Direct  bool   `json:"direct"` // without Multus
	Dual    bool   `json:"dual"`
	AtOnce  int    `json:"atOnce"`
	// Pods has the times of each pod, Sandbox the kubelet's mean time for a sandbox in
	// each start of AtOnce pods.
	Pods    []pod           `json:"pods"`
	Sandbox []time.Duration `json:"sandbox"`
}

// pod has the times of one ADD in nanoseconds. Outer and Main include the plugins that
// they call.
type pod struct {
	Outer   times `json:"outer"`
	Main    times `json:"main"`
	IPAM    times `json:"ipam"`
	Chained times `json:"chained"`
}

type times struct {
	Wall time.Duration `json:"wall"`
	CPU  time.Duration `json:"cpu"`
}

// sum is the time of main plugin, IPAM and the chained plugin.
func (p pod) sum() times { return times{p.Main.Wall + p.Chained.Wall, p.Main.CPU + p.Chained.CPU} }

// whole is the time that containerd waits for the network of a pod.
func (r result) whole(p pod) times {
	if r.Direct {
		return p.sum()
	}
	return p.Outer
}

// add adds the ADDs of n pods.
func (r *result) add(net network, n int, records []record, made sandboxes) error {
	pods := map[string]*pod{}
	for _, rec := range records {
		if rec.Command != "ADD" {
			continue
		}
		p, ok := pods[rec.Container]
		if !ok {
			p = &pod{}
			pods[rec.Container] = p
		}
		t := times{rec.Wall, rec.CPU}
		for name, into := range map[string]*times{net.outer: &p.Outer, net.main: &p.Main, net.ipam: &p.IPAM, net.chained: &p.Chained} {
			if name == rec.Plugin {
				*into = t
			}
		}
		if net.isDirect() && rec.Plugin == net.outer {
			p.Outer, p.Main = t, t
		}
	}
	if len(pods) != n || int(made.count) != n {
		return fmt.Errorf("the stopwatch saw %d sandboxes and the kubelet made %d, want %d", len(pods), int(made.count), n)
	}
	for id, p := range pods {
		if p.Outer.Wall == 0 || p.Main.Wall == 0 || p.IPAM.Wall == 0 || p.Chained.Wall == 0 {
			return fmt.Errorf("sandbox %s: a plugin of %s was not called: %+v", id, net.name, *p)
		}
		r.Pods = append(r.Pods, *p)
	}
	r.Sandbox = append(r.Sandbox, time.Duration(made.seconds/made.count*float64(time.Second)))
	return nil
}

// wall and cpu are medians over the pods.
func (r result) wall(of func(pod) times) time.Duration {
	return r.median(func(p pod) time.Duration { return of(p).Wall })
}

func (r result) cpu(of func(pod) times) time.Duration {
	return r.median(func(p pod) time.Duration { return of(p).CPU })
}

func (r result) median(of func(pod) time.Duration) time.Duration {
	var values []time.Duration
	for _, p := range r.Pods {
		values = append(values, of(p))
	}
	return stats.Median(values)
}

// cell is wall clock and CPU time in milliseconds, e.g. "24.1 (8.9)".
func (r result) cell(of func(pod) times) string {
	return fmt.Sprintf("%s (%s)", ms(r.wall(of)), ms(r.cpu(of)))
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }

func (r result) stack() string {
	if r.Dual {
		return "dual"
	}
	return "IPv4"
}

func (r result) summary() string {
	return fmt.Sprintf("%-25s %s, %d at once: network %s ms, sandbox %s ms", r.Network, r.stack(), r.AtOnce,
		ms(r.wall(r.whole)), ms(stats.Median(r.Sandbox)))
}

// printTables writes the medians as Markdown. A ratio compares with the bridge of the
// same stack and number of pods.
func printTables(w io.Writer, results []result) {
	fmt.Fprintln(w, "| stack | pods at once | network | pods | Multus | main plugin | of that IPAM | chained plugin | main + chained | × bridge | whole | × bridge | p90 of whole | kubelet's sandbox |")
	fmt.Fprintln(w, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, r := range results {
		base := results[slices.IndexFunc(results, func(b result) bool { return b.Network == bridge.name && b.Dual == r.Dual && b.AtOnce == r.AtOnce })]
		multus := "–"
		if !r.Direct {
			multus = r.cell(func(p pod) times { return p.Outer })
		}
		fmt.Fprintf(w, "| %s | %d | %s | %d | %s | %s | %s | %s | %s | %.2f | %s | %.2f | %s | %s |\n", r.stack(), r.AtOnce, r.Network, len(r.Pods), multus,
			r.cell(func(p pod) times { return p.Main }), r.cell(func(p pod) times { return p.IPAM }), r.cell(func(p pod) times { return p.Chained }), r.cell(pod.sum),
			float64(r.wall(pod.sum))/float64(base.wall(pod.sum)), r.cell(r.whole), float64(r.wall(r.whole))/float64(base.wall(base.whole)), ms(p90(r.Pods, r.whole)), ms(stats.Median(r.Sandbox)))
	}
}

// p90 returns the wall clock that nine of ten pods do not exceed.
func p90(pods []pod, of func(pod) times) time.Duration {
	var values []time.Duration
	for _, p := range pods {
		values = append(values, of(p).Wall)
	}
	slices.Sort(values)
	return values[(len(values)*9-1)/10]
}

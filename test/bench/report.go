package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"spiderpool.dev/spiderpool/test/sim"
	"spiderpool.dev/spiderpool/test/stats"
)

// result is one row of the report and one object in bench.json. A rate is the number of
// pods divided by the time until the views have caught up.
type result struct {
	Scenario          string  `json:"scenario"`
	Plugin            string  `json:"plugin"`
	AddPerS           float64 `json:"add_per_s"`
	DelPerS           float64 `json:"del_per_s"`
	AddP50MS          float64 `json:"add_p50_ms"`
	AddP90MS          float64 `json:"add_p90_ms"`
	AddP99MS          float64 `json:"add_p99_ms"`
	DelP50MS          float64 `json:"del_p50_ms"`
	DelP99MS          float64 `json:"del_p99_ms"`
	APIWritesPerPod   float64 `json:"api_writes_per_pod"`
	APIReadsPerPod    float64 `json:"api_reads_per_pod"`
	DelWritesPerPod   float64 `json:"api_writes_per_pod_del"`
	Conflicts         float64 `json:"conflicts"`
	FailedAttempts    int     `json:"failed_attempts"`
	Duplicates        int     `json:"duplicates"`
	EtcdBytesPerPod   float64 `json:"etcd_bytes_per_pod"`
	EtcdFsyncsPerPod  float64 `json:"etcd_fsyncs_per_pod"`
	AgentRSSMiB       float64 `json:"agent_rss_mib"`
	PluginCPUMS       float64 `json:"plugin_cpu_ms"`
	AnsweredAddPerS   float64 `json:"answered_add_per_s"`
	AnsweredDelPerS   float64 `json:"answered_del_per_s"`
	TotalS            float64 `json:"total_s"`
	Nodes             int     `json:"nodes"`
	Workers           int     `json:"workers"`
	Pods              int     `json:"pods"`
	CPUMSPerPod       byName  `json:"cpu_ms_per_pod"`
	RequestsPerPod    byName  `json:"requests_per_pod"`
	DelRequestsPerPod byName  `json:"requests_per_pod_del"`
}

// byName maps names to numbers.
type byName map[string]float64

func newResult(r *runner, plugin string, n int, add, del phase) result {
	pods := float64(n)
	out := result{
		Scenario: r.scenario.name, Plugin: plugin, Nodes: len(r.cluster.Nodes), Workers: r.workers, Pods: n,
		AddPerS: pods / add.caughtUp.Seconds(), DelPerS: pods / del.caughtUp.Seconds(),
		AnsweredAddPerS: pods / add.answered.Seconds(), AnsweredDelPerS: pods / del.answered.Seconds(),
		TotalS:   (add.caughtUp + del.caughtUp).Seconds(),
		AddP50MS: percentile(add.latencies, 0.50), AddP90MS: percentile(add.latencies, 0.90), AddP99MS: percentile(add.latencies, 0.99),
		DelP50MS: percentile(del.latencies, 0.50), DelP99MS: percentile(del.latencies, 0.99),
		APIWritesPerPod: add.counters.Sum(sim.Request.Write) / pods,
		APIReadsPerPod:  add.counters.Sum(sim.Request.Read) / pods,
		DelWritesPerPod: del.counters.Sum(sim.Request.Write) / pods,
		Conflicts:       add.counters.Sum(sim.Request.Conflict) + del.counters.Sum(sim.Request.Conflict),
		FailedAttempts:  add.failed + del.failed,
		EtcdBytesPerPod: add.counters.EtcdBytes / pods, EtcdFsyncsPerPod: add.counters.Fsyncs / pods,
		PluginCPUMS:    (add.pluginCPU + del.pluginCPU).Seconds() * 1000 / float64(add.calls+del.calls),
		CPUMSPerPod:    byName{},
		RequestsPerPod: perPod(add, pods), DelRequestsPerPod: perPod(del, pods),
	}
	for name, used := range add.cpu {
		out.CPUMSPerPod[name] = used.Seconds() * 1000 / pods
	}
	return out
}

// perPod returns the number of requests per pod, by verb, resource and code.
func perPod(p phase, pods float64) byName {
	out := byName{}
	for r, n := range p.counters.Requests {
		out[fmt.Sprintf("%s %s %s", r.Verb, r.Resource, r.Code)] += n / pods
	}
	return out
}

// percentile returns the smallest latency in ms that covers the share q of all.
func percentile(latencies []time.Duration, q float64) float64 {
	if len(latencies) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(latencies))
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return float64(sorted[max(i, 0)].Microseconds()) / 1000
}

func (r result) summary() string {
	return fmt.Sprintf("%4.0f ADD/s  %4.0f DEL/s  p50 %.1f ms  p99 %.1f ms", r.AddPerS, r.DelPerS, r.AddP50MS, r.AddP99MS)
}

// measured are the fields with a median over several runs.
var measured = []func(*result) *float64{
	func(r *result) *float64 { return &r.AddPerS },
	func(r *result) *float64 { return &r.DelPerS },
	func(r *result) *float64 { return &r.AddP50MS },
	func(r *result) *float64 { return &r.AddP90MS },
	func(r *result) *float64 { return &r.AddP99MS },
	func(r *result) *float64 { return &r.DelP50MS },
	func(r *result) *float64 { return &r.DelP99MS },
	func(r *result) *float64 { return &r.APIWritesPerPod },
	func(r *result) *float64 { return &r.APIReadsPerPod },
	func(r *result) *float64 { return &r.DelWritesPerPod },
	func(r *result) *float64 { return &r.Conflicts },
	func(r *result) *float64 { return &r.EtcdBytesPerPod },
	func(r *result) *float64 { return &r.EtcdFsyncsPerPod },
	func(r *result) *float64 { return &r.AgentRSSMiB },
	func(r *result) *float64 { return &r.PluginCPUMS },
	func(r *result) *float64 { return &r.AnsweredAddPerS },
	func(r *result) *float64 { return &r.AnsweredDelPerS },
	func(r *result) *float64 { return &r.TotalS },
}

// median takes the median of every number separately and adds up the numbers that must
// be zero. The breakdowns come from the run with the median rate.
func median(runs []result) result {
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b result) int { return cmp.Compare(a.AddPerS, b.AddPerS) })
	out := sorted[len(sorted)/2]
	for _, field := range measured {
		var values []float64
		for i := range runs {
			values = append(values, *field(&runs[i]))
		}
		*field(&out) = stats.Median(values)
	}
	out.FailedAttempts, out.Duplicates = 0, 0
	for _, r := range runs {
		out.FailedAttempts += r.FailedAttempts
		out.Duplicates += r.Duplicates
	}
	return out
}

// report prints the tables. With --check, a missed target is an error.
func report(o *options, results []result, took time.Duration) error {
	fmt.Printf("\n%d nodes with %d concurrent calls, %d pods (%d in sequential scenarios), medians of %d, on %s\n\n",
		o.nodes, o.workers, o.pods, min(o.pods, sequentialPods), o.repeat, o.dir)
	printFigures(os.Stdout, results)
	printCosts(os.Stdout, results)
	missed := printTargets(os.Stdout, results)
	fmt.Printf("\n%s in total; results in %s\n", took.Round(time.Second), o.json)
	var duplicates int
	for _, r := range results {
		duplicates += r.Duplicates
	}
	switch {
	case duplicates > 0:
		return fmt.Errorf("%d addresses had two holders at once", duplicates)
	case o.check && missed > 0:
		return fmt.Errorf("%d targets missed", missed)
	}
	return nil
}

func printFigures(w io.Writer, results []result) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tplugin\tADD/s\tDEL/s\tp50 ms\tp90\tp99\tDEL p50\twrites/pod\treads\tconflicts\tKB to etcd\tplugin CPU ms\tagent MiB\tfailed\tduplicates\t")
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t%.0f\t%.1f\t%.2f\t%.0f\t%d\t%d\t\n",
			r.Scenario, r.Plugin, r.AddPerS, r.DelPerS, r.AddP50MS, r.AddP90MS, r.AddP99MS, r.DelP50MS,
			r.APIWritesPerPod, r.APIReadsPerPod, r.Conflicts, r.EtcdBytesPerPod/1000, r.PluginCPUMS, r.AgentRSSMiB, r.FailedAttempts, r.Duplicates)
	}
	_ = t.Flush() // writes to a terminal or a file opened by the shell
}

// printCosts prints the CPU time and the requests of an ADD.
func printCosts(w io.Writer, results []result) {
	columns := []string{"plugin", "agents", "cluster", "kube-apiserver", "etcd", "bench"}
	fmt.Fprintln(w, "\nCPU ms per added pod (cluster: the controller), etcd fsyncs and requests:")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\tplugin\t%s\tfsyncs\t  requests of ADD\t\n", strings.Join(columns, "\t"))
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%s\t", r.Scenario, r.Plugin)
		for _, c := range columns {
			fmt.Fprintf(t, "%.2f\t", r.CPUMSPerPod[c])
		}
		var requests []string
		for _, name := range slices.Sorted(maps.Keys(r.RequestsPerPod)) {
			if n := r.RequestsPerPod[name]; n >= 0.01 {
				requests = append(requests, fmt.Sprintf("%s ×%.2f", name, n))
			}
		}
		fmt.Fprintf(t, "%.2f\t  %s\t\n", r.EtcdFsyncsPerPod, strings.Join(requests, ", "))
	}
	_ = t.Flush() // as above
}

// terminal reports whether progress can overwrite its line.
var terminal = term.IsTerminal(int(os.Stderr.Fd()))

// progress shows the current step. With a line feed at the end, the text stays.
func progress(format string, values ...any) {
	text := fmt.Sprintf(format, values...)
	switch {
	case terminal:
		fmt.Fprint(os.Stderr, "\r\x1b[K"+text)
	case strings.HasSuffix(text, "\n"):
		fmt.Fprint(os.Stderr, text)
	}
}

// show counts up on the terminal until the caller stops it.
func show(what string, done *atomic.Int64, all int) (stop func()) {
	end := make(chan struct{})
	var shown sync.WaitGroup
	shown.Go(func() {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-end:
				return
			case <-ticker.C:
				progress("%s %d/%d", what, done.Load(), all)
			}
		}
	})
	return func() { close(end); shown.Wait() }
}

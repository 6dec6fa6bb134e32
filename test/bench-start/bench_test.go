package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSandboxTimeIsRead(t *testing.T) {
	t.Parallel()
	const metrics = `# TYPE kubelet_run_podsandbox_duration_seconds histogram
kubelet_run_podsandbox_duration_seconds_bucket{runtime_handler="",le="0.5"} 3
kubelet_run_podsandbox_duration_seconds_sum{runtime_handler=""} 1.5
kubelet_run_podsandbox_duration_seconds_count{runtime_handler=""} 3
kubelet_run_podsandbox_duration_seconds_sum{runtime_handler="other"} 0.25
kubelet_run_podsandbox_duration_seconds_count{runtime_handler="other"} 1
kubelet_run_podsandbox_errors_total 2
`
	got, err := parseSandboxes(metrics)
	if want := (sandboxes{4, 1.75}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// logOf is the log of one pod on a network, with times in milliseconds.
func logOf(net network, container string, outer, main, ipam, chained int) string {
	line := func(plugin, command string, n int) string {
		return fmt.Sprintf(`{"plugin":%q,"command":%q,"container":%q,"wall":%d,"cpu":%d}`+"\n", plugin, command, container, n*1000000, n*100000)
	}
	text := line(net.ipam, "ADD", ipam) + line(net.main, "ADD", main) + line(net.chained, "ADD", chained) + line(net.main, "DEL", 99)
	if !net.isDirect() {
		text += line(net.outer, "ADD", outer)
	}
	return text
}

func resultOf(t *testing.T, net network, log string, pods int) result {
	t.Helper()
	records, err := parseLog(log)
	if err != nil {
		t.Fatal(err)
	}
	r := result{Network: net.name, Direct: net.isDirect(), Dual: true, AtOnce: pods}
	if err := r.add(net, pods, records, sandboxes{float64(pods), 0.5 * float64(pods)}); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTimesOfPodAreAdded(t *testing.T) {
	t.Parallel()
	r := resultOf(t, spiderpool, logOf(spiderpool, "a", 50, 20, 8, 10)+logOf(spiderpool, "b", 70, 30, 9, 10), 2)
	if got := r.cell(pod.sum); got != "35.0 (3.5)" {
		t.Errorf("main and chained plugin took %s", got)
	}
	if got := r.cell(r.whole); got != "60.0 (6.0)" {
		t.Errorf("the whole took %s", got)
	}
	if diff := cmp.Diff([]time.Duration{500 * time.Millisecond}, r.Sandbox); diff != "" {
		t.Errorf("sandbox (-want +got):\n%s", diff)
	}
}

func TestMissingPluginIsReported(t *testing.T) {
	t.Parallel()
	log := strings.Replace(logOf(bridge, "a", 0, 10, 3, 2), `"portmap"`, `"tuning"`, 1)
	records, err := parseLog(log)
	if err != nil {
		t.Fatal(err)
	}
	var r result
	if err := r.add(bridge, 1, records, sandboxes{1, 1}); err == nil || !strings.Contains(err.Error(), "was not called") {
		t.Errorf("got %v", err)
	}
	if err := r.add(bridge, 2, records, sandboxes{2, 1}); err == nil || !strings.Contains(err.Error(), "saw 1 sandboxes") {
		t.Errorf("got %v", err)
	}
}

func TestRatiosCompareWithBridge(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	printTables(&out, []result{
		resultOf(t, spiderpool, logOf(spiderpool, "a", 60, 16, 8, 8), 1),
		resultOf(t, bridge, logOf(bridge, "b", 0, 10, 3, 2), 1),
	})
	for _, want := range []string{
		"| dual | 1 | spiderpool | 1 | 60.0 (6.0) | 16.0 (1.6) | 8.0 (0.8) | 8.0 (0.8) | 24.0 (2.4) | 2.00 | 60.0 (6.0) | 5.00 | 60.0 | 500.0 |",
		"| dual | 1 | bridge | 1 | – | 10.0 (1.0) | 3.0 (0.3) | 2.0 (0.2) | 12.0 (1.2) | 1.00 | 12.0 (1.2) | 1.00 | 12.0 | 500.0 |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no row %s in\n%s", want, &out)
		}
	}
}

func TestControlPlaneIsOfTheLab(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]bool{
		"/opt/etcd\x00--name=master\x00--data-dir=/run/spiderpool-lab/machine/etcd\x00":               true,
		"/opt/kube-apiserver\x00--etcd-cafile=/run/spiderpool-lab/secrets/control-plane/ca.crt\x00":   true,
		"/opt/kube-apiserver\x00--etcd-cafile=/tmp/other/ca.crt\x00":                                  false,
		"/opt/kube-apiserver\x00--etcd-cafile=/run/spiderpool-lab-2/secrets/control-plane/ca.crt\x00": false,
		"/opt/kubelet\x00--config=/run/spiderpool-lab/kubelet.yaml\x00":                               false,
		"": false,
	} {
		if got := isControlPlane([]byte(command), "/run/spiderpool-lab"); got != want {
			t.Errorf("isControlPlane(%q) = %t, want %t", command, got, want)
		}
	}
}

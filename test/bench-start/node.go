package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/test/e2e/walk"
)

// nodeName is the node of all measured pods.
const nodeName = "worker1"

// network is one measured network.
type network struct {
	name string
	// outer is the plugin that containerd calls first, main the plugin that makes the
	// interface, ipam the plugin that main calls, and chained the plugin after main.
	outer, main, ipam, chained string
	// attachment is the NetworkAttachmentDefinition of the pods, for Multus.
	attachment string
}

var (
	spiderpool       = network{"spiderpool", "multus", "macvlan", "spiderpool", "coordinator", "kube-system/macvlan-ens5"}
	spiderpoolDirect = network{"spiderpool without Multus", "macvlan", "macvlan", "spiderpool", "coordinator", ""}
	bridgeMultus     = network{"bridge with Multus", "multus", "bridge", "host-local", "portmap", "kube-system/bench-start"}
	bridge           = network{"bridge", "bridge", "bridge", "host-local", "portmap", ""}

	networks = []network{spiderpool, spiderpoolDirect, bridgeMultus, bridge}
)

// isDirect reports whether containerd calls the main plugin itself.
func (n network) isDirect() bool { return n.outer == n.main }

// plugins are all measured plugins.
func plugins() []string {
	var names []string
	for _, n := range networks {
		names = append(names, n.outer, n.main, n.ipam, n.chained)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// record is one line of the stopwatch's log.
type record struct {
	Plugin    string        `json:"plugin"`
	Command   string        `json:"command"`
	Container string        `json:"container"`
	Wall      time.Duration `json:"wall"`
	CPU       time.Duration `json:"cpu"`
}

// node is the measured node.
type node struct{ *walk.Lab }

// installStopwatch puts the stopwatch in the place of the plugins. The real ones move to
// a directory of their own, together with Spiderpool's paths.
func (n node) installStopwatch(ctx context.Context, program string) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	script := "set -e; mkdir -p /opt/cni/bench-start; cat >/opt/cni/bench-start/stopwatch; chmod 755 /opt/cni/bench-start/stopwatch; cd /opt/cni/bin; cp -a . ../bench-start/"
	for _, name := range plugins() {
		script += fmt.Sprintf("; cp ../bench-start/stopwatch .%[1]s.new; mv .%[1]s.new %[1]s", name)
	}
	_, err = n.ExecWith(ctx, nodeName, script, bytes.NewReader(content))
	return err
}

// readLog returns the log, and empties it.
func (n node) readLog(ctx context.Context) ([]record, error) {
	out, err := n.Exec(ctx, nodeName, "cat /run/bench-start.jsonl 2>/dev/null || true; rm -f /run/bench-start.jsonl")
	if err != nil {
		return nil, err
	}
	return parseLog(out)
}

func parseLog(text string) (records []record, err error) {
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("line %q of the stopwatch: %w", lines.Text(), err)
		}
		records = append(records, r)
	}
	return records, lines.Err()
}

// directFile sorts before the configuration of Multus, so containerd takes it.
const directFile = "/etc/cni/net.d/00-bench-start.conflist"

// use makes containerd call a network for new pods.
func (n node) use(ctx context.Context, net network, dual bool) error {
	if net.name == bridgeMultus.name {
		if err := n.attach(ctx, net.attachment, bridgeConf(dual)); err != nil {
			return err
		}
	}
	if !net.isDirect() {
		_, err := n.Exec(ctx, nodeName, "rm -f "+directFile)
		return err
	}
	conf := bridgeConf(dual)
	if net.name == spiderpoolDirect.name {
		var err error
		if conf, err = n.configOf(ctx, spiderpool.attachment); err != nil {
			return err
		}
	}
	_, err := n.ExecWith(ctx, nodeName, "cat >"+directFile+".new; mv "+directFile+".new "+directFile, strings.NewReader(conf))
	return err
}

// configOf returns the CNI configuration of a NetworkAttachmentDefinition.
func (n node) configOf(ctx context.Context, attachment string) (string, error) {
	namespace, name, _ := strings.Cut(attachment, "/")
	return n.Kubectl(ctx, fmt.Sprintf("get network-attachment-definitions.k8s.cni.cncf.io -n %s %s -o jsonpath={.spec.config}", namespace, name))
}

// attach makes or changes a NetworkAttachmentDefinition.
func (n node) attach(ctx context.Context, attachment, conf string) error {
	namespace, name, _ := strings.Cut(attachment, "/")
	object, err := json.Marshal(map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]string{"namespace": namespace, "name": name}, "spec": map[string]string{"config": conf},
	})
	if err != nil {
		return err
	}
	_, err = n.Kubectl(ctx, "apply -f - <<'END'\n"+string(object)+"\nEND")
	return err
}

// bridgeConf is a network as containerd's example has it, without masquerading.
func bridgeConf(dual bool) string {
	ranges, routes := `[{"subnet": "10.244.0.0/16"}]`, `{"dst": "0.0.0.0/0"}`
	if dual {
		ranges += `, [{"subnet": "fd00:244::/64"}]`
		routes += `, {"dst": "::/0"}`
	}
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "bench-start",
  "plugins": [
    {"type": "bridge", "bridge": "bench-start", "isGateway": true, "ipam": {"type": "host-local", "ranges": [%s], "routes": [%s]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}`, ranges, routes)
}

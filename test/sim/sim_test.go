package sim

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/config"
)

func TestBuiltinDefinitionsRender(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir(), Bin: "/bin", Root: "/repo", Pools: []Pool{
		{Name: "own", Version: 4, Subnet: "10.1.0.0/16", First: "10.1.0.1", Last: "10.1.0.9", Node: "node-0"},
		{Name: "other", Version: 4, Subnet: "10.2.0.0/16", First: "10.2.0.1", Last: "10.2.0.9", Node: "node-1"},
		{Name: "six", Version: 6, Subnet: "fd00::/64", First: "fd00::1", Last: "fd00::9"},
	}}
	for _, name := range BuiltinDefinitions() {
		d, err := LoadDefinition(name)
		if err != nil {
			t.Fatal(err)
		}
		plugin, err := d.Plugin(o.values("node-0", 1))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(plugin.Conf), "10.2.0") {
			t.Errorf("%s: the configuration of node-0 contains node-1's pool: %s", name, plugin.Conf)
		}
		if _, err := render(d.Objects, o.values("", 0)); err != nil {
			t.Error(err)
		}
	}
}

// TestSpiderpoolConfigurationIsValid parses the configuration files written by the
// simulation with the programs' own parser.
func TestSpiderpoolConfigurationIsValid(t *testing.T) {
	t.Parallel()
	d, err := LoadDefinition("spiderpool")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: t.TempDir(), Pools: []Pool{{Version: 4}}}
	for _, p := range append(d.Node, d.Cluster...) {
		if _, _, err := p.Process(o.values("node-0", 1)); err != nil {
			t.Fatal(err)
		}
		for name := range p.Files {
			if name == cniconf.NodeFile { // for the plugin
				continue
			}
			file, err := config.Load(filepath.Join(o.Dir, "node-0", name))
			if err != nil {
				t.Error(err)
			} else if !file.IPAM.EnableIPv4 || file.IPAM.EnableIPv6 {
				t.Errorf("%s: IPv4 %v, IPv6 %v; want the pools' IP families", name, file.IPAM.EnableIPv4, file.IPAM.EnableIPv6)
			}
		}
	}
}

func TestDefinitionErrorNamesFileAndKey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "d.yaml")
	for text, want := range map[string]string{
		"name: x":           "binary",
		"name: x\nbinry: y": "binry",
		"name: x\nbinary: y\nconf: '{}'\nviews: [{resource: a.b.c, of: cats}]": "cats",
	} {
		t.Run(want, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadDefinition(file); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
				t.Errorf("%v; want an error naming %s and %s", err, file, want)
			}
		})
	}
}

// TestCallSpeaksCNI runs a plugin that prints its input.
func TestCallSpeaksCNI(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "plugin")
	content := `#!/bin/sh
case "$CNI_COMMAND" in
ADD) echo '{"ips":[{"address":"192.0.2.7/24"},{"address":"2001:db8::7/64"}]}' ;;
DEL) grep -q '"prevResult":{"ips":\[\]}}$' ;;
*) echo "{\"code\":4,\"msg\":\"$CNI_ARGS\"}"; exit 1 ;;
esac
`
	if err := os.WriteFile(script, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	p := Plugin{Binary: script, Conf: json.RawMessage("{\"name\":\"n\"}\n")}
	a := Attachment{ContainerID: "c", Interface: "eth0", Namespace: "ns", Pod: "p", UID: "u"}
	o := p.Call(t.Context(), "ADD", a, nil)
	if o.Err != nil || len(o.Addresses) != 2 || o.Addresses[1].String() != "2001:db8::7/64" || o.CPU <= 0 {
		t.Errorf("ADD: %+v", o)
	}
	if o := p.Call(t.Context(), "DEL", a, json.RawMessage(`{"ips":[]}`)); o.Err != nil {
		t.Errorf("DEL: %+v", o)
	}
	var printed *CNIError
	if o := p.Call(t.Context(), "CHECK", a, nil); !errors.As(o.Err, &printed) || printed.Code != 4 ||
		!strings.Contains(printed.Msg, "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;") {
		t.Errorf("CHECK: %v", o.Err)
	}
	if string(p.Conf) != "{\"name\":\"n\"}\n" {
		t.Errorf("a call changed the configuration to %q", p.Conf)
	}
}

func TestProcessIsKilledPausedAndRestarted(t *testing.T) {
	t.Parallel()
	p := &Process{Name: "sleep", Argv: []string{"sleep", "60"}, Log: filepath.Join(t.TempDir(), "log")}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if err := p.Start(); err == nil {
		t.Error("a second start succeeded")
	}
	if err := p.Pause(); err != nil {
		t.Error(err)
	}
	p.Kill() // works on a paused process
	if p.Running() || p.Resume() == nil {
		t.Error("it runs after Kill")
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if usage, err := p.Usage(); err != nil || usage.RSS == 0 || usage.PeakRSS < usage.RSS {
		t.Errorf("usage %+v, %v", usage, err)
	}
	if !p.Stop() {
		t.Error("it did not end after SIGTERM")
	}
}

func TestWaitForReportsEndedProcess(t *testing.T) {
	t.Parallel()
	p := &Process{Name: "broken", Argv: []string{"sh", "-c", "echo no such thing; exit 3"}, Log: filepath.Join(t.TempDir(), "log")}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	never := errors.New("not yet")
	err := WaitFor(ctx, "broken", func(context.Context) error { return never }, p)
	if err == nil || !strings.Contains(err.Error(), "broken has ended") || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("%v; want the end of the process and its output", err)
	}
}

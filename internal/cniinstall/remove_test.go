package cniinstall

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// installed is a node after an installation, with another network plugin. The removal
// keeps the network state of the machine that runs the test.
func installed(t *testing.T) Removal {
	t.Helper()
	r := Removal{ConfDir: t.TempDir(), BinDir: t.TempDir(), Source: t.TempDir(), Multus: true}
	if err := os.Mkdir(filepath.Join(r.ConfDir, "multus.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(r.ConfDir, multusConf), `{"name":"m","plugins":[{"type":"multus"}]}`)
	write(t, filepath.Join(r.ConfDir, multusKubeconfig), "{}")
	write(t, filepath.Join(r.ConfDir, "10-calico.conflist"), `{"name":"k8s-pod-network","plugins":[{"type":"calico"}]}`)
	for _, name := range []string{"spiderpool", "coordinator"} {
		write(t, filepath.Join(r.Source, name), "")
		write(t, filepath.Join(r.BinDir, name), "")
	}
	for _, name := range []string{"multus", "passthru", "spiderpool.json", "calico"} {
		write(t, filepath.Join(r.BinDir, name), "")
	}
	return r
}

func TestRemovalLeavesOtherNetworkPlugin(t *testing.T) {
	r := installed(t)
	log := slog.New(slog.DiscardHandler)
	for range 2 { // a second run finds nothing and succeeds
		if err := r.removeMultus(log); err != nil {
			t.Fatal(err)
		}
		if err := r.removePlugins(log); err != nil {
			t.Fatal(err)
		}
	}
	onlyFiles(t, r.ConfDir, "10-calico.conflist")
	onlyFiles(t, r.BinDir, "calico")
}

func TestRemovalKeepsPluginsForRunningPods(t *testing.T) {
	r := installed(t)
	r.KeepNetwork = true
	pinned := t.TempDir()
	for _, name := range []string{"spiderpool", "spiderpool-flows"} {
		if err := os.Mkdir(filepath.Join(pinned, name), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(pinned, name, "CGroupInet4Connect"), "")
		r.Programs = append(r.Programs, filepath.Join(pinned, name))
	}
	r.Programs = append(r.Programs, filepath.Join(pinned, "missing"))
	if err := r.Run(slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	onlyFiles(t, r.ConfDir, "10-calico.conflist")
	onlyFiles(t, r.BinDir, "calico", "coordinator", "spiderpool", "spiderpool.json")
	onlyFiles(t, pinned) // kube-proxy translates for running pods, too
}

func TestRemovalKeepsConfiguredPlugins(t *testing.T) {
	r := installed(t)
	write(t, filepath.Join(r.ConfDir, "20-macvlan.conf"), `{"name":"n","type":"macvlan","ipam":{"type":"spiderpool"}}`)
	write(t, filepath.Join(r.ConfDir, "30-own.conf"), `{"name":"n","type": "multus"}`)
	log := slog.New(slog.DiscardHandler)
	if err := r.removeMultus(log); err != nil {
		t.Fatal(err)
	}
	if err := r.removePlugins(log); err != nil {
		t.Fatal(err)
	}
	onlyFiles(t, r.BinDir, "calico", "coordinator", "multus", "passthru", "spiderpool", "spiderpool.json")
}

func TestRemovalTouchesOnlyMultusConfiguration(t *testing.T) {
	tests := map[string]struct {
		content string
		stays   bool
	}{
		"ours":          {`{"name":"m","plugins":[{"type":"multus"}]}`, false},
		"damaged":       {`{"name":`, false},
		"another's own": {`{"name":"b","plugins":[{"type":"bridge"}]}`, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := installed(t)
			path := filepath.Join(r.ConfDir, multusConf)
			write(t, path, test.content)
			if err := r.removeMultus(slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(path); (err == nil) != test.stays {
				t.Errorf("stays: %v, want %v", err == nil, test.stays)
			}
		})
	}
}

package cniinstall

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spiderpool.dev/spiderpool/internal/process"
)

func TestInstallReplacesChangedPlugins(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "opt/cni/bin")
	write(t, filepath.Join(source, "spiderpool"), "one")
	write(t, filepath.Join(source, "coordinator"), "two")
	install := func() {
		t.Helper()
		if err := InstallPlugins(slog.New(slog.DiscardHandler), source, target); err != nil {
			t.Fatal(err)
		}
	}
	install()
	foreign := filepath.Join(target, "bridge")
	write(t, foreign, "theirs")
	before := stat(t, filepath.Join(target, "coordinator"))

	write(t, filepath.Join(source, "spiderpool"), "three")
	install()

	for name, want := range map[string]string{"spiderpool": "three", "coordinator": "two", "bridge": "theirs"} {
		if got := read(t, filepath.Join(target, name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	if mode := stat(t, filepath.Join(target, "spiderpool")).Mode().Perm(); mode != 0o755 {
		t.Errorf("mode %o, want 755", mode)
	}
	if after := stat(t, filepath.Join(target, "coordinator")); !os.SameFile(before, after) {
		t.Error("an unchanged plugin was replaced")
	}
	onlyFiles(t, target, "bridge", "coordinator", "spiderpool")
}

func TestInstallWritesPathsForPlugins(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "bin")
	run := func(args ...string) error {
		cmd := Command(&process.Env{Log: slog.New(slog.DiscardHandler)})
		cmd.SetArgs(append([]string{"plugins", "--source", source, "--target", target}, args...))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		return cmd.Execute()
	}
	if err := run(); err != nil {
		t.Fatal(err)
	}
	onlyFiles(t, target)
	if err := run("--socket", "/run/other/agent.sock", "--state-dir", "/srv/state"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(target, "spiderpool.json")
	want := `{"socket":"/run/other/agent.sock","stateDir":"/srv/state","logDir":"/var/log/spidernet"}` + "\n"
	if got := read(t, file); got != want || stat(t, file).Mode().Perm() != 0o644 {
		t.Errorf("got %s with mode %v, want %s", got, stat(t, file).Mode(), want)
	}
	if err := run("--socket", "agent.sock"); err == nil || !strings.Contains(err.Error(), `socket "agent.sock" is not an absolute path`) {
		t.Errorf("got %v", err)
	}
	if got := read(t, file); got != want {
		t.Errorf("a refused path was written: %s", got)
	}
}

func TestInstallKeepsRunningPluginsFile(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	write(t, filepath.Join(source, "spiderpool"), "new")
	path := filepath.Join(target, "spiderpool")
	write(t, path, "old")
	running, err := os.Open(path) // a process that executes the file holds it in the same way
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	if err := InstallPlugins(slog.New(slog.DiscardHandler), source, target); err != nil {
		t.Fatal(err)
	}
	held := make([]byte, 3)
	if _, err := running.ReadAt(held, 0); err != nil || string(held) != "old" {
		t.Errorf("the running file changed under its reader: %q, %v", held, err)
	}
	if got := read(t, path); got != "new" {
		t.Errorf("installed %q", got)
	}
}

func TestErrorNamesDirectoryInsteadOfFile(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	write(t, filepath.Join(source, "spiderpool"), "x")
	if err := os.Mkdir(filepath.Join(target, "spiderpool"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := InstallPlugins(slog.New(slog.DiscardHandler), source, target)
	if err == nil || !strings.Contains(err.Error(), filepath.Join(target, "spiderpool")+" is a directory") {
		t.Errorf("error %v", err)
	}
	onlyFiles(t, target, "spiderpool")
}

func TestFirstNetwork(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		want  string
		err   string
	}{
		"no files":       {files: nil, want: ""},
		"alphabetically": {files: map[string]string{"20-b.conf": `{"name":"b","type":"bridge"}`, "10-a.conflist": `{"name":"a","plugins":[{"type":"ptp"}]}`}, want: "a"},
		"skips Multus": {files: map[string]string{
			"00-multus.conf":     `{"name":"m","type":"multus"}`,
			"00-multus.conflist": `{"name":"m","plugins":[{"type":"multus"}]}`,
			"05-thick.conf":      `{"name":"m","type":"multus-shim"}`,
			"10-calico.conflist": `{"name":"k8s-pod-network","plugins":[{"type":"calico"}]}`,
		}, want: "k8s-pod-network"},
		"other files": {files: map[string]string{"00-readme.txt": "no", "10-x.conf.bak": "{", "99-json.json": `{"name":"j","type":"x"}`}, want: "j"},
		"broken":      {files: map[string]string{"10-a.conf": "{"}, err: "10-a.conf"},
		"without name": {files: map[string]string{"10-a.conf": `{"type":"bridge"}`},
			err: "has no name: give it one, or name the default network with multus.multusCNI.defaultCniCRName"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range test.files {
				write(t, filepath.Join(dir, file), content)
			}
			got, err := FirstNetwork(dir)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestMissingDirectoryHasNoNetwork(t *testing.T) {
	got, err := FirstNetwork(filepath.Join(t.TempDir(), "none"))
	if err != nil || got != "" {
		t.Errorf("got %q, %v", got, err)
	}
}

// multus is the configuration of a test's node and its directory of credentials.
func multus(t *testing.T) Multus {
	credentials := t.TempDir()
	write(t, filepath.Join(credentials, "ca.crt"), "CA")
	write(t, filepath.Join(credentials, "token"), "token-1")
	return Multus{
		ConfDir: t.TempDir(), ConfDirOnHost: "/etc/cni/net.d", BinDirOnHost: "/opt/cni/bin",
		ClusterNetwork: "ipvlan-ens5", Namespace: "kube-system",
		APIServer: "https://10.96.0.1:443", Credentials: credentials,
		Interval: 10 * time.Second,
	}
}

// run starts m in a bubble of synctest and returns what ends it.
func run(t *testing.T, m Multus) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx, slog.New(slog.DiscardHandler)) }()
	synctest.Wait()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestMultusFilesAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := multus(t)
		m.LogLevel, m.LogFile = "debug", "/var/log/multus.log"
		stop := run(t, m)
		conf := filepath.Join(m.ConfDir, multusConf)
		const want = `{
  "cniVersion": "1.0.0",
  "name": "multus-cni-network",
  "plugins": [
    {
      "binDir": "/opt/cni/bin",
      "capabilities": {
        "bandwidth": true,
        "portMappings": true
      },
      "clusterNetwork": "ipvlan-ens5",
      "confDir": "/etc/cni/net.d",
      "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
      "logFile": "/var/log/multus.log",
      "logLevel": "debug",
      "multusNamespace": "kube-system",
      "type": "multus"
    }
  ]
}`
		if got := read(t, conf); got != want {
			t.Errorf("configuration\n%s\nwant\n%s", got, want)
		}
		kubeconfig := filepath.Join(m.ConfDir, multusKubeconfig)
		if mode := stat(t, kubeconfig).Mode().Perm(); mode != 0o600 {
			t.Errorf("the kubeconfig holds a token and has mode %o, want 600", mode)
		}
		if got := tokenIn(t, kubeconfig); got != "token-1" {
			t.Errorf("token %q", got)
		}
		stop()
		if _, err := os.Stat(conf); err != nil {
			t.Errorf("without RemoveOnExit: %v", err)
		}
	})
}

func TestRenewedTokenReachesMultus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := multus(t)
		stop := run(t, m)
		write(t, filepath.Join(m.Credentials, "token"), "token-2")
		time.Sleep(m.Interval)
		synctest.Wait()
		if got := tokenIn(t, filepath.Join(m.ConfDir, multusKubeconfig)); got != "token-2" {
			t.Errorf("token %q, want the renewed one", got)
		}
		stop()
	})
}

func TestRemovedConfigurationIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := multus(t)
		stop := run(t, m)
		conf := filepath.Join(m.ConfDir, multusConf)
		if err := os.Remove(conf); err != nil {
			t.Fatal(err)
		}
		time.Sleep(m.Interval)
		synctest.Wait()
		if _, err := os.Stat(conf); err != nil {
			t.Error(err)
		}
		stop()
	})
}

func TestUnreadableTokenKeepsOldFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := multus(t)
		stop := run(t, m)
		if err := os.Remove(filepath.Join(m.Credentials, "token")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(m.Interval)
		synctest.Wait()
		if got := tokenIn(t, filepath.Join(m.ConfDir, multusKubeconfig)); got != "token-1" {
			t.Errorf("token %q", got)
		}
		stop()
	})
}

func TestRemoveOnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := multus(t)
		m.RemoveOnExit = true
		run(t, m)()
		for _, name := range []string{multusConf, multusKubeconfig} {
			if _, err := os.Stat(filepath.Join(m.ConfDir, name)); !os.IsNotExist(err) {
				t.Errorf("%s is still there (%v)", name, err)
			}
		}
	})
}

func TestOtherInstallersConfigurationIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := multus(t)
		write(t, filepath.Join(m.ConfDir, legacyMultusConf), `{"name":"old","type":"multus"}`)
		run(t, m)()
		if _, err := os.Stat(filepath.Join(m.ConfDir, legacyMultusConf)); !os.IsNotExist(err) {
			t.Errorf("%s comes before ours and is still there (%v)", legacyMultusConf, err)
		}
	})
}

func TestDefaultNetworkComesFromNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := multus(t)
		m.ClusterNetwork = ""
		run(t, m)()
		if got := clusterNetwork(t, m); got != "default" {
			t.Errorf("node without a configuration: network %q, want default", got)
		}

		m.ConfDir = t.TempDir()
		write(t, filepath.Join(m.ConfDir, "10-calico.conflist"), `{"name":"k8s-pod-network","plugins":[{"type":"calico"}]}`)
		run(t, m)()
		if got := clusterNetwork(t, m); got != "k8s-pod-network" {
			t.Errorf("network %q, want that of the first configuration", got)
		}
	})
}

func TestBadCommandLinesAreRejected(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string
	}{
		"none":      {nil, "write plugins, multus, remove or wait"},
		"command":   {[]string{"bridge"}, `unknown command "bridge"`},
		"argument":  {[]string{"plugins", "x"}, `unknown command "x" for "cni-install plugins"`},
		"namespace": {[]string{"multus"}, "--namespace is empty"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			program := Command(process.NewEnv(io.Discard, os.Getenv))
			program.SetArgs(test.args)
			program.SetOut(io.Discard)
			program.SetErr(io.Discard)
			err := program.ExecuteContext(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestAPIServerFromEnvironment(t *testing.T) {
	env := map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
	got, err := APIServerFromEnvironment(func(key string) string { return env[key] })
	if err != nil || got != "https://[fd00::1]:443" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := APIServerFromEnvironment(func(string) string { return "" }); err == nil {
		t.Error("outside a pod: no error")
	}
}

func clusterNetwork(t *testing.T, m Multus) string {
	t.Helper()
	var conf struct {
		Plugins []struct{ ClusterNetwork string }
	}
	if err := json.Unmarshal([]byte(read(t, filepath.Join(m.ConfDir, multusConf))), &conf); err != nil {
		t.Fatal(err)
	}
	return conf.Plugins[0].ClusterNetwork
}

func tokenIn(t *testing.T, kubeconfig string) string {
	t.Helper()
	var parsed struct {
		Users []struct {
			User struct{ Token string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, kubeconfig)), &parsed); err != nil {
		t.Fatal(err)
	}
	return parsed.Users[0].User.Token
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func stat(t *testing.T, path string) fs.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// onlyFiles fails when dir holds anything else, such as an unfinished file.
func onlyFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("directory holds %q, want %q", got, want)
	}
}

package cniinstall

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Files of Multus in the node's directory of CNI configurations. The runtime uses
// the alphabetically first configuration, so ours begins with 00.
const (
	multusConf       = "00-multus.conflist"
	multusKubeconfig = "multus.d/multus.kubeconfig"
	// legacyMultusConf is another installer's configuration of Multus. It sorts
	// before ours.
	legacyMultusConf = "00-multus.conf"
)

// FallbackNetwork is the default network of a node without any CNI configuration.
const FallbackNetwork = "default"

// multusCNIVersion is the CNI version of the configuration of Multus. From 1.1.0 on,
// the runtime would call STATUS every few seconds, and Multus sends a request to the
// API server for each STATUS.
const multusCNIVersion = "1.0.0"

// Multus is the configuration of Multus on one node.
type Multus struct {
	// ConfDir is the node's directory of CNI configurations as mounted here, and
	// ConfDirOnHost its path on the node, e.g. /etc/cni/net.d.
	ConfDir, ConfDirOnHost string
	// BinDirOnHost is the path of the directory of CNI plugins on the node.
	BinDirOnHost string
	// ClusterNetwork is the default NetworkAttachmentDefinition of pods, in Namespace.
	// If it is empty, Run uses the network of the node's first CNI configuration, or
	// FallbackNetwork on a node without one.
	ClusterNetwork, Namespace string
	// LogLevel (debug, error, verbose, panic) and LogFile configure Multus; both are optional.
	LogLevel, LogFile string
	// APIServer is the URL of the API server for Multus, e.g. https://10.96.0.1:443.
	APIServer string
	// Credentials is the directory with ca.crt and token of the service account.
	Credentials string
	// RemoveOnExit removes both files when Run ends.
	RemoveOnExit bool
	// Interval is the time between two checks of the files.
	Interval time.Duration
}

// APIServerFromEnvironment returns the URL of the API server from the variables that
// the kubelet sets in every pod.
func APIServerFromEnvironment(getenv func(string) string) (string, error) {
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return "", errors.New("KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is empty: run this in a pod")
	}
	return "https://" + net.JoinHostPort(host, port), nil
}

// Run keeps both files up to date until ctx ends: it copies the service account's
// token, which the kubelet renews, and undoes the changes of others.
func (m Multus) Run(ctx context.Context, log *slog.Logger) error {
	network, err := m.network()
	if err != nil {
		return err
	}
	log = log.With("network", m.Namespace+"/"+network)
	if err := m.write(log, network); err != nil {
		return err
	}
	log.Info("configured Multus", "file", filepath.Join(m.ConfDirOnHost, multusConf))

	ticker := time.NewTicker(m.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return m.remove()
		case <-ticker.C:
			// The present files keep working, and the next check may succeed.
			if err := m.write(log, network); err != nil {
				log.Error("cannot update the configuration of Multus", "err", err)
			}
		}
	}
}

func (m Multus) remove() error {
	if !m.RemoveOnExit {
		return nil
	}
	return errors.Join(
		ignoreMissing(os.Remove(filepath.Join(m.ConfDir, multusConf))),
		ignoreMissing(os.Remove(filepath.Join(m.ConfDir, multusKubeconfig))))
}

// write updates the kubeconfig, then the configuration that refers to it.
func (m Multus) write(log *slog.Logger, network string) error {
	kubeconfig, err := m.kubeconfig()
	if err != nil {
		return err
	}
	path := filepath.Join(m.ConfDir, multusKubeconfig)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("create the directory of Multus: %w", err)
	}
	written, err := writeFile(path, kubeconfig, 0o600)
	if err != nil {
		return fmt.Errorf("write the kubeconfig of Multus: %w", err)
	}
	if written {
		log.Info("wrote the kubeconfig of Multus", "path", path)
	}

	conf, err := m.conf(network)
	if err != nil {
		return err
	}
	path = filepath.Join(m.ConfDir, multusConf)
	written, err = writeFile(path, conf, 0o600)
	if err != nil {
		return fmt.Errorf("write the configuration of Multus: %w", err)
	}
	if written {
		log.Info("wrote the configuration of Multus", "path", path)
	}
	return m.removeLegacy(log)
}

// removeLegacy removes another installer's configuration of Multus.
func (m Multus) removeLegacy(log *slog.Logger) error {
	path := filepath.Join(m.ConfDir, legacyMultusConf)
	conf, err := readCNIConf(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !conf.isMultus() {
		return err
	}
	log.Info("removed another configuration of Multus", "path", path)
	return os.Remove(path)
}

// conf returns the CNI configuration. docs/configuration.md of Multus describes its
// fields.
func (m Multus) conf(network string) ([]byte, error) {
	plugin := map[string]any{
		"type":            "multus",
		"kubeconfig":      filepath.Join(m.ConfDirOnHost, multusKubeconfig),
		"confDir":         m.ConfDirOnHost,
		"binDir":          m.BinDirOnHost,
		"clusterNetwork":  network,
		"multusNamespace": m.Namespace,
		"capabilities":    map[string]bool{"portMappings": true, "bandwidth": true},
	}
	if m.LogLevel != "" {
		plugin["logLevel"] = m.LogLevel
	}
	if m.LogFile != "" {
		plugin["logFile"] = m.LogFile
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": multusCNIVersion,
		"name":       "multus-cni-network",
		"plugins":    []any{plugin},
	}, "", "  ")
}

// kubeconfig returns a kubeconfig with the token inside: Multus runs on the node and
// cannot read the pod's volumes. The text is JSON, because JSON is YAML.
func (m Multus) kubeconfig() ([]byte, error) {
	ca, err := os.ReadFile(filepath.Join(m.Credentials, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read the service account: %w", err)
	}
	token, err := os.ReadFile(filepath.Join(m.Credentials, "token"))
	if err != nil {
		return nil, fmt.Errorf("read the service account: %w", err)
	}
	const name = "multus"
	return json.MarshalIndent(map[string]any{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []any{map[string]any{"name": name, "cluster": map[string]any{
			"server":                     m.APIServer,
			"certificate-authority-data": base64.StdEncoding.EncodeToString(ca),
		}}},
		"users":           []any{map[string]any{"name": name, "user": map[string]any{"token": string(token)}}},
		"contexts":        []any{map[string]any{"name": name, "context": map[string]any{"cluster": name, "user": name}}},
		"current-context": name,
	}, "", "  ")
}

// network returns the default network of the node. spiderpool-init names the default
// NetworkAttachmentDefinition by the same rule.
func (m Multus) network() (string, error) {
	if m.ClusterNetwork != "" {
		return m.ClusterNetwork, nil
	}
	first, err := FirstNetwork(m.ConfDir)
	if err != nil || first != "" {
		return first, err
	}
	return FallbackNetwork, nil
}

// cniConf holds the fields we need of a CNI configuration, a single plugin or a list.
type cniConf struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Plugins []struct {
		Type string `json:"type"`
	} `json:"plugins"`
}

func (c cniConf) isMultus() bool {
	// multus-shim is the plugin of the thick Multus.
	names := []string{"multus", "multus-shim"}
	if slices.Contains(names, c.Type) {
		return true
	}
	return len(c.Plugins) > 0 && slices.Contains(names, c.Plugins[0].Type)
}

func readCNIConf(path string) (cniConf, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return cniConf{}, err
	}
	var conf cniConf
	if err := json.Unmarshal(raw, &conf); err != nil {
		return cniConf{}, fmt.Errorf("CNI configuration %s: %w", path, err)
	}
	return conf, nil
}

// confExtensions are the extensions of CNI configurations, as in libcni.
var confExtensions = []string{".conf", ".conflist", ".json"}

// FirstNetwork returns the network name of the alphabetically first CNI configuration
// in dir (see confExtensions), except those of Multus. It returns
// "" if there is none.
func FirstNetwork(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the CNI configurations: %w", err)
	}
	for _, entry := range entries { // sorted by name
		if entry.IsDir() || !slices.Contains(confExtensions, filepath.Ext(entry.Name())) {
			continue
		}
		conf, err := readCNIConf(filepath.Join(dir, entry.Name()))
		if err != nil {
			return "", err
		}
		if conf.isMultus() {
			continue
		}
		if conf.Name == "" {
			return "", fmt.Errorf("CNI configuration %s has no name: give it one, or name the default network with multus.multusCNI.defaultCniCRName", filepath.Join(dir, entry.Name()))
		}
		return conf.Name, nil
	}
	return "", nil
}

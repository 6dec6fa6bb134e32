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

// Files of Multus in the node's directory of CNI configurations. The runtime
// takes the alphabetically first configuration, so ours starts with 00.
const (
	multusConf       = "00-multus.conflist"
	multusKubeconfig = "multus.d/multus.kubeconfig"
	// legacyMultusConf is where other installers put their configuration of
	// Multus; it would come before ours.
	legacyMultusConf = "00-multus.conf"
)

// FallbackNetwork is the default network of a node without any CNI configuration.
const FallbackNetwork = "default"

// multusCNIVersion is the version of the configuration of Multus, the newest
// with which the runtime does not call STATUS every few seconds: Multus answers
// STATUS with a request to the API server.
const multusCNIVersion = "1.0.0"

// Multus is the configuration of Multus on one node.
type Multus struct {
	// ConfDir is the node's directory of CNI configurations as this process
	// sees it, ConfDirOnHost as the runtime does.
	ConfDir, ConfDirOnHost string
	// BinDirOnHost is the node's directory of CNI plugins as the runtime sees it.
	BinDirOnHost string
	// ClusterNetwork is the NetworkAttachmentDefinition in Namespace of pods
	// that name no other. Empty: the network of the node's first CNI
	// configuration when Run begins, or FallbackNetwork on a node without one.
	ClusterNetwork, Namespace string
	// LogLevel (debug, error, verbose, panic) and LogFile are passed on; either may be empty.
	LogLevel, LogFile string
	// APIServer is the URL that Multus reaches the API server by.
	APIServer string
	// Credentials is the directory of the service account: ca.crt and token.
	Credentials string
	// RemoveOnExit removes both files when the process ends.
	RemoveOnExit bool
	// Interval is the time between two looks at the files.
	Interval time.Duration
}

// APIServerFromEnvironment is the URL of the API server in the environment of
// a pod, or an error that names the missing variable.
func APIServerFromEnvironment(getenv func(string) string) (string, error) {
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return "", errors.New("KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is empty: run this in a pod")
	}
	return "https://" + net.JoinHostPort(host, port), nil
}

// Run keeps both files as they should be until ctx ends: it follows the service
// account's token, which the kubelet renews, and repairs what others change.
func (m Multus) Run(ctx context.Context, log *slog.Logger) error {
	network, err := m.network()
	if err != nil {
		return err
	}
	log = log.With("network", m.Namespace+"/"+network)
	if err := m.write(log, network); err != nil {
		return err
	}
	log.Info("Multus is configured", "file", filepath.Join(m.ConfDirOnHost, multusConf))

	ticker := time.NewTicker(m.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return m.remove()
		case <-ticker.C:
			// The files of before keep working; the next look may succeed.
			if err := m.write(log, network); err != nil {
				log.Error("could not refresh the configuration of Multus", "err", err)
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

// write brings the kubeconfig, then the configuration that refers to it, up to date.
func (m Multus) write(log *slog.Logger, network string) error {
	kubeconfig, err := m.kubeconfig()
	if err != nil {
		return err
	}
	path := filepath.Join(m.ConfDir, multusKubeconfig)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("directory of Multus: %w", err)
	}
	written, err := writeFile(path, kubeconfig, 0o600)
	if err != nil {
		return fmt.Errorf("kubeconfig of Multus: %w", err)
	}
	if written {
		log.Info("kubeconfig of Multus is written", "path", path)
	}

	conf, err := m.conf(network)
	if err != nil {
		return err
	}
	path = filepath.Join(m.ConfDir, multusConf)
	written, err = writeFile(path, conf, 0o600)
	if err != nil {
		return fmt.Errorf("configuration of Multus: %w", err)
	}
	if written {
		log.Info("configuration of Multus is written", "path", path)
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
	log.Info("another configuration of Multus is removed", "path", path)
	return os.Remove(path)
}

// conf is the CNI configuration; its fields are described in Multus'
// docs/configuration.md.
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

// kubeconfig carries the token itself, because Multus runs on the node, where
// the pod's volumes are not. JSON is YAML.
func (m Multus) kubeconfig() ([]byte, error) {
	ca, err := os.ReadFile(filepath.Join(m.Credentials, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("service account: %w", err)
	}
	token, err := os.ReadFile(filepath.Join(m.Credentials, "token"))
	if err != nil {
		return nil, fmt.Errorf("service account: %w", err)
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

// network is the default network of the node, by the rule by which
// spiderpool-init names the default NetworkAttachmentDefinition.
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

// cniConf is what is read of a CNI configuration, single or list.
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

// FirstNetwork is the name of the network that the alphabetically first CNI
// configuration (.conf, .conflist or .json, as libcni takes them) in dir
// configures, those of Multus aside; empty when there is none.
func FirstNetwork(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("CNI configurations: %w", err)
	}
	for _, entry := range entries { // sorted by name
		if entry.IsDir() || !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(entry.Name())) {
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

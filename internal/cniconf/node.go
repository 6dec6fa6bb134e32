package cniconf

import (
	"encoding/json"
	"fmt"
	"path/filepath"
)

// NodeFile is the name of the file with a Node. The installer writes it into the
// directory of the plugins, e.g. /opt/cni/bin/spiderpool.json.
const NodeFile = "spiderpool.json"

// NodeFileVariable is the environment variable with the path of another NodeFile, for
// plugins that share a directory with those of another installation.
const NodeFileVariable = "SPIDERPOOL_NODE_FILE"

// Node holds the paths of the installation on a node. They are the same for all
// networks and come from the installer only: plugins run as root, so a network
// attachment must not choose the files that they write, nor the agent that they obey.
type Node struct {
	Socket   string `json:"socket"`   // the agent's unix socket
	StateDir string `json:"stateDir"` // the agent's directory with the releases on disk
	LogDir   string `json:"logDir"`   // the directory of the plugins' log files
}

// DefaultNode returns the paths of an installation with default values.
func DefaultNode() Node {
	return Node{Socket: "/var/run/spidernet/spiderpool.sock", StateDir: "/var/lib/spiderpool", LogDir: "/var/log/spidernet"}
}

// ParseNode reads a NodeFile. A missing key has its default. The error names the key.
func ParseNode(content []byte) (Node, error) {
	n := DefaultNode()
	if err := json.Unmarshal(content, &n); err != nil {
		return Node{}, err
	}
	for key, path := range map[string]string{"socket": n.Socket, "stateDir": n.StateDir, "logDir": n.LogDir} {
		if !filepath.IsAbs(path) {
			return Node{}, fmt.Errorf("%s %q is not an absolute path", key, path)
		}
	}
	return n, nil
}

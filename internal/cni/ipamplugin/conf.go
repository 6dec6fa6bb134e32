package ipamplugin

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"spiderpool.dev/spiderpool/internal/linux/probe"
	"spiderpool.dev/spiderpool/internal/wire"
)

// defaultSocket is where an agent listens that is installed with default values.
const defaultSocket = "/var/run/spidernet/spiderpool.sock"

// conf is the network configuration of the main plugin, as far as it concerns
// its IPAM plugin. Keys that are not ours belong to the main plugin.
type conf struct {
	types.PluginConf
	Master          string   `json:"master"`
	Mode            string   `json:"mode"`            // ipvlan: l2 where it is left out
	LinkInContainer bool     `json:"linkInContainer"` // Master is in the pod's network namespace
	IPAM            ipamConf `json:"ipam"`

	probe probe.Options // what IPAM.Detect says
}

// ipamConf is the object "ipam" of a network configuration.
type ipamConf struct {
	Type              string     `json:"type"`
	Socket            string     `json:"ipam_unix_socket_path"`
	DefaultIPv4Pools  []string   `json:"default_ipv4_ippool"`
	DefaultIPv6Pools  []string   `json:"default_ipv6_ippool"`
	CleanGateway      bool       `json:"clean_gateway"`
	MatchMasterSubnet bool       `json:"match_master_subnet"`
	Detect            detectConf `json:"detectOptions"`
	LogLevel          string     `json:"log_level"`
	LogFile           string     `json:"log_file_path"`
	LogFileMaxSize    integer    `json:"log_file_max_size"` // MiB
	LogFileMaxAge     integer    `json:"log_file_max_age"`  // days
	LogFileMaxCount   integer    `json:"log_file_max_count"`
}

// detectConf says how persistently the network is asked for an address, where the
// installation wants that. What is left out comes from probe.Default.
type detectConf struct {
	Retries  integer `json:"retries"`
	Interval string  `json:"interval"`
	Timeout  string  `json:"timeout"`
}

func (d detectConf) options() (probe.Options, error) {
	o := probe.Default
	if d.Retries > 0 {
		o.Attempts = int(d.Retries)
	}
	for _, f := range []struct {
		name, text string
		to         *time.Duration
	}{{"interval", d.Interval, &o.Interval}, {"timeout", d.Timeout, &o.Timeout}} {
		if f.text == "" {
			continue
		}
		v, err := time.ParseDuration(f.text)
		if err != nil || v < 0 {
			return o, types.NewError(wire.CodeInvalidConfig,
				fmt.Sprintf("ipam.detectOptions.%s %q is not a duration", f.name, f.text), "write 100ms or 1s, for example")
		}
		*f.to = v
	}
	return o, nil
}

// integer is a JSON number or a string that holds one; both are in use.
type integer int

func (n *integer) UnmarshalJSON(text []byte) error {
	digits := strings.TrimSpace(strings.Trim(string(text), `"`))
	value, err := strconv.Atoi(digits)
	if err != nil || value < 0 {
		return fmt.Errorf("%s is not a whole number of 0 or more", text)
	}
	*n = integer(value)
	return nil
}

// parseConf returns the configuration with its defaults filled in. An error has
// the CNI code of a configuration that cannot be decoded or is wrong.
func parseConf(stdin []byte) (*conf, error) {
	c := &conf{IPAM: ipamConf{
		Socket:          defaultSocket,
		LogLevel:        "INFO",
		LogFile:         "/var/log/spidernet/spiderpool.log",
		LogFileMaxSize:  100,
		LogFileMaxAge:   30,
		LogFileMaxCount: 7,
	}}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(wire.CodeDecodingFailure, "the network configuration is not what spiderpool understands", err.Error())
	}
	if c.IPAM.Socket == "" {
		c.IPAM.Socket = defaultSocket
	}
	if !filepath.IsAbs(c.IPAM.Socket) {
		return nil, types.NewError(wire.CodeInvalidConfig,
			fmt.Sprintf("ipam.ipam_unix_socket_path %q is not an absolute path", c.IPAM.Socket), "the default is "+defaultSocket)
	}
	if _, err := parseLevel(c.IPAM.LogLevel); err != nil {
		return nil, types.NewError(wire.CodeInvalidConfig, err.Error(), "")
	}
	var err error
	if c.probe, err = c.IPAM.Detect.options(); err != nil {
		return nil, err
	}
	return c, nil
}

// podArgs finds the pod in CNI_ARGS ("KEY=value;KEY=value"). Other keys are
// for other plugins.
func podArgs(args string) (namespace, name, uid string, err error) {
	for pair := range strings.SplitSeq(args, ";") {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "K8S_POD_NAMESPACE":
			namespace = value
		case "K8S_POD_NAME":
			name = value
		case "K8S_POD_UID":
			uid = value
		}
	}
	if namespace == "" || name == "" {
		return "", "", "", types.NewError(wire.CodeInvalidEnvironment,
			"CNI_ARGS names no pod: spiderpool needs K8S_POD_NAMESPACE and K8S_POD_NAME",
			fmt.Sprintf("CNI_ARGS is %q", args))
	}
	return namespace, name, uid, nil
}

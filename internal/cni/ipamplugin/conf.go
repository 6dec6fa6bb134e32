package ipamplugin

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/linux/probe"
	"spiderpool.dev/spiderpool/internal/wire"
)

// conf is the network configuration of the main plugin, with defaults. Its IPAM
// is not nil.
type conf struct {
	cniconf.Main
	log   plugin.Log
	probe probe.Options // from IPAM.Detect
}

// levels are the log levels that configurations in the wild have.
var levels = []string{"", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "DPANIC", "PANIC", "FATAL"}

// parseConf reads the configuration. Its error has the CNI code for a malformed or
// an invalid configuration.
func parseConf(call *plugin.Call) (*conf, error) {
	c := &conf{}
	if err := plugin.Decode(call.StdinData, &c.Main); err != nil {
		return nil, err
	}
	if c.IPAM == nil {
		c.IPAM = &cniconf.IPAM{}
	}
	call.IgnoreSocket("ipam.ipam_unix_socket_path", c.IPAM.Socket)
	if !slices.Contains(levels, strings.ToUpper(c.IPAM.LogLevel)) {
		return nil, types.NewError(wire.CodeInvalidConfig, fmt.Sprintf("ipam.log_level %q: use DEBUG, INFO, WARN or ERROR", c.IPAM.LogLevel), "")
	}
	var err error
	c.log, err = plugin.NewLog(call, plugin.LogFile{
		Name: cniconf.TypeIPAM, Key: "ipam.log_file_path", Path: c.IPAM.LogFile, Level: c.IPAM.LogLevel,
		MaxSize: c.IPAM.LogFileMaxSize, MaxAge: c.IPAM.LogFileMaxAge, MaxCount: c.IPAM.LogFileMaxCount,
	})
	if err != nil {
		return nil, types.NewError(wire.CodeInvalidConfig, err.Error(), "")
	}
	c.probe, err = probeOptions(c.IPAM.Detect)
	return c, err
}

// probeOptions returns how often and how long to ask the network for an address.
func probeOptions(d cniconf.Detect) (probe.Options, error) {
	o := probe.Default
	retries, err := cniconf.Whole(d.Retries, 0)
	if err != nil {
		return o, types.NewError(wire.CodeInvalidConfig, "ipam.detectOptions.retries "+err.Error(), "")
	}
	if retries > 0 {
		o.Attempts = retries
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
				fmt.Sprintf("ipam.detectOptions.%s %q is not a duration", f.name, f.text), "e.g. 100ms or 1s")
		}
		*f.to = v
	}
	return o, nil
}

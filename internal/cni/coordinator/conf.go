package coordinator

import (
	"cmp"

	"github.com/containernetworking/cni/pkg/types"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/rpc"
	"spiderpool.dev/spiderpool/internal/wire"
)

// conf is the plugin's network configuration, with the defaults of the keys that
// only the plugin has.
type conf struct {
	cniconf.Coordinator
	log plugin.Log
}

// parseConf reads the configuration. Its error has the CNI code for a malformed or
// an invalid configuration.
func parseConf(stdin []byte) (*conf, error) {
	c := &conf{Coordinator: cniconf.Coordinator{
		Socket: cniconf.DefaultSocket, PodDefaultCNINIC: "eth0", MultusNICPrefix: "net",
		Log: cniconf.LogOptions{File: "/var/log/spidernet/coordinator.log"},
	}}
	if err := plugin.Decode(stdin, &c.Coordinator); err != nil {
		return nil, err
	}
	if c.HostRuleTable != nil && *c.HostRuleTable == 0 {
		c.HostRuleTable = nil // earlier releases took 0 for the default
	}
	var err error
	if c.log, err = plugin.NewLog(c.Log.File, c.Log.Level, c.Log.MaxSize, c.Log.MaxAge, c.Log.MaxCount); err != nil {
		return nil, types.NewError(wire.CodeInvalidConfig, err.Error(), "")
	}
	return c, nil
}

// agent is the node's agent.
func (c *conf) agent() rpc.Client { return rpc.Client{Socket: c.Socket} }

// settings overlays the configuration on the cluster's. The pod's annotation for the
// default route wins over both. A wrong field is a *netplan.FieldError.
func (c *conf) settings(reply wire.CoordinatorReply) (netplan.Settings, error) {
	s, errs := reply.Config.With(c.Coordinator)
	if len(errs) > 0 {
		return netplan.Settings{}, &errs[0]
	}
	s.OwnPolicyRoutes = c.PolicyRoutes != nil
	s.DefaultNIC = cmp.Or(reply.PodDefaultRouteNIC, s.DefaultNIC)
	return s, nil
}

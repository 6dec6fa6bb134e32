package coordinator

import (
	"cmp"
	"encoding/json"

	"github.com/containernetworking/cni/pkg/types"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// conf is the plugin's network configuration, with the defaults of the keys that
// only the plugin has.
type conf struct {
	cniconf.Coordinator
	log plugin.Log
	// rates are those of the container runtime.
	rates netplan.Rates
}

// parseConf reads the configuration. Its error has the CNI code for a malformed or
// an invalid configuration.
func parseConf(call *plugin.Call) (*conf, error) {
	c := &conf{Coordinator: cniconf.Coordinator{PodDefaultCNINIC: defaultFirstNIC, MultusNICPrefix: "net"}}
	if err := plugin.Decode(call.StdinData, &c.Coordinator); err != nil {
		return nil, err
	}
	call.IgnoreSocket("ipam_unix_socket_path", c.Socket)
	if c.HostRuleTable != nil && *c.HostRuleTable == 0 {
		c.HostRuleTable = nil // earlier releases took 0 for the default
	}
	var err error
	if c.rates, err = ratesOf(c.Runtime.Bandwidth); err != nil {
		return nil, types.NewError(wire.CodeInvalidConfig, err.Error(), "")
	}
	c.log, err = plugin.NewLog(call, plugin.LogFile{
		Name: cniconf.TypeCoordinator, Key: "logOptions.logFile", Path: c.Log.File, Level: c.Log.Level,
		MaxSize: c.Log.MaxSize, MaxAge: c.Log.MaxAge, MaxCount: c.Log.MaxCount,
	})
	if err != nil {
		return nil, types.NewError(wire.CodeInvalidConfig, err.Error(), "")
	}
	return c, nil
}

// The limits of a rate in bits per second are those of Kubernetes' annotations.
const minRate, maxRate = 1_000, 1_000_000_000_000_000

func ratesOf(b cniconf.Bandwidth) (netplan.Rates, error) {
	for key, rate := range map[string]int64{"ingressRate": b.IngressRate, "egressRate": b.EgressRate} {
		if rate != 0 && (rate < minRate || rate > maxRate) {
			return netplan.Rates{}, &netplan.FieldError{Field: "runtimeConfig.bandwidth." + key, Value: rate,
				Reason: "use bits per second from 1000 to 10^15, e.g. 10000000, or 0 for no limit"}
		}
	}
	return netplan.Rates{Ingress: uint64(b.IngressRate), Egress: uint64(b.EgressRate)}, nil
}

// defaultFirstNIC is the pod's first interface if the configuration names none.
const defaultFirstNIC = "eth0"

// firstNIC returns podDefaultCniNic of a configuration whose other keys may be wrong.
func firstNIC(config []byte) string {
	var c struct {
		PodDefaultCNINIC string `json:"podDefaultCniNic"`
	}
	_ = json.Unmarshal(config, &c)
	return cmp.Or(c.PodDefaultCNINIC, defaultFirstNIC)
}

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

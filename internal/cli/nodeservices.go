package cli

import (
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// judgeServices compares the translator with service.mode. unable is the reason why the
// node cannot run the programs.
func judgeServices(mode config.ServiceMode, attached bool, unable error) netplan.Finding {
	f := netplan.Finding{What: "services (service.mode " + string(mode) + ")", Is: "kube-proxy", Want: "kube-proxy", OK: true}
	if mode == config.ServiceKubeProxy {
		return f
	}
	f.Want = "eBPF"
	if mode == config.ServiceAuto {
		f.Want = "eBPF or kube-proxy"
	}
	if attached && unable == nil {
		f.Is = "eBPF"
		return f
	}
	if attached {
		f.Is, f.OK = "eBPF: "+unable.Error(), false
		f.Why = "the agent leaves the services to kube-proxy within 30 s"
		return f
	}
	f.OK = mode == config.ServiceAuto && unable != nil
	f.Why = "the agent has not attached the programs yet; see its log"
	if unable != nil {
		f.Is, f.Why = "kube-proxy: "+unable.Error(), "kube-proxy translates service addresses"
	}
	return f
}

package cli

import (
	"errors"
	"io/fs"

	"spiderpool.dev/spiderpool/internal/agent/datapath"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/linux/bpf"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// examineServices returns the translator of service addresses, and nothing outside of an
// agent's container, where the configuration is missing.
func examineServices() ([]netplan.Finding, error) {
	file, err := config.Load(config.DefaultPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	mode := file.Service.Mode
	attached, unable := false, error(nil)
	if mode != config.ServiceKubeProxy {
		attached, unable = bpf.Attached(), datapath.Check(file.Service)
	}
	return []netplan.Finding{judgeServices(mode, attached, unable)}, nil
}

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

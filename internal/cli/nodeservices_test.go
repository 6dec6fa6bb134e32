package cli

import (
	"errors"
	"testing"

	"spiderpool.dev/spiderpool/internal/config"
)

func TestNodeSaysWhoTranslatesServices(t *testing.T) {
	unable := errors.New("this kernel lacks maps")
	for _, c := range []struct {
		name     string
		mode     config.ServiceMode
		attached bool
		unable   error
		is       string
		ok       bool
	}{
		{"kube-proxy by choice", config.ServiceKubeProxy, false, nil, "kube-proxy", true},
		{"auto with eBPF", config.ServiceAuto, true, nil, "eBPF", true},
		{"auto on an unable node", config.ServiceAuto, false, unable, "kube-proxy: this kernel lacks maps", true},
		{"auto before it leaves", config.ServiceAuto, true, unable, "eBPF: this kernel lacks maps", false},
		{"auto too early", config.ServiceAuto, false, nil, "kube-proxy", false},
		{"eBPF", config.ServiceEBPF, true, nil, "eBPF", true},
		{"eBPF on an unable node", config.ServiceEBPF, false, unable, "kube-proxy: this kernel lacks maps", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := judgeServices(c.mode, c.attached, c.unable)
			if got.Is != c.is || got.OK != c.ok || (!got.OK && got.Why == "") {
				t.Errorf("got %+v, want %s, %v", got, c.is, c.ok)
			}
		})
	}
}

package flow

import (
	"testing"

	"spiderpool.dev/spiderpool/internal/policy"
)

func TestPrefixesSayWhatDropped(t *testing.T) {
	for text, want := range map[string]Logged{
		"spiderpool policy ingress eth0":             {ByPolicy, policy.Ingress, "eth0", ""},
		"spiderpool policy egress net1 veth1a2b3c4d": {ByPolicy, policy.Egress, "net1", "veth1a2b3c4d"},
		"spiderpool anti-spoofing egress a-b":        {BySpoofing, policy.Egress, "a-b", ""},
	} {
		if got, ok := ParseLogged(text); !ok || got != want {
			t.Errorf("%q: got %+v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "spiderpool ", "spiderpool policy ingress", "spiderpool policy sideways eth0", "spiderpool  ingress eth0", "spiderpool policy ingress eth0 v ", "policy ingress eth0"} {
		if got, ok := ParseLogged(text); ok {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

package netplan

import (
	"strings"
	"testing"
)

func TestParseErrorsNameTheWord(t *testing.T) {
	for text, want := range map[string]string{
		"link a frobnicate":                     `unknown attribute "frobnicate" of a link`,
		"route 10.0.0.0/8 dev a frobnicate":     `unknown attribute "frobnicate" of a route`,
		"link a mtu":                            "ends too early",
		"up a b":                                `unexpected "b"`,
		"addr 10.0.0.1/8 dev a forgotten":       `unexpected "forgotten"`,
		"rule ip 1 from all via 5":              `want "lookup", have "via"`,
		"rule ip 1 from all lookup 5 metric 6":  `want "proto", have "metric"`,
		"masquerade ip5 links spv":              `unknown family "ip5"`,
		"replymark ip dev a mark bit":           `"bit"`,
		"rule ip 1 from all fwmark 5":           "ends too early",
		"neighbor 10.0.0.1 mac 02 dev a":        `hardware address "02"`,
		"sysctl net/ipv4/ip_forward : 1":        `want "=", have ":"`,
		"shaper out-eth0 rate fast":             `"fast"`,
		"guard eth0 mac 02:00:00:00:00:01 of a": `want "from", have "of"`,
		"redirect eth0 both to out-eth0":        `unknown direction "both"`,
		"bridge a":                              `unknown kind "bridge"`,
		"link a mtu ten txqueuelen also-no-sum": `"ten"`,
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

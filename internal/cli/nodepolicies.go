package cli

import "spiderpool.dev/spiderpool/internal/netplan"

// judgePolicies judges the abilities of the kernel. sockets and ownership are the reasons why it cannot judge packet
// sockets, and protect the filters from pods with NET_ADMIN. Policies hold without these, too, against most pods.
func judgePolicies(enabled bool, sockets, ownership error) []netplan.Finding {
	f := netplan.Finding{What: "network policies (policy.enabled)", Is: "not enforced", Want: "not enforced", OK: true}
	if !enabled {
		return []netplan.Finding{f}
	}
	f.Is, f.Want = "enforced", "enforced"
	all := []netplan.Finding{f}
	for _, part := range []struct {
		what   string
		reason error
	}{{"policies against packet sockets (NET_RAW)", sockets}, {"policies against pods with NET_ADMIN", ownership}} {
		f := netplan.Finding{What: part.what, Is: "hold", Want: "hold, or not", OK: true}
		if part.reason != nil {
			f.Is = "do not hold: " + part.reason.Error()
		}
		all = append(all, f)
	}
	return all
}

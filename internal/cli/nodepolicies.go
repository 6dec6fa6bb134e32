package cli

import (
	"errors"
	"io/fs"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// examinePolicies returns how well the kernel enforces network policies, and nothing outside of an agent's container,
// where the configuration is missing.
func examinePolicies() ([]netplan.Finding, error) {
	file, err := config.Load(config.DefaultPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || !file.Policy.Enabled {
		return judgePolicies(false, nil, nil), err
	}
	return judgePolicies(true, packetfilter.TryPacketSockets(), packetfilter.TryOwnership()), nil
}

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

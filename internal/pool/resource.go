package pool

import (
	"crypto/sha256"
	"encoding/hex"

	"spiderpool.dev/spiderpool/api/names"
)

// maxResourceName is the longest name of a resource after its domain (Kubernetes, IsQualifiedName).
const maxResourceName = 63

// Resource returns the extended resource of nodes that counts interfaces on the attachment,
// e.g. addresses.ipam.spidernet.io/kube-system.ipvlan-ens5. A namespace has no dot, so two
// attachments never share a resource. A hash replaces the end of a long name.
func (a NetworkAttachment) Resource() string {
	name := a.Namespace + "." + a.Name
	if len(name) > maxResourceName {
		sum := sha256.Sum256([]byte(name))
		end := "-" + hex.EncodeToString(sum[:8])
		name = name[:maxResourceName-len(end)] + end
	}
	return names.ResourceAddressesDomain + "/" + name
}

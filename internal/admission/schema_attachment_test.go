//go:build apiserver

package admission_test

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// twoByteLetters is a name of 15 letters in 30 bytes.
var twoByteLetters = strings.Repeat("ä", 15)

// The limit for interface names is 15 bytes, not 15 letters.
func TestSchemaOfInterfaceNames(t *testing.T) {
	const long, longest = "abcdefghijklmnop", "abcdefghijklmno"
	var examples []judged
	for _, field := range []struct{ path, spec, tooLong, slash string }{
		{"spec.macvlan.master[0]", `{cniType: macvlan, macvlan: {master: [%q]}}`, "; copy the name from 'ip link'", "; copy the name from 'ip link'"},
		{"spec.ipvlan.master[0]", `{cniType: ipvlan, ipvlan: {master: [%q]}}`, "; copy the name from 'ip link'", "; copy the name from 'ip link'"},
		{"spec.vlan.master[0]", `{cniType: vlan, vlan: {master: [%q], vlanID: 3}}`, "; copy the name from 'ip link'", "; copy the name from 'ip link'"},
		{"spec.ipoib.master", `{cniType: ipoib, ipoib: {master: %q}}`, "; copy the name from 'ip link'", "; copy the name from 'ip link'"},
		{"spec.macvlan.bond.name", `{cniType: macvlan, macvlan: {master: [a, b], bond: {name: %q, mode: 1}}}`, "; use a name such as 'bond0'", ", such as 'bond0'"},
	} {
		spec := func(name string) string { return fmt.Sprintf(field.spec, name) }
		refusal := func(name string) string {
			return fmt.Sprintf("%s: Invalid value: %q: '%s' is ", field.path, name, name)
		}
		examples = append(examples,
			judged{field.path + " of the greatest length", spec(longest), ""},
			judged{field.path + " of seven letters of two bytes", spec(strings.Repeat("ä", 7)), ""},
			judged{field.path + " empty", spec(""), field.path + ": Invalid value: \"\": " + field.path + " in body should be at least 1 chars long"},
			judged{field.path + " too long", spec(long), refusal(long) + "longer than 15 bytes, the limit for interface names" + field.tooLong},
			judged{field.path + " of two-byte letters", spec(twoByteLetters), refusal(twoByteLetters) + "longer than 15 bytes, the limit for interface names"},
			judged{field.path + " with a slash", spec("a/b"), refusal("a/b") + "not an interface name" + field.slash},
			judged{field.path + " beyond all measure", spec(strings.Repeat("a", 65)), field.path + ": Too long"},
		)
	}
	judge(t, kubetest.Client(t), "SpiderMultusConfig", examples)
	nic := func(name string) string { return fmt.Sprintf(`{podDefaultRouteNIC: %q}`, name) }
	judge(t, kubetest.Client(t), "SpiderCoordinator", []judged{
		{"as long as can be", nic(longest), ""},
		{"too long", nic(long), "spec.podDefaultRouteNIC: Invalid value: \"" + long + "\": '" + long + "' is longer than 15 bytes, the limit for interface names; use a name such as 'eth0' or 'net1'"},
		{"two-byte letters", nic(twoByteLetters), "is longer than 15 bytes, the limit for interface names"},
		{"slash", nic("a/b"), "spec.podDefaultRouteNIC: Invalid value: \"a/b\": 'a/b' is not an interface name, such as 'eth0' or 'net1'"},
	})
}

func TestSchemaOfAttachmentSections(t *testing.T) {
	judge(t, kubetest.Client(t), "SpiderMultusConfig", []judged{
		{"ovs without a bridge", `{cniType: ovs, ovs: {}}`, "spec.ovs.bridge: Required value"},
		{"ovs with an empty bridge", `{cniType: ovs, ovs: {bridge: ""}}`, `spec.ovs.bridge: Invalid value: ""`},
		{"ib-sriov without a resource", `{cniType: ib-sriov, ibsriov: {}}`, "spec.ibsriov.resourceName: Required value"},
		{"ib-sriov with an empty resource", `{cniType: ib-sriov, ibsriov: {resourceName: ""}}`,
			`spec.ibsriov.resourceName: Invalid value: ""`},
		{"trunk ID", `{cniType: ovs, ovs: {bridge: br0, trunk: [{id: 1}, {id: 4095}]}}`, "spec.ovs.trunk[1].id: Invalid value: 4095"},
		{"trunk range", `{cniType: ovs, ovs: {bridge: br0, trunk: [{minID: 1, maxID: 4095}]}}`,
			"spec.ovs.trunk[0].maxID: Invalid value: 4095"},
		{"trunk range beginning too high", `{cniType: ovs, ovs: {bridge: br0, trunk: [{minID: 4095, maxID: 4095}]}}`,
			"spec.ovs.trunk[0].minID: Invalid value: 4095"},
		{"last trunk IDs", `{cniType: ovs, ovs: {bridge: br0, trunk: [{id: 4094}, {minID: 0, maxID: 4094}]}}`, ""},
		{"MTU of macvlan", `{cniType: macvlan, macvlan: {master: [eth0], mtu: -1}}`, "spec.macvlan.mtu: Invalid value: -1"},
		{"MTU of ipvlan", `{cniType: ipvlan, ipvlan: {master: [eth0], mtu: -1}}`, "spec.ipvlan.mtu: Invalid value: -1"},
		{"MTU of vlan", `{cniType: vlan, vlan: {master: [eth0], vlanID: 3, mtu: -1}}`, "spec.vlan.mtu: Invalid value: -1"},
		{"MTU of sriov", `{cniType: sriov, sriov: {resourceName: a/b, mtu: -1}}`, "spec.sriov.mtu: Invalid value: -1"},
		{"MTU of the master", `{cniType: macvlan, macvlan: {master: [eth0], mtu: 0}}`, ""},
	})
}

func TestBadChainsAreRejected(t *testing.T) {
	c, _ := serve(t)
	judge(t, c, "SpiderMultusConfig", []judged{
		{"chain without a main plugin", `{cniType: custom, chainCNIJsonData: ['{"type":"tuning"}']}`,
			"spec.customCNI: Required value: chainCNIJsonData has plugins, but there is none to follow; write the main plugin"},
		{"chain behind an empty main plugin", `{customCNI: " ", chainCNIJsonData: ['{"type":"tuning"}']}`,
			"spec.customCNI: Required value"},
		{"chained plugin without a type", `{cniType: ipvlan, ipvlan: {master: [eth0]}, chainCNIJsonData: ['{"type":"tuning"}', '{"mtu":1400}']}`,
			`spec.chainCNIJsonData[1]: Invalid value: "{\"mtu\":1400}": names no plugin; write its program as "type", e.g. {"type": "tuning"}`},
		{"custom without type and plugins", `{customCNI: '{"cniVersion":"1.0.0","name":"net"}'}`,
			`has neither "type" nor "plugins"; write a CNI configuration, e.g. {"type": "macvlan", "master": "eth0"}`},
		{"VLAN interface with a long name", `{cniType: macvlan, macvlan: {master: [abcdefghijkl], vlanID: 100}}`,
			"spec.macvlan.vlanID: Invalid value: 100: the interface name abcdefghijkl.100 is longer than 15 bytes, the limit for interface names; give abcdefghijkl a shorter name"},
		{"VLAN interface of a bond with a long name", `{cniType: ipvlan, ipvlan: {master: [a, b], vlanID: 4094, bond: {name: abcdefghijk, mode: 1}}}`,
			"spec.ipvlan.vlanID: Invalid value: 4094: the interface name abcdefghijk.4094 is longer than 15 bytes, the limit for interface names; give abcdefghijk a shorter name"},
		{"VLAN interface with the longest name", `{cniType: macvlan, macvlan: {master: [abcdefghijk], vlanID: 100}}`, ""},
		{"plugin vlan names the interface in the pod", `{cniType: vlan, vlan: {master: [abcdefghijklmno], vlanID: 100}}`, ""},
	})
	for name, value := range map[string]string{"upper case": "Net", "underscore": "a_b", "slash": "kube-system/net"} {
		o := object(t, "SpiderMultusConfig", `{cniType: ipvlan, ipvlan: {master: [eth0]}}`)
		o.SetAnnotations(map[string]string{names.AnnotationMultusConfigCRName: value})
		t.Run("cr-name/"+name, func(t *testing.T) {
			refused(t, c.Create(t.Context(), o, client.DryRunAll),
				fmt.Sprintf("metadata.annotations[multus.spidernet.io/cr-name]: Invalid value: %q: a lowercase RFC 1123 subdomain must consist of", value))
		})
	}
}

func TestIPVersionIsImmutable(t *testing.T) {
	c := kubetest.Client(t)
	pool := newPool("version", "10.72.0.0/24")
	subnet := newSubnet("version", "10.72.0.0/24")
	pool.Spec.IPVersion, subnet.Spec.IPVersion = new(int64(4)), new(int64(4))
	kubetest.Create(t, c, pool, subnet)
	pool.Spec.IPVersion, subnet.Spec.IPVersion = new(int64(6)), new(int64(6))
	const want = "spec.ipVersion: Invalid value: 6 is not the IP version of subnet '10.72.0.0/24'; omit ipVersion"
	refused(t, c.Update(t.Context(), pool), want)
	refused(t, c.Update(t.Context(), subnet), want)
}

package compile

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Values of the labels with names.LabelBlockNodePrefix.
const (
	blockCreator = "creator"
	blockHolder  = "holder"
)

// maxLabelName is the maximum length of the name part of a label key.
const maxLabelName = 63

// BlockName returns the name of the SpiderIPBlock that begins at base. An IPv6
// address is written in full with "-" for ":", because object names are DNS
// names.
func BlockName(base netip.Addr) string {
	if base.Is4() {
		return base.String()
	}
	return strings.ReplaceAll(base.StringExpanded(), ":", "-")
}

// ParseBlockName is the inverse of BlockName.
func ParseBlockName(name string) (netip.Addr, error) {
	text := name
	if !strings.Contains(name, ".") {
		text = strings.ReplaceAll(name, "-", ":")
	}
	base, err := netip.ParseAddr(text)
	if err != nil || BlockName(base) != name || inet.BlockOf(base) != base {
		return netip.Addr{}, fmt.Errorf("%q is not the name of a SpiderIPBlock: the first of %d aligned addresses", name, inet.BlockSize)
	}
	return base, nil
}

// BlockNodeLabel returns the label key for the blocks of a node. A name that is
// too long for a label is truncated and gets a hash.
func BlockNodeLabel(node string) string {
	if len(node) > maxLabelName {
		suffix := "-" + hashed(node)
		node = node[:maxLabelName-len(suffix)] + suffix
	}
	return names.LabelBlockNodePrefix + node
}

// BlockFixedLabel returns the label key for the blocks with addresses fixed for
// the owner. Because hashes can collide, it may also select another block.
func BlockFixedLabel(owner lease.Owner) string {
	return names.LabelBlockFixedPrefix + hashed(owner.String())
}

func hashed(text string) string {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(text))
	return strconv.FormatUint(hash.Sum64(), 36)
}

func RegionLabel(region netip.Prefix) string {
	return BlockName(region.Addr()) + "-" + strconv.Itoa(region.Bits())
}

// BlockObject returns the resource of a block, with its labels.
func BlockObject(b lease.Block) *v2beta1.SpiderIPBlock {
	labels := map[string]string{names.LabelBlockRegion: RegionLabel(alloc.RegionOf(b.Base))}
	leases := make([]v2beta1.Lease, 0, len(b.Leases))
	for _, l := range b.Leases {
		if l.Node != "" {
			labels[BlockNodeLabel(l.Node)] = blockHolder
		}
		if l.State == lease.Withheld {
			labels[names.LabelBlockWithheld] = ""
		}
		if !l.FixedFor.IsZero() {
			labels[BlockFixedLabel(l.FixedFor)] = ""
		}
		leases = append(leases, leaseObject(l))
	}
	var former []v2beta1.FormerSandbox
	if b.Former != nil { // an empty list says that the writer knows the field
		former = make([]v2beta1.FormerSandbox, 0, len(b.Former))
	}
	for _, f := range b.Former {
		if f.Node != "" {
			labels[BlockNodeLabel(f.Node)] = blockHolder
		}
		former = append(former, v2beta1.FormerSandbox{
			IP: f.Addr.String(), ContainerID: f.ContainerID, Interface: f.Interface, Pod: f.Pod.String(), PodUID: f.PodUID, Node: f.Node,
			FixedFor: f.FixedFor.String(),
		})
	}
	if b.Node != "" {
		labels[BlockNodeLabel(b.Node)] = blockCreator
	}
	return &v2beta1.SpiderIPBlock{
		TypeMeta:   metav1.TypeMeta{APIVersion: v2beta1.GroupVersion.String(), Kind: "SpiderIPBlock"},
		ObjectMeta: metav1.ObjectMeta{Name: BlockName(b.Base), Labels: labels, ResourceVersion: b.Version},
		Spec:       v2beta1.SpiderIPBlockSpec{CIDR: inet.BlockPrefix(b.Base).String(), Node: b.Node, Leases: leases, Former: former},
	}
}

func leaseObject(l lease.Lease) v2beta1.Lease {
	out := v2beta1.Lease{
		IP: l.Addr.String(), State: v2beta1.LeaseState(l.State), Pool: l.Pool,
		Pod: l.Pod.String(), PodUID: l.PodUID, ContainerID: l.ContainerID, Interface: l.Interface, Node: l.Node, FixedFor: l.FixedFor.String(),
		Since: metav1.NewTime(l.Since), MAC: l.MAC, WithheldBy: l.WithheldBy,
	}
	if !l.Until.IsZero() {
		out.Until = &metav1.Time{Time: l.Until}
	}
	return out
}

// Block returns the block of the resource. An error means that another program
// changed the resource.
func Block(in *v2beta1.SpiderIPBlock) (lease.Block, error) {
	base, err := ParseBlockName(in.Name)
	if err != nil {
		return lease.Block{}, err
	}
	out := lease.Block{Base: base, Node: in.Spec.Node, Version: in.ResourceVersion}
	if len(in.Spec.Leases) > 0 {
		out.Leases = make([]lease.Lease, 0, len(in.Spec.Leases))
	}
	for i := range in.Spec.Leases {
		converted, err := LeaseOf(&in.Spec.Leases[i])
		if err != nil {
			return lease.Block{}, fmt.Errorf("SpiderIPBlock %s: %w", in.Name, err)
		}
		out.Leases = append(out.Leases, converted)
	}
	for _, f := range in.Spec.Former {
		addr, err := netip.ParseAddr(f.IP)
		if err != nil {
			return lease.Block{}, fmt.Errorf("SpiderIPBlock %s: former: %w", in.Name, err)
		}
		out.Former = append(out.Former, lease.Former{
			Addr: addr, Holder: lease.Holder{
				Attachment: lease.Attachment{ContainerID: f.ContainerID, Interface: f.Interface},
				Pod:        lease.ParsePodKey(f.Pod), PodUID: f.PodUID, Node: f.Node, FixedFor: lease.ParseOwner(f.FixedFor),
			},
		})
	}
	if err := out.Validate(); err != nil {
		return lease.Block{}, fmt.Errorf("SpiderIPBlock %s: %w", in.Name, err)
	}
	return out, nil
}

// StoredBlock returns the block of the resource or, if it is damaged, a damaged
// block with its addresses. It returns false if the name is not that of a block.
func StoredBlock(in *v2beta1.SpiderIPBlock) (lease.Block, bool) {
	out, err := Block(in)
	if err == nil {
		return out, true
	}
	base, nameErr := ParseBlockName(in.Name)
	return lease.Block{Base: base, Node: in.Spec.Node, Version: in.ResourceVersion, Damaged: err.Error()}, nameErr == nil
}

// LeaseOf returns the lease of the resource.
func LeaseOf(in *v2beta1.Lease) (lease.Lease, error) {
	addr, err := netip.ParseAddr(in.IP)
	if err != nil {
		return lease.Lease{}, err
	}
	out := lease.Lease{
		Addr: addr, State: lease.State(in.State), Pool: in.Pool,
		Holder: lease.Holder{
			Attachment: lease.Attachment{ContainerID: in.ContainerID, Interface: in.Interface},
			Pod:        lease.ParsePodKey(in.Pod), PodUID: in.PodUID, Node: in.Node, FixedFor: lease.ParseOwner(in.FixedFor),
		},
		Since: in.Since.UTC(), MAC: in.MAC, WithheldBy: in.WithheldBy,
	}
	if in.Until != nil {
		out.Until = in.Until.UTC()
	}
	return out, nil
}

// OlderVersion reports whether resource version a is older than b. Versions of
// one resource are growing decimal numbers (KEP-5504). Other text is never
// older.
func OlderVersion(a, b string) bool {
	na, errA := strconv.ParseUint(a, 10, 64)
	nb, errB := strconv.ParseUint(b, 10, 64)
	return errA == nil && errB == nil && na < nb
}

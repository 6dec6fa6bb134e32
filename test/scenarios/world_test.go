package scenarios

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// defaultNode is the node of pods without spec.nodeName.
const defaultNode = "n1"

// stage is the in-memory cluster of a scenario, with the resources of its sections.
type stage struct {
	*ipamtest.FakeCluster
	sections map[string]string
	reserved map[string]inet.Set
	pools    map[string]*v2beta1.SpiderIPPool
	controlled
	uids int
	out  strings.Builder
}

func newStage(sections map[string]string) *stage {
	return &stage{
		FakeCluster: ipamtest.NewFakeCluster(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)),
		sections:    sections, reserved: map[string]inet.Set{}, pools: map[string]*v2beta1.SpiderIPPool{},
		controlled: controlled{deleted: map[string]bool{}, fenced: map[string]bool{}, terminated: map[lease.PodKey]time.Time{}},
	}
}

// apply adds the resources of a section to the cluster.
func (s *stage) apply(section string) error {
	text, ok := s.sections[section]
	if !ok {
		return fmt.Errorf("no section %q", section)
	}
	for document := range strings.SplitSeq("\n"+text, "\n---") {
		if strings.TrimSpace(document) == "" {
			continue
		}
		if err := s.applyOne([]byte(document)); err != nil {
			return fmt.Errorf("section %q: %w in\n%s", section, err, document)
		}
	}
	return nil
}

func (s *stage) applyOne(document []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return err
	}
	switch kind.Kind {
	case "SpiderIPPool":
		return decoded(document, s.applyPool)
	case "SpiderReservedIP":
		return decoded(document, s.applyReserved)
	case "Namespace":
		return decoded(document, func(o *corev1.Namespace) error {
			s.SetNamespace(pool.NamespaceFacts{Name: o.Name, Labels: o.Labels, Annotations: o.Annotations})
			return nil
		})
	case "Node":
		return decoded(document, s.applyNode)
	case "NetworkAttachmentDefinition":
		return decoded(document, s.applyNetwork)
	case "Pod":
		return decoded(document, s.applyPod)
	}
	return fmt.Errorf("kind %q is not supported in scenarios", kind.Kind)
}

func decoded[T any](document []byte, apply func(*T) error) error {
	object := new(T)
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return err
	}
	return apply(object)
}

// unlabelled is the annotation of a pool not yet labelled by the controller.
const unlabelled = "scenario/unlabelled"

func (s *stage) applyPool(o *v2beta1.SpiderIPPool) error {
	if _, terminating := o.Annotations["scenario/terminating"]; terminating {
		o.DeletionTimestamp = &metav1.Time{Time: s.Now()}
	}
	compiled, errs := compile.Pool(o)
	if len(errs) > 0 {
		return errs.ToAggregate()
	}
	s.pools[o.Name] = o
	_, hidden := o.Annotations[unlabelled]
	s.SetPool(&compiled, !hidden)
	return nil
}

func (s *stage) applyReserved(o *v2beta1.SpiderReservedIP) error {
	set, errs := compile.ReservedIP(o)
	if len(errs) > 0 {
		return errs.ToAggregate()
	}
	s.reserved[o.Name] = set
	s.SetReserved(s.allReserved())
	return nil
}

func (s *stage) allReserved() inet.Set {
	var all []inet.Set
	for _, set := range s.reserved {
		all = append(all, set)
	}
	return inet.Union(all...)
}

// applyNode adds a node. The annotation scenario/LINK lists the subnets of the
// link, e.g. scenario/ens5: 10.1.0.2/16,fd00::2/64.
func (s *stage) applyNode(o *corev1.Node) error {
	s.SetNode(pool.NodeFacts{Name: o.Name, Labels: o.Labels})
	for name, value := range o.Annotations {
		var subnets []netip.Prefix
		for text := range strings.SplitSeq(value, ",") {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				return err
			}
			subnets = append(subnets, prefix.Masked())
		}
		s.SetLink(o.Name, strings.TrimPrefix(name, "scenario/"), subnets...)
	}
	return nil
}

func (s *stage) applyNetwork(o *nadv1.NetworkAttachmentDefinition) error {
	network, err := agentclient.ParseNetwork(o.Spec.Config)
	if err != nil {
		return err
	}
	s.SetNetwork(pool.NetworkAttachment{Namespace: namespaceOr(o.Namespace), Name: o.Name}, network)
	return nil
}

func namespaceOr(name string) string {
	if name == "" {
		return "default"
	}
	return name
}

func (s *stage) applyPod(o *corev1.Pod) error {
	s.uids++
	p := ipamtest.FakePod{
		Pod: ipam.Pod{
			PodKey: lease.PodKey{Namespace: namespaceOr(o.Namespace), Name: o.Name}, UID: fmt.Sprintf("uid-%d", s.uids),
			Labels: o.Labels, Annotations: o.Annotations,
		},
		Node: o.Spec.NodeName,
	}
	if p.Node == "" {
		p.Node = defaultNode
	}
	if len(o.OwnerReferences) > 0 {
		owner := o.OwnerReferences[0]
		p.Owner = ipam.Controller{APIVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name, UID: string(owner.UID)}
		// A second owner reference is the owner of the first owner.
		if len(o.OwnerReferences) > 1 {
			top := o.OwnerReferences[1]
			p.Top = ipam.Controller{APIVersion: top.APIVersion, Kind: top.Kind, Name: top.Name}
		}
	}
	p.State.Phase, p.State.HasAddress = "Running", true
	s.SetPod(p)
	return nil
}

// pod finds a pod by "name" or "namespace/name". The default namespace is "default".
func (s *stage) pod(key string) (*ipamtest.FakePod, error) {
	if !strings.Contains(key, "/") {
		key = "default/" + key
	}
	p, ok := s.Pod(lease.ParsePodKey(key))
	if !ok {
		return nil, fmt.Errorf("no pod %s", key)
	}
	return p, nil
}

var errUsage = errors.New("usage")

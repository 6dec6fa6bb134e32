package agentclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

// BlockStore implements alloc.Blocks with SpiderIPBlocks.
type BlockStore struct{ client *Client }

// NewBlockStore returns a BlockStore of the client's cluster.
func NewBlockStore(client *Client) *BlockStore { return &BlockStore{client: client} }

// Older reports whether version a is older than b (alloc.Config.Older).
func (*BlockStore) Older(a, b string) bool { return compile.OlderVersion(a, b) }

// Get implements alloc.Blocks.
func (s *BlockStore) Get(ctx context.Context, base netip.Addr) (lease.Block, error) {
	var object v2beta1.SpiderIPBlock
	err := s.client.spiderpool.Get().Resource("spideripblocks").Name(compile.BlockName(base)).Do(ctx).Into(&object)
	if apierrors.IsNotFound(err) {
		return lease.Block{}, fmt.Errorf("SpiderIPBlock %s: %w", compile.BlockName(base), alloc.ErrNotFound)
	}
	if err != nil {
		return lease.Block{}, err
	}
	b, _ := compile.StoredBlock(&object)
	return b, nil
}

// Put implements alloc.Blocks.
//
// An update clears managedFields with an empty entry (see "Clearing managedFields" in
// https://kubernetes.io/docs/reference/using-api/server-side-apply/). A block has one
// owner at a time, and tracking its fields costs the server more than the write itself.
func (s *BlockStore) Put(ctx context.Context, b lease.Block) (string, error) {
	object := compile.BlockObject(b)
	request := s.client.spiderpool.Post().Resource("spideripblocks")
	if b.Version != "" {
		object.ManagedFields = []metav1.ManagedFieldsEntry{{}}
		request = s.client.spiderpool.Put().Resource("spideripblocks").Name(object.Name)
	}
	version, err := write(ctx, request.Body(object))
	if err != nil {
		return "", classified(object.Name, err)
	}
	return version, nil
}

// write sends one of our objects and returns its new resource version. To save work
// for the server, it requests only metadata in the response and no field validation:
// the object was encoded from its Go type, so it has no unknown fields.
func write(ctx context.Context, request *rest.Request) (string, error) {
	raw, err := answer(request.SetHeader("Accept", partialMetadata).Param("fieldValidation", metav1.FieldValidationIgnore).Do(ctx))
	if err != nil {
		return "", err
	}
	return versionIn(raw)
}

// versionIn returns the resource version in the response to a write.
func versionIn(raw []byte) (string, error) {
	var answer struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Metadata.ResourceVersion == "" {
		return "", fmt.Errorf("the response to a write has no resource version: %.200q", raw)
	}
	return answer.Metadata.ResourceVersion, nil
}

// tooLarge is in the message of the API server for an object beyond the request limit
// of etcd, 1.5 MiB (https://etcd.io/docs/v3.6/dev-guide/limit/).
const tooLarge = "etcdserver: request is too large"

// classified maps AlreadyExists, Conflict and NotFound to alloc.ErrConflict. An invalid or
// too large object, and one that an admission policy denies, gives alloc.ErrRefused.
func classified(name string, err error) error {
	switch {
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		return fmt.Errorf("SpiderIPBlock %s: %w: %w", name, alloc.ErrConflict, err)
	case apierrors.IsInvalid(err), apierrors.IsRequestEntityTooLargeError(err), strings.Contains(err.Error(), tooLarge):
		return fmt.Errorf("SpiderIPBlock %s: %w: %w", name, alloc.ErrRefused, err)
	}
	return fmt.Errorf("SpiderIPBlock %s: %w", name, err)
}

// OfNode implements alloc.Blocks.
func (s *BlockStore) OfNode(ctx context.Context, node string) ([]lease.Block, error) {
	return s.list(ctx, compile.BlockNodeLabel(node))
}

// FixedFor implements alloc.Blocks.
func (s *BlockStore) FixedFor(ctx context.Context, owner lease.Owner) ([]lease.Block, error) {
	return s.list(ctx, compile.BlockFixedLabel(owner))
}

// InRegion implements alloc.Blocks.
func (s *BlockStore) InRegion(ctx context.Context, region netip.Prefix) ([]lease.Block, error) {
	return s.list(ctx, labels.Set{names.LabelBlockRegion: compile.RegionLabel(region)}.String())
}

// blockPage is the maximum number of blocks in one response: 64 full blocks need 250 kB
// of memory.
const blockPage = 64

func (s *BlockStore) list(ctx context.Context, selector string) ([]lease.Block, error) {
	var blocks []lease.Block
	next := ""
	for {
		var page v2beta1.SpiderIPBlockList
		err := s.client.spiderpool.Get().Resource("spideripblocks").
			Param("labelSelector", selector).Param("limit", fmt.Sprint(blockPage)).Param("continue", next).
			Do(ctx).Into(&page)
		if err != nil {
			return nil, fmt.Errorf("list SpiderIPBlocks with %s: %w", selector, err)
		}
		for i := range page.Items {
			if b, ok := compile.StoredBlock(&page.Items[i]); ok {
				blocks = append(blocks, b)
			}
		}
		if next = page.Continue; next == "" {
			return blocks, nil
		}
	}
}

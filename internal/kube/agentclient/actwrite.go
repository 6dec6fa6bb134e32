package agentclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Annotate sets an annotation of an object, or removes it if the value is nil. The object at the path, e.g.
// "/apis/spiderpool.spidernet.io/v2beta1/spiderippools/blue", must have the resource version, unless that is empty.
// apierrors.IsConflict recognizes the error of a changed object.
func (c *Client) Annotate(ctx context.Context, at, version, key string, value *string) error {
	metadata := map[string]any{"annotations": map[string]*string{key: value}}
	if version != "" {
		metadata["resourceVersion"] = version
	}
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	if _, err := answer(c.spiderpool.Patch(types.MergePatchType).AbsPath(at).Body(patch).Do(ctx)); err != nil {
		return fmt.Errorf("annotate %s: %w", at, err)
	}
	return nil
}

// Fetch returns at most limit bytes of a path, e.g. of the log of a pod, and whether there are more. query has pairs of
// names and values.
func (c *Client) Fetch(ctx context.Context, at string, limit int64, query ...string) (text []byte, more bool, err error) {
	body, err := c.get(at, query).Stream(ctx)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = body.Close() }()
	text, err = io.ReadAll(io.LimitReader(body, limit+1))
	if int64(len(text)) > limit {
		text, more = text[:limit], true
	}
	return text, more, err
}

// EachStatefulSet calls f with the name and the ordinals [first, end) of each StatefulSet.
func (c *Client) EachStatefulSet(ctx context.Context, f func(namespace, name string, first, end int)) error {
	next := ""
	for {
		var page struct {
			Metadata metav1.ListMeta `json:"metadata"`
			Items    []statefulSet   `json:"items"`
		}
		found, err := c.Lookup(ctx, &page, "/apis/apps/v1/statefulsets", "limit", fmt.Sprint(readPage), "continue", next)
		if err != nil {
			return err
		}
		if !found { // no list is no proof that there are none
			return errors.New("list statefulsets: the API server has no such kind")
		}
		for i := range page.Items {
			set := &page.Items[i]
			first, end := set.ordinals()
			f(set.Metadata.Namespace, set.Metadata.Name, first, end)
		}
		if next = page.Metadata.Continue; next == "" {
			return nil
		}
	}
}

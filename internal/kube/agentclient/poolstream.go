package agentclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

// eachPool lists pools and calls f with each of them. Its status lacks the addresses
// if they are ours. params are query parameters, e.g. "limit". It decodes the response while it arrives: the status
// of one pool can be a megabyte, and a whole list more than the agent's memory limit.
// next is the token of the next page, "" after the last one.
func (c *Client) eachPool(ctx context.Context, params map[string]string, f func(*v2beta1.SpiderIPPool)) (next string, err error) {
	request := c.spiderpool.Get().Resource(poolResource.Resource)
	for name, value := range params {
		request.Param(name, value)
	}
	body, err := request.Stream(ctx)
	if err == nil {
		next, err = decodePools(body, f)
		err = errors.Join(err, body.Close())
	}
	if err != nil {
		return "", fmt.Errorf("list SpiderIPPools: %w", err)
	}
	return next, nil
}

// decodePools decodes a SpiderIPPoolList and holds only one pool in memory at a time.
func decodePools(in io.Reader, f func(*v2beta1.SpiderIPPool)) (next string, err error) {
	return decodeList(in, func(decoder *json.Decoder) error {
		var item poolItem
		if err := decoder.Decode(&item); err != nil {
			return err
		}
		f(item.pool())
		return nil
	})
}

// poolItem is a pool of a list.
type poolItem struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              v2beta1.SpiderIPPoolSpec `json:"spec"`
	Status            poolStatus               `json:"status"`
}

func (i *poolItem) pool() *v2beta1.SpiderIPPool {
	return &v2beta1.SpiderIPPool{ObjectMeta: i.ObjectMeta, Spec: i.Spec, Status: i.Status.SpiderIPPoolStatus}
}

// poolStatus is the status of a pool. Of a status that our controller wrote, it keeps
// only the conditions and the counts: the addresses are in the blocks.
type poolStatus struct{ v2beta1.SpiderIPPoolStatus }

func (s *poolStatus) UnmarshalJSON(raw []byte) error {
	var kept struct {
		Conditions                                  []metav1.Condition
		TotalIPCount, AllocatedIPCount, FreeIPCount *int64
	}
	if err := json.Unmarshal(raw, &kept); err != nil {
		return err
	}
	s.Conditions, s.TotalIPCount, s.AllocatedIPCount, s.FreeIPCount = kept.Conditions, kept.TotalIPCount, kept.AllocatedIPCount, kept.FreeIPCount
	if compile.IsOurStatus(&s.SpiderIPPoolStatus) {
		return nil
	}
	return json.Unmarshal(raw, &s.SpiderIPPoolStatus)
}

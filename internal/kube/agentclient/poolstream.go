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
	decoder := json.NewDecoder(in)
	if _, err := decoder.Token(); err != nil {
		return "", err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return "", err
		}
		switch name {
		case "metadata":
			var list metav1.ListMeta
			if err := decoder.Decode(&list); err != nil {
				return "", err
			}
			next = list.Continue
		case "items":
			if err := decodeItems(decoder, f); err != nil {
				return "", err
			}
		default:
			var ignored json.RawMessage
			if err := decoder.Decode(&ignored); err != nil {
				return "", err
			}
		}
	}
	return next, nil
}

func decodeItems(decoder *json.Decoder, f func(*v2beta1.SpiderIPPool)) error {
	if open, err := decoder.Token(); err != nil || open == nil { // null
		return err
	}
	for decoder.More() {
		var item struct {
			metav1.ObjectMeta `json:"metadata"`
			Spec              v2beta1.SpiderIPPoolSpec `json:"spec"`
			Status            poolStatus               `json:"status"`
		}
		if err := decoder.Decode(&item); err != nil {
			return err
		}
		f(&v2beta1.SpiderIPPool{ObjectMeta: item.ObjectMeta, Spec: item.Spec, Status: item.Status.SpiderIPPoolStatus})
	}
	_, err := decoder.Token()
	return err
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

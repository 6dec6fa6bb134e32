package agentclient

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"spiderpool.dev/spiderpool/internal/ipam"
)

// statefulSet is the part of a StatefulSet that tells the names of its pods.
type statefulSet struct {
	Metadata struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		UID       string `json:"uid"`
	} `json:"metadata"`
	Spec struct {
		Replicas int `json:"replicas"` // the API server sets it
		Ordinals struct {
			Start int `json:"start"`
		} `json:"ordinals"`
	} `json:"spec"`
}

// ordinals returns the ordinals of its pods as the range [first, end).
func (s *statefulSet) ordinals() (first, end int) {
	return s.Spec.Ordinals.Start, s.Spec.Ordinals.Start + s.Spec.Replicas
}

// StatefulSet implements ipam.Owners.
func (c *Client) StatefulSet(ctx context.Context, namespace, name string) (ipam.StatefulSet, error) {
	var object statefulSet
	err := c.readOwner(ctx, "/apis/apps/v1", namespace, "statefulsets", name, &object)
	first, end := object.ordinals()
	return ipam.StatefulSet{UID: object.Metadata.UID, First: first, End: end}, err
}

// VirtualMachineInstance implements ipam.Owners.
func (c *Client) VirtualMachineInstance(ctx context.Context, namespace, name string) (ipam.VirtualMachineInstance, error) {
	// Names of kubevirt.io/api/core/v1.
	var object struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
		Status struct {
			ActivePods map[string]string `json:"activePods"`
		} `json:"status"`
	}
	err := c.readOwner(ctx, "/apis/kubevirt.io/v1", namespace, "virtualmachineinstances", name, &object)
	active := make(map[string]bool, len(object.Status.ActivePods))
	for uid := range object.Status.ActivePods {
		active[uid] = true
	}
	return ipam.VirtualMachineInstance{UID: object.Metadata.UID, ActivePods: active}, err
}

// readOwner decodes an object into a struct with the fields that the caller needs. An
// API server without the kind answers like one without the object. The name comes from
// an owner reference, so it may be any text.
func (c *Client) readOwner(ctx context.Context, api, namespace, resource, name string, into any) error {
	raw, err := answer(c.spiderpool.Get().AbsPath(api).Namespace(namespace).Resource(resource).Name(name).Do(ctx))
	if apierrors.IsNotFound(err) || len(rest.IsValidPathSegmentName(name)) > 0 {
		return fmt.Errorf("%s %s/%s: %w", resource, namespace, name, ipam.ErrNotFound)
	}
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return fmt.Errorf("read %s %s/%s: %w", resource, namespace, name, err)
	}
	return nil
}

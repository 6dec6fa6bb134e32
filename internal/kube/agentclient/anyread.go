package agentclient

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DefinitionAnnotation returns an annotation of a custom resource definition, and false if there is no such definition.
func (c *Client) DefinitionAnnotation(ctx context.Context, definition, annotation string) (value string, found bool, err error) {
	object, err := c.metadata.Resource(definitionResource).Get(ctx, definition, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read the definition %s: %w", definition, err)
	}
	return object.Annotations[annotation], true, nil
}

// Served returns the resources of a group and version that the API server serves, e.g. "spiderippools".
// There are none without the group.
func (c *Client) Served(ctx context.Context, groupVersion string) (map[string]bool, error) {
	var list metav1.APIResourceList
	if _, err := c.Lookup(ctx, &list, "/apis/"+groupVersion); err != nil {
		return nil, err
	}
	served := map[string]bool{}
	for _, resource := range list.APIResources {
		served[resource.Name] = true
	}
	return served, nil
}

package controller

import (
	"context"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/aws"
	"spiderpool.dev/spiderpool/internal/cloud/cloudmetrics"
	"spiderpool.dev/spiderpool/internal/controller/cloudnetwork"
)

// clouds makes the clients of clouds, and counts their calls. AWS is the only cloud that
// the definition of SpiderCloudNetworks permits.
func clouds(calls *cloudmetrics.Metrics) cloudnetwork.Providers {
	return func(ctx context.Context, name v2beta1.CloudProvider, region string) (cloud.Provider, error) {
		provider, err := aws.New(ctx, region)
		if err != nil {
			return nil, err
		}
		return calls.Measure(string(name), provider), nil
	}
}

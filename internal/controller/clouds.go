package controller

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/alibaba"
	"spiderpool.dev/spiderpool/internal/cloud/aws"
	"spiderpool.dev/spiderpool/internal/cloud/cloudmetrics"
	"spiderpool.dev/spiderpool/internal/cloud/iaas"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/controller/cloudnetwork"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
)

// clouds makes the clients of clouds, and counts their calls. live must read Secrets from the
// API server.
func clouds(service config.IaaS, live client.Reader, calls *cloudmetrics.Metrics) cloudnetwork.Providers {
	return func(ctx context.Context, name v2beta1.CloudProvider, region string) (cloud.Provider, error) {
		provider, err := open(ctx, service, live, name, region)
		if err != nil {
			return nil, err
		}
		return calls.Measure(string(name), provider), nil
	}
}

// cloudOptions returns the options of the mode Manage.
func cloudOptions(holds *withhold.Withholder, live client.Reader, cfg config.Controller) cloudnetwork.Options {
	// The namespace kube-system cannot be deleted, so its UID is used as the ID of a cluster in many programs.
	cluster := func(ctx context.Context) (string, error) {
		var system corev1.Namespace
		err := live.Get(ctx, client.ObjectKey{Name: metav1.NamespaceSystem}, &system)
		return string(system.UID), err
	}
	return cloudnetwork.Options{Networks: cfg.Multus.ClusterNetwork(cfg.PodNamespace), Withholder: holds, Cluster: cluster, Live: live}
}

// open returns the client of one cloud. A service has no region.
func open(ctx context.Context, service config.IaaS, live client.Reader, name v2beta1.CloudProvider, region string) (cloud.Provider, error) {
	switch name {
	case v2beta1.CloudAWS:
		return aws.New(ctx, region)
	case v2beta1.CloudAlibaba:
		return alibaba.New(region)
	case v2beta1.CloudIaaS:
		if service.ServerURL == "" {
			return nil, errors.New("spec.provider is iaas, but the Helm value iaasNetworkProvider.serverUrl is empty; set it to the URL of the service")
		}
		options := iaas.Options{URL: service.ServerURL, Timeout: service.HTTPRequestTimeout.Duration}
		if service.TLSSecret.Name != "" {
			options.Secret = secretReader(live, types.NamespacedName(service.TLSSecret))
		}
		return iaas.New(options)
	}
	return nil, fmt.Errorf("spec.provider %q is unknown to this controller", name)
}

// secretReader returns a function that reads the files of a Secret.
func secretReader(live client.Reader, name types.NamespacedName) func(ctx context.Context) (iaas.Secret, error) {
	return func(ctx context.Context) (iaas.Secret, error) {
		var secret corev1.Secret
		if err := live.Get(ctx, name, &secret); err != nil {
			return iaas.Secret{}, err
		}
		return iaas.Secret{Certificate: secret.Data[corev1.TLSCertKey], Key: secret.Data[corev1.TLSPrivateKeyKey], Authority: secret.Data[corev1.ServiceAccountRootCAKey]}, nil
	}
}

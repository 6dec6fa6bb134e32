// Package install creates what an installation begins with and removes what
// would hang after it: the program spiderpool-init.
//
// Install creates objects that are missing and leaves existing ones as they
// are, because after the first installation they belong to the cluster's
// administrator; so it can run again at any time. It waits for what it needs
// (the custom resources, the webhooks) and says what it waits for. What the API
// server refuses for good is an error at once.
package install

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cniinstall"
	"spiderpool.dev/spiderpool/internal/config"
)

// retryInterval is the time between two attempts at a step that waits.
const retryInterval = time.Second

// Install creates the default objects of cfg with c. It returns when all exist,
// when one is refused, or, with what it waited for, when ctx or cfg.Timeout ends.
func Install(ctx context.Context, log *slog.Logger, c client.Client, cfg config.Install) error {
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Timeout, fmt.Errorf("timeout of %s (spiderpoolInit.timeout)", cfg.Timeout))
	defer cancel()

	objects, err := objects(cfg)
	if err != nil {
		return err
	}
	for _, probe := range probes() {
		if err := retry(ctx, log, "webhooks of "+describe(probe), func() error {
			return ignoreExisting(c.Create(ctx, probe.DeepCopyObject().(client.Object), client.DryRunAll))
		}); err != nil {
			return err
		}
	}
	for _, object := range objects {
		if err := create(ctx, log, c, object); err != nil {
			return err
		}
	}
	log.Info("installation is complete")
	return nil
}

// probes are objects whose creation, in a dry run, passes the webhooks.
func probes() []client.Object {
	return []client.Object{&v2beta1.SpiderReservedIP{
		ObjectMeta: metav1.ObjectMeta{Name: "spiderpool-init-probe"},
		// RFC 5737 keeps this address out of all networks.
		Spec: v2beta1.SpiderReservedIPSpec{IPs: []string{"192.0.2.1"}},
	}}
}

// objects are the objects that an installation begins with, in the order of
// their creation.
func objects(cfg config.Install) ([]client.Object, error) {
	var list []client.Object
	if cfg.InstallMultus {
		name, err := attachmentName(cfg)
		if err != nil {
			return nil, err
		}
		list = append(list, &nadv1.NetworkAttachmentDefinition{
			ObjectMeta: objectMeta(cfg.PodNamespace, name),
		})
	}
	if cfg.Coordinator.Enabled {
		list = append(list, &v2beta1.SpiderCoordinator{
			ObjectMeta: objectMeta("", cfg.Coordinator.Name),
			Spec:       cfg.Coordinator.Spec,
		})
	}
	for _, pool := range cfg.DefaultPools {
		list = append(list, defaultPool(cfg, pool)...)
	}
	return list, nil
}

func objectMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{v2beta1.LabelManagedBy: v2beta1.ManagedByInit}}
}

// defaultPool is a SpiderIPPool and, before it, the SpiderSubnet that it belongs to.
func defaultPool(cfg config.Install, p config.DefaultPool) []client.Object {
	var list []client.Object
	version := int64(p.IPVersion)
	var gateway *string
	if p.Gateway != "" {
		gateway = &p.Gateway
	}
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: objectMeta("", p.Name),
		Spec: v2beta1.SpiderIPPoolSpec{
			IPVersion: &version, Subnet: p.Subnet, IPs: p.IPRanges, Gateway: gateway, Default: new(true),
		},
	}
	if p.SubnetName != "" && cfg.SpiderSubnet.Enable {
		list = append(list, &v2beta1.SpiderSubnet{
			ObjectMeta: objectMeta("", p.SubnetName),
			Spec: v2beta1.SpiderSubnetSpec{
				IPVersion: &version, Subnet: p.Subnet, IPs: p.IPRanges, Gateway: gateway,
			},
		})
	}
	return append(list, pool)
}

// attachmentName is the name of the default NetworkAttachmentDefinition: as
// configured, or the network of the first CNI configuration on this node, or
// "default". The object is created empty: Multus then takes the node's CNI
// configuration of that name, so that configurations which differ between nodes
// stay right, until a SpiderMultusConfig of that name fills it.
func attachmentName(cfg config.Install) (string, error) {
	if cfg.DefaultCNICRName != "" {
		return cfg.DefaultCNICRName, nil
	}
	name, err := cniinstall.FirstNetwork(cfg.CNIConfDir)
	if err != nil {
		return "", err
	}
	if name == "" {
		return cniinstall.FallbackNetwork, nil
	}
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		return "", fmt.Errorf("the first CNI configuration in %s is called %q, which cannot be the name of a NetworkAttachmentDefinition: set multus.multusCNI.defaultCniCRName", cfg.CNIConfDir, name)
	}
	return name, nil
}

// create creates object unless it exists.
func create(ctx context.Context, log *slog.Logger, c client.Client, object client.Object) error {
	name := describe(object)
	return retry(ctx, log, name, func() error {
		// A creation would be judged before it is found to exist, and the values of
		// a later installation need not suit the cluster any more.
		err := c.Get(ctx, client.ObjectKeyFromObject(object), object.DeepCopyObject().(client.Object))
		if apierrors.IsNotFound(err) {
			if err = c.Create(ctx, object.DeepCopyObject().(client.Object)); err == nil {
				log.Info("created", "object", name)
				return nil
			}
		}
		if err == nil || apierrors.IsAlreadyExists(err) {
			log.Info("exists and is left as it is", "object", name)
			return nil
		}
		return err
	})
}

func ignoreExisting(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func describe(object client.Object) string {
	kind := strings.TrimPrefix(fmt.Sprintf("%T", object), "*")
	kind = kind[strings.LastIndex(kind, ".")+1:]
	if object.GetNamespace() == "" {
		return kind + " " + object.GetName()
	}
	return kind + " " + object.GetNamespace() + "/" + object.GetName()
}

// retry calls attempt until it succeeds or fails for good. It says what it
// waits for when it begins to and whenever the reason changes.
func retry(ctx context.Context, log *slog.Logger, what string, attempt func() error) error {
	var reason string
	for {
		err := attempt()
		if err == nil {
			return nil
		}
		if why := waitReason(err); why == "" {
			return fmt.Errorf("%s: %w", what, err)
		} else if why != reason {
			log.Info("waiting", "for", what, "because", why, "last", err)
			reason = why
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s, because %s, until the %w: %w", what, reason, context.Cause(ctx), err)
		case <-time.After(retryInterval):
		}
	}
}

// webhookUnavailable matches what the API server says when a webhook does not
// answer, in contrast to a webhook that refuses.
var webhookUnavailable = regexp.MustCompile(`failed calling webhook "([^"]+)"`)

// waitReason says why err may go away by itself; empty when it will not.
func waitReason(err error) string {
	if hook := webhookUnavailable.FindStringSubmatch(err.Error()); hook != nil {
		return "the webhook " + hook[1] + " does not answer yet"
	}
	var status apierrors.APIStatus
	switch {
	case meta.IsNoMatchError(err), isNotFoundKind(err):
		return "its kind is not served yet"
	case apierrors.IsForbidden(err) && !strings.Contains(err.Error(), "denied the request"):
		// The API server learns of new permissions a moment after they are created.
		return "it is not permitted yet"
	case apierrors.IsTooManyRequests(err), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err),
		apierrors.IsServiceUnavailable(err), apierrors.IsInternalError(err):
		return "the API server cannot do it now"
	case !errors.As(err, &status):
		// Everything without a status from the API server is trouble on the way to it.
		return "the API server does not answer"
	}
	return ""
}

// isNotFoundKind tells a kind that does not exist from an object that does not:
// the API server answers a request for the former without details.
func isNotFoundKind(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details == nil || details.Name == ""
}

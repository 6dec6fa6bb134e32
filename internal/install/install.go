// Package install is the program spiderpool-init: it creates the default objects of
// an installation, and cleans up before and after an uninstallation.
//
// Install creates missing objects and never changes existing ones: after the first
// installation they belong to the cluster's administrator. So you can run it again at
// any time. It waits until the custom resources and the webhooks are available, and
// logs the reason. It fails at once if the API server rejects an object for good.
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

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cniinstall"
	"spiderpool.dev/spiderpool/internal/config"
)

// retryInterval is the time between two attempts at one step.
const retryInterval = time.Second

// Install creates the default objects of cfg. It returns nil when all exist, and an
// error when the API server rejects one or when ctx or cfg.Timeout ends.
func Install(ctx context.Context, log *slog.Logger, c client.Client, cfg config.Install) error {
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Timeout, fmt.Errorf("timeout of %s (spiderpoolInit.timeout)", cfg.Timeout))
	defer cancel()

	objects, err := objects(cfg)
	if err != nil {
		return err
	}
	if err := refuseTakeover(ctx, log, c); err != nil {
		return err
	}
	if err := unmark(ctx, log, c, cfg.PodNamespace); err != nil {
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

// probes returns objects for dry-run creations, which succeed once the webhooks are
// available.
func probes() []client.Object {
	return []client.Object{&v2beta1.SpiderReservedIP{
		ObjectMeta: metav1.ObjectMeta{Name: "spiderpool-init-probe"},
		// TEST-NET-1 of RFC 5737: no network uses this address.
		Spec: v2beta1.SpiderReservedIPSpec{IPs: []string{"192.0.2.1"}},
	}}
}

// objects returns the default objects in the order of their creation.
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
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{names.LabelManagedBy: names.ManagedByInit}}
}

// defaultPool returns a SpiderIPPool, after its SpiderSubnet if it has one.
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
			AddressSpace: v2beta1.AddressSpace{IPVersion: &version, Subnet: p.Subnet, IPs: p.IPRanges, Gateway: gateway},
			Default:      new(true),
		},
	}
	if p.SubnetName != "" && cfg.SpiderSubnet.Enable {
		list = append(list, &v2beta1.SpiderSubnet{
			ObjectMeta: objectMeta("", p.SubnetName),
			Spec: v2beta1.SpiderSubnetSpec{
				AddressSpace: v2beta1.AddressSpace{IPVersion: &version, Subnet: p.Subnet, IPs: p.IPRanges, Gateway: gateway},
			},
		})
	}
	return append(list, pool)
}

// attachmentName returns the name of the default NetworkAttachmentDefinition: the
// configured one, or the network of the first CNI configuration on this node, or
// "default". We create the object without a configuration, so that Multus reads the
// CNI configuration of that name on each node, which may differ between nodes. A
// SpiderMultusConfig of that name fills the object later.
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
		return "", fmt.Errorf("the first CNI configuration in %s has the name %q, which is not a valid name of a NetworkAttachmentDefinition: set multus.multusCNI.defaultCniCRName", cfg.CNIConfDir, name)
	}
	return name, nil
}

// create creates object unless it exists.
func create(ctx context.Context, log *slog.Logger, c client.Client, object client.Object) error {
	name := describe(object)
	return retry(ctx, log, name, func() error {
		// Look first: the API server validates a new object before it finds that the
		// object exists, and the values of a later installation may be invalid by then.
		err := c.Get(ctx, client.ObjectKeyFromObject(object), object.DeepCopyObject().(client.Object))
		if apierrors.IsNotFound(err) {
			if err = c.Create(ctx, object.DeepCopyObject().(client.Object)); err == nil {
				log.Info("created", "object", name)
				return nil
			}
		}
		if err == nil || apierrors.IsAlreadyExists(err) {
			log.Info("exists, unchanged", "object", name)
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

// retry calls attempt until it succeeds or fails for good. It logs the reason for
// waiting once, and again when the reason changes.
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
			return fmt.Errorf("gave up waiting for %s (%s) after the %w: %w", what, reason, context.Cause(ctx), err)
		case <-time.After(retryInterval):
		}
	}
}

// webhookUnavailable matches the API server's error for an unavailable webhook, not
// for a rejection by a webhook.
var webhookUnavailable = regexp.MustCompile(`failed calling webhook "([^"]+)"`)

// waitReason returns why a retry may succeed, or "" if it cannot.
func waitReason(err error) string {
	if hook := webhookUnavailable.FindStringSubmatch(err.Error()); hook != nil {
		return "webhook " + hook[1] + " is not available yet"
	}
	var status apierrors.APIStatus
	var more unfinished
	switch {
	case errors.As(err, &more):
		return string(more)
	case meta.IsNoMatchError(err), isNotFoundKind(err):
		return "the API server does not serve its kind yet"
	case apierrors.IsForbidden(err) && !strings.Contains(err.Error(), "denied the request"):
		// The API server applies new RBAC rules a moment after their creation.
		return "RBAC does not permit it yet"
	case apierrors.IsTooManyRequests(err), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err),
		apierrors.IsServiceUnavailable(err), apierrors.IsInternalError(err):
		return "the API server is overloaded or starting"
	case !errors.As(err, &status):
		// An error without a status comes from the network.
		return "the API server is unreachable"
	}
	return ""
}

// isNotFoundKind reports whether the kind is missing, not the object: only for a
// missing object does the API server return details.
func isNotFoundKind(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details == nil || details.Name == ""
}

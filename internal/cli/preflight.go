package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/version"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/view"
)

func newPreflight(now func() time.Time) *cobra.Command {
	o := viewOptions{now: now}
	cmd := &cobra.Command{
		Use:   "preflight",
		Short: "Check whether Spiderpool can be installed in a cluster",
		Long: `Check whether this release of Spiderpool can be installed in a cluster: the version of
Kubernetes, pods of another Spiderpool release, Multus, the definitions of policies, the networks
of services, and the systems, kernels and container runtimes of the nodes. It changes nothing, and
needs the rights of an administrator of the cluster. The exit code is 1 if a check fails. The
agent checks the modules of the kernel after the installation: spiderpoolctl node.`,
		Example: `  spiderpoolctl preflight --kubeconfig admin.conf

  # the warnings and failures, for a script
  spiderpoolctl preflight -o json | jq -r '.checks[] | select(.verdict != "OK") | .finding'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				target, err := readTarget(ctx, r)
				if apierrors.IsForbidden(err) {
					return answer{}, fmt.Errorf("%s: run the command as an administrator of the cluster", err.Error())
				}
				if err != nil {
					return answer{}, err
				}
				report := target.Preflight()
				return reportAnswer(report, "Spiderpool can be installed.", "Spiderpool cannot be installed."), foundIn(report, nil)
			})
		},
	}
	o.flags(cmd)
	formatFlag(cmd, &o.format, "table", "json", "yaml")
	return cmd
}

// readTarget reads the facts about a cluster. Kinds that it does not serve have no objects.
func readTarget(ctx context.Context, r reader) (*view.Target, error) {
	t := &view.Target{Release: config.Version}
	var group errgroup.Group
	group.Go(func() error {
		var info version.Info
		_, err := r.Lookup(ctx, &info, "/version")
		t.Kubernetes = info.GitVersion
		return err
	})
	group.Go(func() error { return r.EachNode(ctx, func(node *corev1.Node) { t.Nodes = append(t.Nodes, node) }) })
	group.Go(func() (err error) { t.Definitions, err = readDefinitions(ctx, r); return err })
	group.Go(func() (err error) {
		if t.Pools, err = r.AllPools(ctx); agentclient.IsMissingKind(err) {
			return nil
		}
		return err
	})
	group.Go(func() error {
		var page v2beta1.SpiderIPBlockList
		_, err := r.Lookup(ctx, &page, "/apis/"+v2beta1.GroupVersion.String()+"/spideripblocks", "limit", "1")
		t.Blocks = len(page.Items) > 0
		return err
	})
	group.Go(func() (err error) { t.Multus, err = readMultus(ctx, r); return err })
	group.Go(func() error {
		served, err := r.Served(ctx, "policy.networking.k8s.io/v1beta1")
		t.Policies = served["clusternetworkpolicies"]
		return err
	})
	group.Go(func() error {
		served, err := r.Served(ctx, "k8s.cni.cncf.io/v1beta1")
		t.MultiPolicies = served["multi-networkpolicies"]
		return err
	})
	group.Go(func() (err error) { t.ServiceNetworks, t.ServiceSource, err = readServiceNetworks(ctx, r); return err })
	return t, group.Wait()
}

// readServiceNetworks reads the networks of ClusterIPs, and their source.
func readServiceNetworks(ctx context.Context, r reader) (networks []string, source string, err error) {
	var list networkingv1.ServiceCIDRList
	if _, err := r.Lookup(ctx, &list, "/apis/networking.k8s.io/v1/servicecidrs"); err != nil {
		return nil, "", err
	}
	for i := range list.Items {
		networks = append(networks, list.Items[i].Spec.CIDRs...)
	}
	if len(networks) > 0 {
		return networks, "ServiceCIDR objects", nil
	}
	text, err := r.ReadConfigMap(ctx, "kube-system", "kubeadm-config", "ClusterConfiguration")
	if apierrors.IsNotFound(err) {
		return nil, "", nil
	}
	var cluster struct {
		Networking struct {
			ServiceSubnet string `json:"serviceSubnet"`
		} `json:"networking"`
	}
	if err == nil {
		err = yaml.Unmarshal([]byte(text), &cluster)
	}
	return strings.FieldsFunc(cluster.Networking.ServiceSubnet, func(c rune) bool { return c == ',' || c == ' ' }), "ConfigMap kube-system/kubeadm-config", err
}

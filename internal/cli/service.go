package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/process"
	"spiderpool.dev/spiderpool/internal/service"
)

// nodeVariable is the variable of the agent's container that names its node.
const nodeVariable = "SPIDERPOOL_NODE_NAME"

// serviceOptions are the flags of all service commands.
type serviceOptions struct {
	viewOptions
	node string
}

func newService(now func() time.Time) *cobra.Command {
	o := serviceOptions{viewOptions: viewOptions{now: now}}
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Show where connections to services go, and why",
		Long: `Show where connections to service addresses go from pods on a node, and why. The
commands read Services, EndpointSlices and the node from the API server, and apply
the rules of kube-proxy. They change nothing.`,
	}
	o.flags(cmd)
	cmd.PersistentFlags().StringVar(&o.node, "node", os.Getenv(nodeVariable), "node of the clients; in an agent, its own")
	cmd.AddCommand(newServiceList(&o), newServiceExplain(&o), newServiceWatch(&o))
	return cmd
}

func (o *serviceOptions) checkNode() error {
	if o.node == "" {
		return errors.New("--node: name the node of the clients, e.g. --node worker-1")
	}
	return nil
}

func newServiceList(o *serviceOptions) *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the frontends of all services, with their backends",
		Long: `List the frontends of all services for clients on a node: cluster IPs, the node's own
node ports, load balancers and external IPs, with the backends of each. Instead of
backends, a row says why connections are refused, why the frontend is left to the
node ("pass"), or which other service has the frontend ("other").`,
		Example: `  # in the agent of the node
  kubectl -n kube-system exec spiderpool-agent-x7k2p -- spiderpoolctl service list

  # elsewhere, for one namespace
  spiderpoolctl service list --node worker-1 --namespace default`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.checkNode(); err != nil {
				return err
			}
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				cluster, err := readCluster(ctx, r, o.node, service.Name{})
				if err != nil {
					return answer{}, err
				}
				return frontendsAnswer(cluster.list(namespace)), nil
			})
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "list the services of this namespace only")
	formatFlag(cmd, &o.format)
	return cmd
}

func newServiceExplain(o *serviceOptions) *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "explain NAMESPACE/NAME",
		Short: "Explain where connections to a service go, and why",
		Long: `Explain where connections to a service go from a pod or from a node: each frontend, each
endpoint, and the reason why an endpoint gets no connections.`,
		Example: `  # from a pod
  spiderpoolctl service explain default/web --from shop/client-6d4cf56db6-x7k2p

  # from the pods of a node
  spiderpoolctl service explain default/web --node worker-1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			namespace, object, ok := strings.Cut(args[0], "/")
			if !ok || namespace == "" || object == "" {
				return fmt.Errorf("service %q: write NAMESPACE/NAME, e.g. default/web", args[0])
			}
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				return o.explain(ctx, r, service.Name{Namespace: namespace, Name: object}, from)
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "client pod, as NAME or NAMESPACE/NAME; NAME is in the namespace of the service")
	formatFlag(cmd, &o.format)
	return cmd
}

func (o *serviceOptions) explain(ctx context.Context, r reader, name service.Name, from string) (answer, error) {
	node, clients := o.node, "pods on node "+o.node
	if from != "" {
		pod, err := readClient(ctx, r, name.Namespace, from)
		if err != nil {
			return answer{}, err
		}
		node, clients = pod.Spec.NodeName, fmt.Sprintf("pod %s/%s on node %s", pod.Namespace, pod.Name, pod.Spec.NodeName)
		if pod.Spec.HostNetwork {
			return explainedAnswer(explanation{Service: name.String(), Clients: clients, Notes: []string{
				fmt.Sprintf("Pod %s/%s uses the network of its node %s. kube-proxy translates its connections, not Spiderpool.", pod.Namespace, pod.Name, pod.Spec.NodeName),
			}}), nil
		}
	} else if err := o.checkNode(); err != nil {
		return answer{}, err
	}
	cluster, err := readCluster(ctx, r, node, name)
	if err != nil {
		return answer{}, err
	}
	explained, err := cluster.explain(name, clients)
	return explainedAnswer(explained), err
}

// readClient reads the pod of a client.
func readClient(ctx context.Context, r reader, namespace, name string) (*corev1.Pod, error) {
	if before, after, ok := strings.Cut(name, "/"); ok {
		namespace, name = before, after
	}
	pod, err := r.ReadPod(ctx, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("--from: there is no pod %s/%s: kubectl get pods -n %s prints all names", namespace, name, namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	if pod.Spec.NodeName == "" {
		return nil, fmt.Errorf("--from: pod %s/%s is on no node yet; name the node of the clients with --node", namespace, name)
	}
	return pod, nil
}

func newServiceWatch(o *serviceOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "watch",
		Short: "Print the translations of all services, then each change",
		Long: `Print the frontends and the sets of backends for pods on a node, then each change: "+"
for a new or changed entry, "-" for a deleted one. End the command with Ctrl-C.`,
		Example: `  spiderpoolctl service watch --node worker-1
  + set 1 slot 0 10.6.0.21:8080
  + 10.96.0.20:80/TCP set 1 count 1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.checkNode(); err != nil {
				return err
			}
			r, err := o.connect()
			if err != nil {
				return err
			}
			if _, err := readKnownNode(cmd.Context(), r, o.node); err != nil {
				return withRemedy(err, r.server)
			}
			log := process.NewEnv(cmd.ErrOrStderr(), os.Getenv).Log
			s := agentclient.NewServiceSync(r.Client, o.node, nil, printer{cmd}, nil, log)
			s.ExternalIPs = translatesExternalIPs()
			s.Run(cmd.Context())
			return nil
		},
	}
}

// printer prints entries as text, and no ages. It implements agentclient.ServiceSink.
type printer struct{ cmd *cobra.Command }

func (p printer) Replace(all service.Diff) error { return p.Change(all) }

func (p printer) Change(changes service.Diff) error {
	_, err := fmt.Fprint(p.cmd.OutOrStdout(), changes)
	return err
}

func (p printer) Applied(agentclient.EventAge) {}

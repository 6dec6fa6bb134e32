package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

func newPolicy(now func() time.Time) *cobra.Command {
	o := viewOptions{now: now}
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Show which traffic network policies allow, and why",
		Long: `Show which traffic NetworkPolicies, ClusterNetworkPolicies and MultiNetworkPolicies allow,
and why. The commands read policies, pods and namespaces from the API server, and apply the
rules of Kubernetes. They change nothing. The verdicts hold where
the policies are enforced: by Spiderpool, or by the network plugin of the interface.`,
	}
	o.flags(cmd)
	cmd.AddCommand(newPolicyShow(&o), newPolicyTrace(&o), newPolicyDiff(&o))
	return cmd
}

func newPolicyShow(o *viewOptions) *cobra.Command {
	var only string
	cmd := &cobra.Command{
		Use:   "show NAMESPACE/POD",
		Short: "Show what may reach a pod, and what the pod may reach",
		Long: `Show what may reach a pod, and what the pod may reach: for each interface, the policies that
isolate it, and for each rule the peers with their present addresses and ports.`,
		Example: `  spiderpoolctl policy show default/web-0`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := podName(args[0])
			if err != nil {
				return err
			}
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				policies, err := readPolicies(ctx, r, []lease.PodKey{{Namespace: name.Namespace, Name: name.Name}})
				if err != nil {
					return answer{}, err
				}
				shown, err := policies.show(name, only)
				return podPolicyAnswer(shown), err
			})
		},
	}
	cmd.Flags().StringVar(&only, "interface", "", "show one interface only, e.g. net1")
	formatFlag(cmd, &o.format)
	return cmd
}

func newPolicyTrace(o *viewOptions) *cobra.Command {
	var from, to, protocol, at string
	cmd := &cobra.Command{
		Use:   "trace --from POD|ADDRESS --to POD:PORT|ADDRESS:PORT",
		Short: "Judge a connection, and name the rule that decides",
		Long: `Judge a connection, and name the policy and the rule that decide at each end: egress at
the source, ingress at the destination. Write a pod as NAMESPACE/NAME. Policies see the
address of a pod behind a service, not that of the service, so name the pod. A pod stands
for its address on eth0 unless --interface names another interface. For two different
interfaces, write addresses.`,
		Example: `  # between two pods
  spiderpoolctl policy trace --from shop/client --to shop/web-0:8080

  # between the interfaces net1 of two pods
  spiderpoolctl policy trace --from shop/client --to shop/web-0:8080 --interface net1

  # from outside, to an address
  spiderpoolctl policy trace --from 192.0.2.10 --to [fd00:6::1]:53 --protocol UDP`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asked, err := parseQuestion(from, to, protocol)
			if err != nil {
				return err
			}
			asked.at = at
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				pods, err := asked.pods(ctx, r)
				if err != nil {
					return answer{}, err
				}
				policies, err := readPolicies(ctx, r, pods)
				if err != nil {
					return answer{}, err
				}
				traces, err := policies.trace(asked)
				return tracesAnswer(traces), err
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "source: a pod or an address, e.g. shop/client")
	cmd.Flags().StringVar(&to, "to", "", "destination: a pod or an address, with a port, e.g. shop/web-0:8080")
	cmd.Flags().StringVar(&at, "interface", "", "interface of the pods, e.g. net1; empty for eth0")
	cmd.Flags().StringVar(&protocol, "protocol", "TCP", "protocol: TCP, UDP or SCTP")
	formatFlag(cmd, &o.format, "table", "json", "yaml")
	return cmd
}

func newPolicyDiff(o *viewOptions) *cobra.Command {
	var file, namespace string
	cmd := &cobra.Command{
		Use:   "diff --file FILE",
		Short: "Show which traffic a new or changed policy would allow or deny",
		Long: `Show which traffic the policies in a file would allow ("+") or deny ("-") besides those in
the cluster, pod by pod, before you apply them. The file has NetworkPolicies,
MultiNetworkPolicies and ClusterNetworkPolicies. A policy in the file replaces the one with
its name. Behind the name of the pod is that of an interface other than eth0.`,
		Example: `  spiderpoolctl policy diff --file deny.yaml
  shop/web-0
    - ingress open
    + ingress isolated
    + ingress TCP 8080 10.6.0.2, 10.6.0.7`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			content, err := readFile(cmd, file)
			if err != nil {
				return err
			}
			changed, err := parsePolicies(content, namespace)
			if err != nil {
				return fmt.Errorf("--file %s: %w", file, err)
			}
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				policies, err := readPolicies(ctx, r, nil)
				if err != nil {
					return answer{}, err
				}
				return policyDiffAnswer(policies.diff(changed)), nil
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "YAML file with policies; - for the standard input")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of policies without one")
	formatFlag(cmd, &o.format, "table", "json", "yaml", "name")
	return cmd
}

func readFile(cmd *cobra.Command, file string) ([]byte, error) {
	switch file {
	case "":
		return nil, errors.New("--file: name a YAML file with policies, or - for the standard input")
	case "-":
		return io.ReadAll(cmd.InOrStdin())
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--file: %w: name a YAML file with policies, or - for the standard input", err)
	}
	return content, nil
}

func podName(text string) (policy.Name, error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" {
		return policy.Name{}, fmt.Errorf("pod %q: write NAMESPACE/NAME, e.g. default/web-0", text)
	}
	return policy.Name{Namespace: namespace, Name: name}, nil
}

// end is one end of a connection: a pod or an address.
type end struct {
	pod  policy.Name
	addr netip.Addr
}

// question is a connection to judge.
type question struct {
	from, to end
	protocol service.Protocol
	port     uint16
	// at is the interface of the ends that are pods, empty for the default one.
	at string
}

// pods returns the pods at both ends, also those that have the addresses. It is never nil.
func (q question) pods(ctx context.Context, r reader) ([]lease.PodKey, error) {
	pods := []lease.PodKey{}
	for _, e := range []end{q.from, q.to} {
		if !e.addr.IsValid() {
			pods = append(pods, lease.PodKey{Namespace: e.pod.Namespace, Name: e.pod.Name})
			continue
		}
		l, err := r.leaseOf(ctx, e.addr)
		if err != nil {
			return nil, err
		}
		if l.State == lease.InUse {
			pods = append(pods, l.Pod)
		}
	}
	return pods, nil
}

func parseQuestion(from, to, protocol string) (q question, err error) {
	if from == "" || to == "" {
		return q, fmt.Errorf("--from %q, --to %q: name a source and a destination, e.g. --from shop/client --to shop/web-0:8080", from, to)
	}
	protocols := map[string]service.Protocol{"TCP": service.TCP, "UDP": service.UDP, "SCTP": service.SCTP}
	if q.protocol = protocols[strings.ToUpper(protocol)]; q.protocol == 0 {
		return q, fmt.Errorf("--protocol %q: write TCP, UDP or SCTP", protocol)
	}
	if q.from, err = parseEnd(from); err != nil {
		return q, fmt.Errorf("--from: %w", err)
	}
	at := strings.LastIndex(to, ":")
	number, err := strconv.ParseUint(to[at+1:], 10, 16)
	if at < 0 || err != nil || number == 0 {
		return q, fmt.Errorf("--to %q: write a port from 1 to 65535 behind the destination, e.g. shop/web-0:8080 or [fd00::1]:8080", to)
	}
	q.port = uint16(number)
	if q.to, err = parseEnd(to[:at]); err != nil {
		return q, fmt.Errorf("--to: %w", err)
	}
	return q, nil
}

func parseEnd(text string) (end, error) {
	bare, isBracketed := strings.CutPrefix(text, "[")
	if isBracketed {
		bare = strings.TrimSuffix(bare, "]")
	}
	if addr, err := netip.ParseAddr(bare); err == nil {
		return end{addr: addr.Unmap()}, nil
	}
	name, err := podName(text)
	return end{pod: name}, err
}

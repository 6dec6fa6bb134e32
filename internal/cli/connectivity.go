package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/reach"
)

// probePort is the default port of the servers of a connectivity test, also on the nodes.
// It differs from those of the chart: on a node, the console may have 5730 and 5731.
const probePort = 5732

func newConnectivity(now func() time.Time) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connectivity",
		Short: "Test the paths of packets between pods, nodes and services",
	}
	cmd.AddCommand(newConnectivityTest(now), newConnectivityServe(), newConnectivityProbe())
	return cmd
}

func newConnectivityTest(now func() time.Time) *cobra.Command {
	o := connectivityOptions{now: now}
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Test every path with pods of its own, and name the cause of each failure",
		Long: `Test every path of packets with pods of its own, and name the cause of each failure. The
command creates a namespace with two pods on each node and one in the network of the node. They
ask each other, the nodes, ClusterIPs, NodePorts, gateways, the DNS and the API server, by IPv4
and IPv6, over each interface. In the end the command deletes the namespace, also after Ctrl-C.
It needs the rights to create namespaces, pods and Services, to run programs in these pods, and
those of the ClusterRole spiderpool-reader. With the right to run programs in the agents, it
also finds more causes. The exit code is 1 if a path fails.`,
		Example: `  spiderpoolctl connectivity test

  # pods with two interfaces, on two nodes
  spiderpoolctl connectivity test --attachment kube-system/lan --attachment kube-system/storage --node worker-1 --node worker-2

  # keep the pods, and test them again after a change
  spiderpoolctl connectivity test --keep
  spiderpoolctl connectivity test --namespace spiderpool-connectivity-x7k2p --keep`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file; empty for KUBECONFIG, ~/.kube/config or the pod's service account")
	f.StringArrayVar(&o.networks, "attachment", nil, "NetworkAttachmentDefinition of the pods, as NAMESPACE/NAME; repeat it for further interfaces. Empty for the default network of the cluster")
	f.StringArrayVar(&o.nodes, "node", nil, "node to test; repeat it for several. Empty for the first 8 that are ready")
	f.StringVar(&o.image, "image", "", "image with spiderpoolctl; empty for that of the agents")
	f.StringVarP(&o.namespace, "namespace", "n", "", "existing namespace for the pods, which stays. Pods of an earlier test in it are tested again. Empty to create one")
	f.StringVar(&o.system, "system-namespace", "kube-system", "namespace of Spiderpool, with the ConfigMap "+configMap)
	f.Uint16Var(&o.port, "port", probePort, "port of the pods, also on the nodes; two tests at the same time need two ports")
	f.DurationVar(&o.timeout, "timeout", 2*time.Minute, "limit for the start of the pods")
	f.BoolVar(&o.keep, "keep", false, "leave the pods, for a look and for another test")
	formatFlag(cmd, &o.format)
	return cmd
}

func newConnectivityServe() *cobra.Command {
	var name string
	var port uint16
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Answer the probes of a connectivity test",
		Long: `Answer the probes of a connectivity test by TCP and UDP, with a name and the address of the
client. The pods of the test run this command.`,
		Example: `  spiderpoolctl connectivity serve --name last-0`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkSystem(cmd, runtime.GOOS); err != nil {
				return err
			}
			return serveProbes(cmd.Context(), name, port)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name to answer with")
	cmd.Flags().Uint16Var(&port, "port", probePort, "port to listen on")
	return cmd
}

func newConnectivityProbe() *cobra.Command {
	return &cobra.Command{
		Use:   "probe",
		Short: "Ask the questions of a connectivity test",
		Long: `Ask the questions on the standard input, and print the answers and the state of the network
namespace, both as JSON. connectivity test runs this command in its pods.`,
		Example: `  echo '{"questions":[{"kind":"connect","to":"10.96.0.1:443"}]}' | spiderpoolctl connectivity probe`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkSystem(cmd, runtime.GOOS); err != nil {
				return err
			}
			var request reach.Request
			if err := json.NewDecoder(cmd.InOrStdin()).Decode(&request); err != nil {
				return fmt.Errorf("standard input: %w: write e.g. {\"questions\":[{\"kind\":\"connect\",\"to\":\"10.96.0.1:443\"}]}", err)
			}
			reply, err := askProbes(cmd.Context(), request)
			if err != nil {
				return err
			}
			var text bytes.Buffer
			if err := json.NewEncoder(&text).Encode(reply); err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text.Bytes())
			return err
		},
	}
}

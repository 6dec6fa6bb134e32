package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/process/httpserver"
)

// observeOptions are the flags of observe besides the filters.
type observeOptions struct {
	server, certDir, serverName string
	output                      string
	last, first                 uint64
	since, until                string
	follow                      bool
	now                         func() time.Time
	filters                     flowFilters
}

func newObserve(now func() time.Time) *cobra.Command {
	o := observeOptions{now: now}
	cmd := &cobra.Command{
		Use:   "observe",
		Short: "Show the connections of this node's pods",
		Long: `Show the connections of the pods of this node: what opened, ended or was dropped, and why.
The command asks the agent of the node through its unix socket, which only root may use.
With --server and a client certificate, it asks another agent or hubble-relay.

The filters are those of the hubble command. A flow must match all flags; of the values of
one flag, one is enough. --pod, --ip, --label, --namespace, --port, --service and --workload concern
either end, and all of them the same one. Agents keep the last 4095 flows of their node,
unless observability.flows says otherwise.`,
		Example: `  # in the agent of the node
  kubectl -n kube-system exec spiderpool-agent-x7k2p -- spiderpoolctl observe --pod default/nginx --follow

  # the dropped packets of the last five minutes, as JSON
  spiderpoolctl observe --verdict DROPPED --since 5m --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&o.server, "server", "", "server: unix:///PATH or HOST:PORT; empty for the socket of this node's agent")
	f.StringVar(&o.certDir, "tls-dir", "", "directory with the client certificate tls.crt and tls.key, and with ca.crt of the server; for HOST:PORT")
	f.StringVar(&o.serverName, "tls-server-name", "", "name in the certificate of the server; empty for HOST")
	f.StringVarP(&o.output, "output", "o", "line", "output format: line, or json with one object per line as in hubble's API")
	f.Uint64Var(&o.last, "last", 0, "show the last flows, so many; 20 unless --first, --since, --until or --follow is given")
	f.Uint64Var(&o.first, "first", 0, "show the first flows that the agent still has, so many")
	f.StringVar(&o.since, "since", "", "show flows since a time, e.g. 2026-11-29T12:00:00Z, or for a duration, e.g. 5m")
	f.StringVar(&o.until, "until", "", "show flows until a time, written like --since")
	f.BoolVarP(&o.follow, "follow", "f", false, "show new flows until the command is interrupted")
	o.filters.flags(cmd)
	cmd.MarkFlagsMutuallyExclusive("last", "first")
	cmd.MarkFlagsMutuallyExclusive("first", "follow")
	return cmd
}

func (o *observeOptions) run(cmd *cobra.Command) error {
	if o.output != "line" && o.output != "json" {
		return fmt.Errorf("--output %q: write line or json", o.output)
	}
	request, err := o.request()
	if err != nil {
		return err
	}
	conn, server, err := o.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	flows, err := observerpb.NewObserverClient(conn).GetFlows(cmd.Context(), request)
	for err == nil {
		var answer *observerpb.GetFlowsResponse
		if answer, err = flows.Recv(); err == nil {
			err = o.print(cmd.OutOrStdout(), answer)
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		remedy := ""
		if s.Code() == codes.Unavailable {
			remedy = "; is it running? kubectl -n kube-system get pods -l app.kubernetes.io/name=spiderpool -o wide shows all agents and hubble-relay; name another one with --server"
		}
		return fmt.Errorf("read flows from %s: %s%s", server, s.Message(), remedy)
	}
	return err
}

// request returns the request of the flags.
func (o *observeOptions) request() (*observerpb.GetFlowsRequest, error) {
	allow, err := o.filters.build()
	if err != nil {
		return nil, err
	}
	request := &observerpb.GetFlowsRequest{Whitelist: allow, Follow: o.follow, Number: cmp.Or(o.first, o.last), First: o.first > 0}
	if request.Since, err = o.time("since", o.since); err != nil {
		return nil, err
	}
	if request.Until, err = o.time("until", o.until); err != nil {
		return nil, err
	}
	if request.Number == 0 && !o.follow && o.since == "" && o.until == "" {
		request.Number = 20
	}
	return request, nil
}

// time parses a time, or a duration before now. It returns nil for "".
func (o *observeOptions) time(flag, text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		return timestamppb.New(o.now().Add(-ago)), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, fmt.Errorf("--%s %q: write a time such as 2026-11-29T12:00:00Z, or a duration such as 5m", flag, text)
	}
	return timestamppb.New(at), nil
}

// dial connects to the server, and returns its name for errors.
func (o *observeOptions) dial() (*grpc.ClientConn, string, error) {
	server := o.server
	if server == "" {
		server = "unix://" + flowSocket()
	}
	creds := insecure.NewCredentials()
	if path, isSocket := strings.CutPrefix(server, "unix://"); isSocket {
		if _, err := os.Stat(path); err != nil {
			return nil, "", fmt.Errorf("no agent serves flows at %s (%w): set observability.enabled, run the command as root in the agent of the node, or name another agent with --server", path, err)
		}
	} else {
		if o.certDir == "" {
			return nil, "", fmt.Errorf("--server %s: agents and hubble-relay ask for a client certificate; give its directory with --tls-dir", server)
		}
		config, err := httpserver.ClientTLS(o.certDir, o.serverName)
		if err != nil {
			return nil, "", fmt.Errorf("--tls-dir %s: %w", o.certDir, err)
		}
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(creds))
	return conn, server, err
}

// flowSocket returns the socket in the configuration file of this pod, or the default one.
func flowSocket() string {
	file, err := config.Load(config.DefaultPath)
	if err != nil {
		file = config.Default()
	}
	return file.Observability.SocketPath
}

// print writes one answer as one line.
func (o *observeOptions) print(out io.Writer, answer *observerpb.GetFlowsResponse) error {
	if o.output == "json" {
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(answer)
		if err == nil {
			_, err = out.Write(append(raw, '\n'))
		}
		return err
	}
	_, err := fmt.Fprintln(out, flowLine(answer, colorsOf(out)))
	return err
}

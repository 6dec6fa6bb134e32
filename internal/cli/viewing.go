package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/restconfig"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/process"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/view"
)

// viewOptions are the flags of commands that show views.
type viewOptions struct {
	kubeconfig, format string
	timeout            time.Duration
	now                func() time.Time
}

// requestLimit is the default of --timeout.
const requestLimit = 10 * time.Second

func (o *viewOptions) flags(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file; empty for KUBECONFIG, ~/.kube/config or the pod's service account")
	cmd.PersistentFlags().DurationVar(&o.timeout, "timeout", requestLimit, "limit of each request to the API server")
}

// reader reads objects with the user's own rights.
type reader struct {
	*agentclient.Client
	server string
	// cluster reads pods, namespaces and networks. It watches nothing.
	cluster *agentclient.Cluster
}

// run connects, asks for the answer and prints it. It adds the way out to errors of the API server.
func (o *viewOptions) run(cmd *cobra.Command, ask func(ctx context.Context, r reader) (answer, error)) error {
	if err := checkFormat(cmd); err != nil {
		return err
	}
	r, err := o.connect()
	if err != nil {
		return err
	}
	found, err := ask(cmd.Context(), r)
	if err != nil && !errors.Is(err, errFound) {
		return withRemedy(err, r.server)
	}
	return errors.Join(found.print(cmd.OutOrStdout(), o.format, o.now()), err)
}

// connect returns a reader. It sends no request.
func (o *viewOptions) connect() (reader, error) {
	config, err := restconfig.Load(o.kubeconfig)
	if err != nil {
		return reader{}, err
	}
	config.Timeout = o.timeout
	client, err := agentclient.NewClient(config)
	if err != nil {
		return reader{}, err
	}
	return reader{client, config.Host, agentclient.NewCluster(client, "", process.NewEnv(io.Discard, os.Getenv).Log)}, nil
}

// withRemedy adds the way out to an error of the API server.
func withRemedy(err error, server string) error {
	var network net.Error
	var request *url.Error
	switch {
	case agentclient.IsMissingKind(err):
		return fmt.Errorf("%w: Spiderpool's custom resource definitions are not installed in this cluster: helm install spiderpool installs them; on another cluster, name it with --kubeconfig", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: ask an administrator of the cluster for the ClusterRole spiderpool-reader", err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: the API server %s does not accept the user of the kubeconfig; log in again", err, server)
	case errors.As(err, &request), errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: the API server %s does not answer; check the network and the cluster of the kubeconfig, e.g. with kubectl cluster-info, or raise --timeout", err, server)
	}
	return err
}

// wants selects the kinds of a question. Reserved addresses always come with pools.
type wants struct{ pools, endpoints, blocks bool }

// state reads the objects at the same time.
func (o *viewOptions) state(ctx context.Context, r reader, w wants) (*view.State, error) {
	var objects view.Objects
	var group errgroup.Group // a context that it cancels would make client-go log errors
	read := func(wanted bool, f func() error) {
		if wanted {
			group.Go(f)
		}
	}
	read(w.pools, func() (err error) { objects.Pools, err = r.AllPools(ctx); return err })
	read(w.pools, func() (err error) { objects.Reserved, err = r.AllReserved(ctx); return err })
	read(w.blocks, func() (err error) { objects.Blocks, err = r.AllBlocks(ctx); return err })
	read(w.endpoints, func() (err error) { objects.Endpoints, err = r.AllEndpoints(ctx); return err })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return view.NewState(objects, o.now()), nil
}

// fewEndpoints is the number of endpoints from which a whole list is cheaper than single reads.
const fewEndpoints = 100

// addEndpoints reads the endpoints of some addresses.
func (r reader) addEndpoints(ctx context.Context, state *view.State, f view.Filter) error {
	keys := state.EndpointsOf(f)
	if f.Pod != (lease.PodKey{}) {
		keys[f.Pod] = true
	}
	if len(keys) > fewEndpoints {
		all, err := r.AllEndpoints(ctx)
		state.AddEndpoints(all...)
		return err
	}
	var group errgroup.Group
	group.SetLimit(16)
	var mu sync.Mutex
	for key := range keys {
		group.Go(func() error {
			endpoint, err := r.ReadEndpoint(ctx, key.Namespace, key.Name)
			if endpoint != nil {
				mu.Lock()
				defer mu.Unlock()
				state.AddEndpoints(endpoint)
			}
			return err
		})
	}
	return group.Wait()
}

// podFacts reads facts about pods for views, and keeps the first error.
type podFacts struct {
	reader
	ctx context.Context
	err error
}

func (p *podFacts) of(key lease.PodKey) reclaim.Pod {
	if key == (lease.PodKey{}) || p.err != nil {
		return reclaim.Pod{}
	}
	pod, err := p.cluster.PodState(p.ctx, key)
	p.err = err
	return pod
}

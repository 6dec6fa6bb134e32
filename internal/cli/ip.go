package cli

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/view"
)

func newIP(now func() time.Time) *cobra.Command {
	o := viewOptions{now: now}
	cmd := &cobra.Command{
		Use:   "ip",
		Short: "Show who has an address",
	}
	o.flags(cmd)
	cmd.AddCommand(newIPWho(&o), newIPList(&o))
	return cmd
}

func newIPWho(o *viewOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "who ADDRESS|MAC",
		Short: "Show who has an address",
		Long: `Show who has an address: its pod, or why no pod can get it, and the findings about its lease.
For a MAC address, show the addresses of the interface with it, and the quarantined addresses
that a host with it answered for. Those of interfaces come from the annotation
k8s.v1.cni.cncf.io/network-status of Multus, or from SpiderEndpoints.`,
		Example: `  spiderpoolctl ip who 10.6.0.21

  # the host of a conflict
  spiderpoolctl ip who 02:42:0a:06:00:15`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if mac, err := net.ParseMAC(args[0]); err == nil {
				return o.run(cmd, func(ctx context.Context, r reader) (answer, error) { return o.withMAC(ctx, r, mac) })
			}
			addr, reason := inet.ParseAddr(args[0])
			if reason != "" {
				return fmt.Errorf("%q is neither an address nor a MAC address: write e.g. 10.6.0.21, fd00:6::15 or 02:42:0a:06:00:15", args[0])
			}
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) { return o.whoHas(ctx, r, addr) })
		},
	}
	formatFlag(cmd, &o.format)
	return cmd
}

// whoHas reads all pools and one block, and the pods and endpoints of its address.
func (o *viewOptions) whoHas(ctx context.Context, r reader, addr netip.Addr) (answer, error) {
	var objects view.Objects
	var group errgroup.Group
	group.Go(func() (err error) { objects.Pools, err = r.AllPools(ctx); return err })
	group.Go(func() (err error) { objects.Reserved, err = r.AllReserved(ctx); return err })
	group.Go(func() error {
		block, err := r.ReadBlock(ctx, inet.BlockOf(addr))
		if err != nil || block == nil {
			return err
		}
		objects.Blocks = []*v2beta1.SpiderIPBlock{block}
		objects.Endpoints, err = r.endpointsOf(ctx, block, addr)
		return err
	})
	if err := group.Wait(); err != nil {
		return answer{}, err
	}
	pods := podFacts{reader: r, ctx: ctx}
	who := view.NewState(objects, o.now()).WhoHas(addr, pods.of)
	return whoAnswer(who), pods.err
}

// endpointsOf reads the endpoints of the pods with the address.
func (r reader) endpointsOf(ctx context.Context, block *v2beta1.SpiderIPBlock, addr netip.Addr) ([]*v2beta1.SpiderEndpoint, error) {
	var endpoints []*v2beta1.SpiderEndpoint
	for _, l := range block.Spec.Leases {
		namespace, name, ok := strings.Cut(l.Pod, "/")
		if l.IP != addr.String() || !ok {
			continue
		}
		endpoint, err := r.ReadEndpoint(ctx, namespace, name)
		if err != nil {
			return nil, err
		}
		if endpoint != nil {
			endpoints = append(endpoints, endpoint)
		}
	}
	return endpoints, nil
}

// meanings are the states of an address in words.
var meanings = map[string]string{
	"InUse":              "in use",
	"Retained":           "retained for its owner",
	"Quarantined":        "quarantined",
	"Withheld":           "withheld from pods, because the controller returns it to the cloud",
	view.StateFormer:     "kept back for a former sandbox",
	view.StateFree:       "free",
	view.StateNotForPods: "not for pods",
	view.StateUnknown:    "in no pool's subnet: Spiderpool does not manage it",
}

func whoAnswer(who view.Who) answer {
	a := answer{value: who}
	for _, h := range who.Holders {
		if h.Pod != "" {
			a.names = append(a.names, "pod/"+h.Pod)
		}
	}
	a.draw = func(w drawing) {
		fmt.Fprintf(w, "%s is %s.\n", who.Addr, meanings[who.State])
		for _, h := range who.Holders {
			fmt.Fprintln(w)
			w.holder(h)
		}
		if len(who.Pools) > 0 {
			fmt.Fprintln(w)
			drawTable(w, "", who.Pools,
				column[view.PoolRole]{"POOL", false, func(r view.PoolRole) string { return r.Pool }},
				column[view.PoolRole]{"HANDS IT OUT", false, func(r view.PoolRole) string { return yesNo(r.HasIt) }},
				column[view.PoolRole]{"BECAUSE", false, func(r view.PoolRole) string { return r.Because }})
		}
		w.findings(who.Findings)
	}
	return a
}

func yesNo(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

// holder draws an address with its holder.
func (w drawing) holder(h view.Address) {
	since := ""
	if !h.Since.IsZero() {
		since = fmt.Sprintf("%s (%s)", h.Since.UTC().Format("2006-01-02 15:04:05 MST"), w.age(h.Since))
	}
	w.fields([2]string{"State", h.State}, [2]string{"Pod", h.Pod}, [2]string{"Pod UID", h.PodUID}, [2]string{"Interface", h.Interface}, [2]string{"MAC", h.MAC},
		[2]string{"Node", h.Node}, [2]string{"Workload", h.Workload}, [2]string{"Fixed for", h.FixedFor}, [2]string{"Withheld by", h.WithheldBy}, [2]string{"Pool", h.Pool},
		[2]string{"Container ID", h.ContainerID}, [2]string{"Since", since})
}

func (o *viewOptions) withMAC(ctx context.Context, r reader, mac net.HardwareAddr) (answer, error) {
	var state *view.State
	var pods []*corev1.Pod // with an interface of this address
	var group errgroup.Group
	group.Go(func() (err error) {
		state, err = o.state(ctx, r, wants{blocks: true})
		return err
	})
	group.Go(func() error {
		return r.EachPod(ctx, func(pod *corev1.Pod) {
			if strings.Contains(strings.ToLower(pod.Annotations[names.AnnotationMultusNetworkStatus]), mac.String()) {
				pods = append(pods, pod)
			}
		})
	})
	if err := group.Wait(); err != nil {
		return answer{}, err
	}
	for _, pod := range pods {
		state.AddInterfaces(pod)
		if err := r.addEndpoints(ctx, state, view.Filter{Pod: lease.PodKey{Namespace: pod.Namespace, Name: pod.Name}}); err != nil {
			return answer{}, err
		}
	}
	return addressesAnswer(state.WithMAC(mac), "No interface of a pod and no quarantined address has the MAC address "+mac.String()+"."), nil
}

func newIPList(o *viewOptions) *cobra.Command {
	var filter view.Filter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the addresses with a holder",
		Long: `List the addresses with a holder: in use by a pod, retained for the owner of a fixed address,
quarantined because a foreign host answered, withheld to return it to a cloud, or kept back for a
former sandbox. Free addresses are not listed; pool list counts them.`,
		Example: `  spiderpoolctl ip list --pool blue

  # the addresses of one node, for a script
  spiderpoolctl ip list --node worker-1 -o name`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				state, err := o.state(ctx, r, wants{blocks: true})
				if err == nil && o.format != "name" && o.format != "table" {
					err = r.addEndpoints(ctx, state, filter)
				}
				if err != nil {
					return answer{}, err
				}
				found := state.Addresses(filter)
				if len(found) == 0 {
					err = r.checkNames(ctx, filter)
				}
				return addressesAnswer(found, "No address has a holder."), err
			})
		},
	}
	cmd.Flags().StringVar(&filter.Pool, "pool", "", "only addresses of this pool")
	cmd.Flags().StringVar(&filter.Node, "node", "", "only addresses of pods on this node")
	cmd.Flags().StringVarP(&filter.Namespace, "namespace", "n", "", "only addresses of pods in this namespace")
	formatFlag(cmd, &o.format)
	return cmd
}

// checkNames returns an error for a pool, a node or a namespace that does not exist: an empty list would hide a wrong name.
func (r reader) checkNames(ctx context.Context, f view.Filter) error {
	exists := func(name, path string, unknown error) error {
		if name == "" {
			return nil
		}
		var object struct{}
		found, err := r.Lookup(ctx, &object, path)
		if err == nil && !found {
			err = unknown
		}
		return err
	}
	if err := exists(f.Pool, objectPath("spiderippool/"+f.Pool), unknownPool(f.Pool)); err != nil {
		return err
	}
	if err := exists(f.Node, "/api/v1/nodes/"+f.Node, unknownNode(f.Node)); err != nil {
		return err
	}
	return exists(f.Namespace, "/api/v1/namespaces/"+f.Namespace, unknownNamespace(f.Namespace))
}

func unknownNode(name string) error {
	return fmt.Errorf("there is no node %s: kubectl get nodes prints all names", name)
}

func unknownNamespace(name string) error {
	return fmt.Errorf("there is no namespace %s: kubectl get namespaces prints all names", name)
}

func addressesAnswer(addresses []view.Address, none string) answer {
	a := answer{value: addresses}
	for _, address := range addresses {
		a.names = append(a.names, address.Addr.String())
	}
	a.draw = func(w drawing) { w.addresses(addresses, none) }
	return a
}

// addresses draws a table of addresses.
func (w drawing) addresses(addresses []view.Address, none string) {
	text := func(head string, wide bool, cell func(view.Address) string) column[view.Address] {
		return column[view.Address]{head, wide, cell}
	}
	drawTable(w, none, addresses,
		text("ADDRESS", false, func(a view.Address) string { return a.Addr.String() }),
		text("STATE", false, func(a view.Address) string { return a.State }),
		text("POOL", false, func(a view.Address) string { return a.Pool }),
		text("HOLDER", false, func(a view.Address) string { return cmp.Or(a.Pod, a.FixedFor, a.MAC) }),
		text("INTERFACE", false, func(a view.Address) string { return a.Interface }),
		text("NODE", false, func(a view.Address) string { return a.Node }),
		text("AGE", false, func(a view.Address) string { return w.age(a.Since) }),
		text("WORKLOAD", true, func(a view.Address) string { return a.Workload }),
		text("FIXED FOR", true, func(a view.Address) string { return a.FixedFor }),
		text("MAC", true, func(a view.Address) string { return a.MAC }),
		text("CONTAINER", true, func(a view.Address) string { return a.ContainerID }))
}

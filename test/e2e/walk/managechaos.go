package walk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

// afterStorm is the number of pods that must run when the storm is over.
const afterStorm = 40

// storm ends controllers and makes the cloud slow, stale and unreliable while pods come and go.
type storm struct {
	*manage
	lasts  time.Duration
	count  struct{ kills, pauses, faults, scalings atomic.Int64 }
	before cloudState
}

// ManageStorm returns steps that end controllers with SIGKILL and make the cloud throttle, lose answers and show old states
// for some time, while pods come and go. All that time, the VPC must route each address that a pod has. The lab must be as for
// Manage.
func ManageStorm(lab *Lab, site Site, lasts time.Duration) []Step {
	s := &storm{manage: newManage(lab, site, afterStorm), lasts: lasts}
	return append(s.begin(),
		Step{"Run two controllers", true, s.twoControllers},
		Step{"Create the application", true, s.firstPods},
		Step{"Controllers die, and the cloud lies, while pods come and go", true, s.blow},
		Step{"Growth resumes by itself", true, s.resume},
		Step{"Pods reach all pods of the other node", true, s.reachMany},
		Step{"Prefixes without pods go back to the cloud", true, s.shrink},
		Step{"Cloud, pools and leases are equal", true, s.balance},
		Step{"Deleted objects release their addresses", false, s.forgetAll})
}

func (s *storm) twoControllers(ctx context.Context) error {
	return s.upgrade(ctx, "spiderpoolController.replicas=2")
}

func (s *storm) blow(ctx context.Context) (err error) {
	if _, err := s.Kubectl(ctx, "apply -f "+s.manifest("manage/30-many.yaml")); err != nil {
		return err
	}
	if s.before, err = s.cloud(ctx); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, s.lasts)
	defer cancel()
	watch := newRouteWatch(s.manage)
	group, inside := errgroup.WithContext(limited)
	group.Go(func() error { return watch.follow(inside) })
	group.Go(func() error { return watch.check(inside) })
	group.Go(func() error { return s.scale(inside, rand.New(rand.NewPCG(1, 1))) })
	group.Go(func() error { return s.endControllers(inside, rand.New(rand.NewPCG(2, 2)), watch.changed) })
	group.Go(func() error { return s.disturbCloud(inside, rand.New(rand.NewPCG(3, 3))) })
	err = group.Wait()
	if limited.Err() != nil && ctx.Err() == nil && !errors.Is(err, errUnrouted) {
		err = nil // the time is over
	}
	return errors.Join(err, s.summarize(ctx, watch))
}

// summarize prints what has happened, and removes the faults.
func (s *storm) summarize(ctx context.Context, watch *routeWatch) error {
	if err := s.setFaults(ctx, cloudFaults{Latency: true}); err != nil {
		return err
	}
	after, err := s.cloud(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "  in %s: %d controllers killed, %d paused, %d changes of the cloud's faults, %d of the number of pods\n",
		s.lasts, s.count.kills.Load(), s.count.pauses.Load(), s.count.faults.Load(), s.count.scalings.Load())
	fmt.Fprintf(s.Out, "  %s\n", watch)
	fmt.Fprintf(s.Out, "  calls of EC2: %v, failures: %v\n", difference(s.before.Calls, after.Calls), difference(s.before.Failures, after.Failures))
	return nil
}

// difference returns how much counters have grown.
func difference(before, after map[string]int) map[string]int {
	grown := map[string]int{}
	for name, n := range after {
		if n > before[name] {
			grown[name] = n - before[name]
		}
	}
	return grown
}

// pause waits. It returns false at the end of ctx.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// between returns a random time of some seconds.
func between(random *rand.Rand, least, most int) time.Duration {
	return time.Duration(least+random.IntN(most-least+1)) * time.Second
}

// scale changes the number of pods: many for so long that interfaces grow, then few for so long that prefixes go back.
func (s *storm) scale(ctx context.Context, random *rand.Rand) error {
	for {
		for range 2 {
			if err := s.replicas(ctx, 40+random.IntN(25)); err != nil || !pause(ctx, between(random, 20, 30)) {
				return err
			}
		}
		for range 5 {
			if err := s.replicas(ctx, random.IntN(5)); err != nil || !pause(ctx, between(random, 28, 34)) {
				return err
			}
		}
	}
}

func (s *storm) replicas(ctx context.Context, n int) error {
	s.count.scalings.Add(1)
	_, err := s.Kubectl(ctx, fmt.Sprintf("scale deployment/many --replicas=%d", n))
	return err
}

// program is what pkill looks for.
const program = "'^/usr/bin/spiderpool-controller'"

// endControllers kills all controllers at every second change of routes, in the middle of an assignment or a return. Without such a
// change, it kills or pauses the leader from time to time.
func (s *storm) endControllers(ctx context.Context, random *rand.Rand, changed <-chan struct{}) error {
	for {
		end := s.endLeader
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			if random.IntN(2) > 0 {
				continue
			}
			end = s.endAll
		case <-time.After(between(random, 100, 200)):
		}
		if err := end(ctx, random); err != nil {
			return err
		}
	}
}

// endAll kills all controllers with SIGKILL, and replaces their pods: the kubelet would restart them after a while.
func (s *storm) endAll(ctx context.Context, _ *rand.Rand) error {
	for node := range s.Nodes {
		_, _ = s.Exec(ctx, node, "pkill -KILL -f "+program) // none may run there
	}
	s.count.kills.Add(1)
	_, _ = s.Kubectl(ctx, "delete pod --force --grace-period=0 --wait=false "+controllers) // the same
	return nil
}

// endLeader kills the leader with SIGKILL, or pauses it for longer than its lock lasts. The kubelet restarts it.
func (s *storm) endLeader(ctx context.Context, random *rand.Rand) error {
	leader, err := s.leader(ctx)
	if err != nil || leader.Name == "" {
		return nil // between two leaders
	}
	node := leader.Spec.NodeName
	if random.IntN(2) == 0 {
		s.count.kills.Add(1)
		_, _ = s.Exec(ctx, node, "pkill -KILL -f "+program) // it may have ended by itself
		return nil
	}
	s.count.pauses.Add(1)
	_, _ = s.Exec(ctx, node, "pkill -STOP -f "+program) // the same
	pause(ctx, 25*time.Second)
	_, err = s.Exec(context.WithoutCancel(ctx), node, "pkill -CONT -f "+program+"; true")
	return err
}

const controllers = "-n kube-system -l app.kubernetes.io/component=controller"

// leader returns the controller that holds the lock, or one without a name.
func (s *storm) leader(ctx context.Context) (corev1.Pod, error) {
	holder, err := s.run(ctx, "sh", "-c", "kubectl get lease.coordination.k8s.io -n kube-system spiderpool-controller -o jsonpath='{.spec.holderIdentity}'")
	if err != nil {
		return corev1.Pod{}, err
	}
	var pods corev1.PodList
	if err := s.Get(ctx, "pods "+controllers, &pods); err != nil {
		return corev1.Pod{}, err
	}
	// The identity of a controller begins with the name of its host, which is that of the node.
	host, _, _ := strings.Cut(holder, "_")
	at := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool { return p.Spec.NodeName == host && p.DeletionTimestamp == nil })
	if at < 0 {
		return corev1.Pod{}, nil
	}
	return pods.Items[at], nil
}

// disturbCloud replaces the faults of the cloud again and again. The last ones stay until the end of the storm.
func (s *storm) disturbCloud(ctx context.Context, random *rand.Rand) error {
	slow := &ec2test.Throttle{Reads: ec2test.Bucket{Size: 1, Refill: 0.1}, Unfiltered: ec2test.Bucket{Size: 1, Refill: 0.1}, Changes: ec2test.Bucket{Size: 1, Refill: 0.05}}
	// The call has an effect, and the answer is lost, or is an error.
	lossy := func(code string) (faults []ec2test.Fault) {
		for _, action := range []string{"AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "AssignIpv6Addresses", "UnassignIpv6Addresses"} {
			faults = append(faults, ec2test.Fault{Action: action, Chance: 0.4, Done: true, Code: code})
		}
		return faults
	}
	all := []cloudFaults{
		{},
		{Faults: lossy("")},
		{Lag: "15s", Faults: lossy("")},
		{Lag: "5s", Throttle: slow},
		{Stale: 3, Faults: lossy("")},
		{Stale: 2, Faults: lossy("InternalError")},
		{Lag: "5s", Faults: []ec2test.Fault{{Chance: 0.3}}}, // cuts connections before the call has an effect
		{Faults: []ec2test.Fault{{Chance: 0.5, Code: "InternalError"}}},
	}
	for {
		for _, at := range random.Perm(len(all)) {
			faults := all[at]
			faults.Latency = true
			if err := s.setFaults(ctx, faults); err != nil {
				return err
			}
			s.count.faults.Add(1)
			if !pause(ctx, between(random, 10, 25)) {
				return nil
			}
		}
	}
}

// resume waits until pods get addresses again, without help.
func (s *storm) resume(ctx context.Context) error {
	start := time.Now()
	if err := s.replicas(ctx, afterStorm); err != nil {
		return err
	}
	pods, err := s.runningPods(ctx, "run=many", afterStorm)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "  %d pods were ready %s after the storm\n", afterStorm, since(start))
	return errors.Join(s.addressesAreRouted(ctx, pods), s.printPieces(ctx))
}

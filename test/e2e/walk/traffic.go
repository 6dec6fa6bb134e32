package walk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// inPod runs a command in a pod.
func (g *guide) inPod(ctx context.Context, pod corev1.Pod, command string) (string, error) {
	return g.Kubectl(ctx, fmt.Sprintf("exec %s -- %s", pod.Name, command))
}

// ping sends one echo request from a pod.
func (g *guide) ping(ctx context.Context, from corev1.Pod, to string) error {
	program := "ping"
	if strings.Contains(to, ":") {
		program = "ping6"
	}
	// The first packet may need address resolution, which takes time.
	_, err := g.inPod(ctx, from, fmt.Sprintf("%s -c 1 -W 5 %s", program, to))
	return err
}

// answers checks that a fetched page contains a text.
func answers(page string, err error, want string) error {
	if err == nil && !strings.Contains(page, want) {
		err = fmt.Errorf("the answer does not contain %q: %s", want, page)
	}
	return err
}

// welcome is on the start page of a fresh nginx.
const welcome = "Welcome to nginx!"

func (g *guide) nginxPods(ctx context.Context) ([]corev1.Pod, error) {
	return g.runningPods(ctx, "run=nginx-lb", 2)
}

func (g *guide) podsReachNodes(ctx context.Context) error {
	pods, err := g.nginxPods(ctx)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		for _, node := range g.Nodes { // the pod's own node and the others
			if err := errors.Join(g.ping(ctx, pod, node.IPv4), g.ping(ctx, pod, node.IPv6)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *guide) podsReachPods(ctx context.Context) error {
	pods, err := g.nginxPods(ctx)
	if err != nil {
		return err
	}
	for i, from := range pods {
		v4, v6, err := addressesOf(pods[(i+1)%len(pods)])
		if err != nil {
			return err
		}
		if err := errors.Join(g.ping(ctx, from, v4.String()), g.ping(ctx, from, v6.String())); err != nil {
			return err
		}
	}
	return nil
}

func (g *guide) podsReachClusterIPs(ctx context.Context) error {
	if err := g.proxyMode(ctx); err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "create -f "+g.manifest("40-service-lb.yaml")); err != nil {
		return err
	}
	var service corev1.Service
	if err := g.Get(ctx, "service nginx-svc-lb", &service); err != nil {
		return err
	}
	pods, err := g.nginxPods(ctx)
	if err != nil {
		return err
	}
	if err := g.eventually(ctx, "the Service has both pods as endpoints", slow, func(ctx context.Context) error {
		return g.endpointsOf(ctx, "nginx-svc-lb", len(pods))
	}); err != nil {
		return err
	}
	for _, pod := range pods {
		// kube-proxy follows the endpoints of this Service and of the cluster's DNS with
		// a delay. Once it has them, every request succeeds.
		const name = "http://nginx-svc-lb.default.svc.cluster.local"
		if err := g.eventually(ctx, "kube-proxy of "+pod.Spec.NodeName+" knows the Service", slow, func(ctx context.Context) error {
			head, err := g.inPod(ctx, pod, "curl -sSI --max-time 10 "+service.Spec.ClusterIP)
			if err := answers(head, err, "200 OK"); err != nil {
				return err
			}
			_, err = g.inPod(ctx, pod, "curl -sSI --max-time 10 -o /dev/null "+name)
			return err
		}); err != nil {
			return err
		}
		// Eight requests, to reach the backends on both nodes, and by name: the cluster's
		// DNS is a ClusterIP too, over UDP, with pods as backends.
		often := "sh -c 'for i in 1 2 3 4 5 6 7 8; do curl -sS --max-time 10 -o /dev/null " + name + " || exit 1; done'"
		if _, err := g.inPod(ctx, pod, often); err != nil {
			return err
		}
	}
	return nil
}

// proxyMode checks that kube-proxy runs on each node in the mode given to `lab up`.
func (g *guide) proxyMode(ctx context.Context) error {
	status, err := g.run(ctx, g.Binary, "status")
	if err != nil {
		return err
	}
	for node := range g.Nodes {
		mode, err := g.Exec(ctx, node, "curl -sS --max-time 10 http://127.0.0.1:10249/proxyMode && echo")
		if err := answers(status, err, "kube-proxy mode "+mode); err != nil {
			return err
		}
	}
	return nil
}

func (g *guide) endpointsOf(ctx context.Context, service string, want int) error {
	out, err := g.run(ctx, "sh", "-c", "kubectl get endpointslices -l kubernetes.io/service-name="+service+
		` -o jsonpath='{range .items[*].endpoints[?(@.conditions.ready)]}{.addresses[0]}{"\n"}{end}'`)
	if err != nil {
		return err
	}
	if ready := len(strings.Fields(out)); ready != want {
		return fmt.Errorf("%d endpoints are ready, want %d", ready, want)
	}
	return nil
}

func (g *guide) nodesReachPods(ctx context.Context) error {
	pods, err := g.nginxPods(ctx)
	if err != nil {
		return err
	}
	for node := range g.Nodes {
		if err := g.hostReachesPods(ctx, node, pods); err != nil {
			return err
		}
	}
	return nil
}

func (g *guide) hostReachesPods(ctx context.Context, host string, pods []corev1.Pod) error {
	for _, pod := range pods {
		v4, v6, err := addressesOf(pod)
		if err != nil {
			return err
		}
		for _, url := range []string{"http://" + v4.String(), "http://[" + v6.String() + "]"} {
			page, err := g.curl(ctx, host, url)
			if err := answers(page, err, welcome); err != nil {
				return fmt.Errorf("%s to pod %s on %s: %w", host, pod.Name, pod.Spec.NodeName, err)
			}
		}
	}
	return nil
}

// curl fetches a page from a node or a host, and prints only its first line.
func (g *guide) curl(ctx context.Context, host, url string) (string, error) {
	command := "curl -sS --max-time 10 '" + url + "'"
	fmt.Fprintf(g.Out, "[%s]$ %s\n", host, command)
	page, err := g.run(ctx, g.Binary, "exec", host, "--", "sh", "-c", command)
	first, _, _ := strings.Cut(strings.TrimSpace(page), "\n")
	fmt.Fprintf(g.Out, "%s\n", first)
	return page, err
}

// podsReachInternet checks the address seen by the host on the internet: the NAT
// gateway's for IPv4, the pod's own for IPv6.
func (g *guide) podsReachInternet(ctx context.Context) error {
	pods, err := g.nginxPods(ctx)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		_, v6, err := addressesOf(pod)
		if err != nil {
			return err
		}
		page, err := g.inPod(ctx, pod, "curl -sS --max-time 10 http://"+g.InternetIPv4+"/")
		if err := answers(page, err, g.NATAddress); err != nil {
			return err
		}
		page, err = g.inPod(ctx, pod, "curl -sS --max-time 10 http://["+g.InternetIPv6+"]/")
		if err := answers(page, err, v6.String()); err != nil {
			return err
		}
	}
	return nil
}

// loadBalancer connects to the Service from the internet and finds the client's address
// in a pod's log, because of preserve_client_ip.enabled=true.
func (g *guide) loadBalancer(ctx context.Context) error {
	address, err := g.loadBalancerAddress(ctx, "service/nginx-svc-lb")
	if err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "get service nginx-svc-lb"); err != nil {
		return err
	}
	if err := g.eventually(ctx, "a client on the internet is answered", slow, func(ctx context.Context) error {
		page, err := g.curl(ctx, "internet", "http://"+address+"/?client")
		return answers(page, err, welcome)
	}); err != nil {
		return err
	}
	logs, err := g.Kubectl(ctx, "logs -l run=nginx-lb --tail=50 | grep '?client' | tail -n 1")
	return answers(logs, err, g.InternetIPv4+" ")
}

func (g *guide) ingress(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "create -f "+g.manifest("50-ingress.yaml")); err != nil {
		return err
	}
	for _, labels := range []string{"run=nginx-ingress", "app=echoserver"} {
		if _, err := g.runningPods(ctx, labels, 2); err != nil {
			return err
		}
	}
	address, err := g.loadBalancerAddress(ctx, "ingress/k8s-app-ingress")
	if err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "get ingress k8s-app-ingress"); err != nil {
		return err
	}
	return g.eventually(ctx, "both paths answer a client on the internet", slow, func(ctx context.Context) error {
		page, err := g.curl(ctx, "internet", "http://"+address+"/")
		if err := answers(page, err, welcome); err != nil {
			return err
		}
		echo, err := g.curl(ctx, "internet", "http://"+address+"/echo")
		return answers(strings.ToLower(echo), err, "x-forwarded-for="+g.InternetIPv4)
	})
}

func (g *guide) peerReachesPods(ctx context.Context) error {
	pods, err := g.nginxPods(ctx)
	if err != nil {
		return err
	}
	return g.hostReachesPods(ctx, "peer", pods)
}

// cleanUp deletes the guide's objects. No lease, no SpiderEndpoint and no count may
// remain.
func (g *guide) cleanUp(ctx context.Context) error {
	for _, file := range []string{"50-ingress.yaml", "40-service-lb.yaml", "30-nginx-lb.yaml"} {
		if _, err := g.Kubectl(ctx, "delete --wait=false -f "+g.manifest(file)); err != nil {
			return err
		}
	}
	// The cluster's DNS uses addresses from the same pools.
	if _, err := g.Kubectl(ctx, "scale -n kube-system deployment/coredns --replicas=0"); err != nil {
		return err
	}
	err := g.eventually(ctx, "no lease, no SpiderEndpoint and no count remains", slow, g.nothingHeld)
	if err != nil {
		return err
	}
	_, err = g.Kubectl(ctx, "get spiderippools")
	return err
}

func (g *guide) nothingHeld(ctx context.Context) error {
	held, err := g.leases(ctx)
	if err != nil {
		return err
	}
	if len(held) > 0 {
		return fmt.Errorf("%d addresses are held, e.g. %s by %s", len(held), held[0].IP, held[0].Pod)
	}
	var endpoints v2beta1.SpiderEndpointList
	var pools v2beta1.SpiderIPPoolList
	if err := errors.Join(g.Get(ctx, "spiderendpoints -A", &endpoints), g.Get(ctx, "spiderippools", &pools)); err != nil {
		return err
	}
	if len(endpoints.Items) > 0 {
		return fmt.Errorf("SpiderEndpoint %s/%s remains", endpoints.Items[0].Namespace, endpoints.Items[0].Name)
	}
	for _, pool := range pools.Items {
		if count := pool.Status.AllocatedIPCount; count == nil || *count != 0 {
			return fmt.Errorf("the status of pool %s does not count 0 addresses in use", pool.Name)
		}
	}
	return nil
}

// macvlanIsCutOff shows why the guide uses ipvlan: the VPC drops frames with the
// hardware addresses of macvlan pods.
func (g *guide) macvlanIsCutOff(ctx context.Context) error {
	if err := g.kubectlAll(ctx,
		`get spiderippools -o name | xargs -I{} kubectl patch {} --type=merge -p '{"spec":{"multusName":["kube-system/ipvlan-ens5","kube-system/macvlan-ens5"]}}'`,
		"apply -f test/e2e/testdata/aws/macvlan.yaml",
		"wait -n kube-system spidermultusconfig/macvlan-ens5 --for=condition=Ready --timeout=60s",
	); err != nil {
		return err
	}
	pods, err := g.runningPods(ctx, "run=nginx-macvlan", 2)
	if err != nil {
		return err
	}
	if err := errors.Join(g.showPods(ctx, ""), g.onEveryNode(pods), g.addressesBelongToNodes(pods)); err != nil {
		return err
	}
	for i, from := range pods {
		other := g.Nodes[pods[(i+1)%len(pods)].Spec.NodeName]
		for _, address := range []string{other.IPv4, other.IPv6} {
			if err := g.ping(ctx, from, address); err == nil {
				return fmt.Errorf("the macvlan pod on %s reached %s through the VPC", from.Spec.NodeName, address)
			}
		}
		if own := g.Nodes[from.Spec.NodeName]; g.ping(ctx, from, own.IPv4) != nil {
			return fmt.Errorf("the macvlan pod did not reach its own node %s, although no network is in between", from.Spec.NodeName)
		}
	}
	_, err = g.Kubectl(ctx, "delete deployment nginx-macvlan")
	return err
}

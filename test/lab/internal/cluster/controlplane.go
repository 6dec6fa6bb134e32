package cluster

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"spiderpool.dev/spiderpool/test/lab/internal/daemon"
)

const (
	etcdURL = "https://127.0.0.1:2379"
	// readyPoll is how often something is asked whether it is ready.
	readyPoll = 100 * time.Millisecond
	// readyPatience is how long it may take, on one slow CPU that is shared.
	readyPatience = 10 * time.Minute
	// readyRestarts is how often a daemon may give up waiting for another one.
	readyRestarts = 5
)

// idleControllers are controllers for what the lab does not have: they would
// only cost time.
var idleControllers = []string{"ephemeral-volume-controller", "horizontal-pod-autoscaler-controller", "node-ipam-controller",
	"node-route-controller", "persistentvolume-attach-detach-controller", "persistentvolume-binder-controller",
	"persistentvolume-expander-controller", "persistentvolume-protection-controller", "persistentvolumeclaim-protection-controller",
	"resourceclaim-controller", "service-lb-controller", "volumeattributesclass-protection-controller"}

// apiServer describes etcd and the API server. etcd is in the same memory as all
// of the lab, so it need not wait for disks.
func (c *Cluster) apiServer() ([]daemon.Spec, error) {
	addrs := addresses(c.control())
	etcd := c.flags("etcd", "",
		"--name="+c.control().Name,
		"--data-dir=/var/lib/etcd/data",
		"--unsafe-no-fsync",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL,
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster="+c.control().Name+"=http://127.0.0.1:2380",
		"--client-cert-auth", "--trusted-ca-file="+etc+"/ca.crt",
		"--cert-file="+etc+"/etcd.crt", "--key-file="+etc+"/etcd.key")
	api := c.flags("kube-apiserver", "",
		"--etcd-servers="+etcdURL,
		"--etcd-cafile="+etc+"/ca.crt",
		"--etcd-certfile="+etc+"/apiserver-etcd-client.crt", "--etcd-keyfile="+etc+"/apiserver-etcd-client.key",
		"--bind-address=::", fmt.Sprintf("--secure-port=%d", apiPort),
		"--advertise-address="+addrs[0].String(),
		"--service-cluster-ip-range="+serviceIPv4+","+serviceIPv6,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--anonymous-auth=true",
		"--client-ca-file="+etc+"/ca.crt",
		"--tls-cert-file="+etc+"/apiserver.crt", "--tls-private-key-file="+etc+"/apiserver.key",
		"--kubelet-certificate-authority="+etc+"/ca.crt",
		"--kubelet-client-certificate="+etc+"/apiserver-kubelet-client.crt",
		"--kubelet-client-key="+etc+"/apiserver-kubelet-client.key",
		// Names of nodes cannot be resolved in the lab.
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc."+dnsDomain,
		"--service-account-key-file="+etc+"/sa.pub", "--service-account-signing-key-file="+etc+"/sa.key",
		"--requestheader-client-ca-file="+etc+"/front-proxy-ca.crt",
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file="+etc+"/front-proxy-client.crt", "--proxy-client-key-file="+etc+"/front-proxy-client.key",
		"--allow-privileged=true",
		"--profiling=false")
	return c.inControl(etcd, api)
}

func (c *Cluster) controllers() ([]daemon.Spec, error) {
	names := "*"
	for _, name := range idleControllers {
		names += ",-" + name
	}
	manager := c.flags("kube-controller-manager", "controller-manager.conf",
		"--controllers="+names,
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+etc+"/sa.key", "--root-ca-file="+etc+"/ca.crt",
		"--cluster-signing-cert-file="+etc+"/ca.crt", "--cluster-signing-key-file="+etc+"/ca.key",
		"--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false")
	scheduler := c.flags("kube-scheduler", "scheduler.conf",
		"--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false")
	return c.inControl(manager, scheduler)
}

// flags is a program of the control plane with its flags.
func (c *Cluster) flags(program, kubeconfig string, flags ...string) []string {
	args := []string{c.program(program)}
	if kubeconfig != "" {
		file := filepath.Join(etc, kubeconfig)
		args = append(args, "--kubeconfig="+file, "--authentication-kubeconfig="+file, "--authorization-kubeconfig="+file)
	}
	return append(args, flags...)
}

// inControl makes daemons of the first node out of command lines.
func (c *Cluster) inControl(commands ...[]string) ([]daemon.Spec, error) {
	target, err := c.target(c.control().Name)
	if err != nil {
		return nil, err
	}
	var specs []daemon.Spec
	for _, args := range commands {
		specs = append(specs, daemon.Spec{Name: c.control().Name + "/" + filepath.Base(args[0]), Target: target, Args: args, Env: c.environment()})
	}
	return specs, nil
}

// client is an administrator's client of the API.
func (c *Cluster) client() (*kubernetes.Clientset, error) {
	config, err := c.clientConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

func (c *Cluster) clientConfig() (*rest.Config, error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(c.secrets.control["admin.conf"])
	if err != nil {
		return nil, err
	}
	target, err := c.target(c.control().Name)
	if err != nil {
		return nil, err
	}
	config.Dial = target.Dial
	return config, nil
}

// DialAPI connects to the API server.
func (c *Cluster) DialAPI(ctx context.Context) (net.Conn, error) {
	target, err := c.target(c.control().Name)
	if err != nil {
		return nil, err
	}
	return target.Dial(ctx, "tcp", APIAddress)
}

func (c *Cluster) waitAPI(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	return c.wait(ctx, func(ctx context.Context) error {
		_, err := client.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	}, "etcd", "kube-apiserver")
}

func (c *Cluster) waitControllers(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	// A pod can be made once its service account has been.
	return c.wait(ctx, func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	}, "kube-controller-manager", "kube-scheduler")
}

func (c *Cluster) waitNodes(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	return c.wait(ctx, func(ctx context.Context) error {
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil && len(nodes.Items) < len(c.Topology.Nodes) {
			err = fmt.Errorf("%d of %d nodes have registered", len(nodes.Items), len(c.Topology.Nodes))
		}
		return err
	})
}

// wait asks until ready returns no error. It gives up when ctx or its patience
// ends, or one of those daemons of the first node ends again and again.
func (c *Cluster) wait(ctx context.Context, ready func(context.Context) error, daemons ...string) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		for _, name := range daemons {
			if err := c.daemons.Failed(c.control().Name+"/"+name, readyRestarts); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up after %s: %w", readyPatience, err)
		case <-tick.C:
		}
	}
}

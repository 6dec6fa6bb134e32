package controlplane

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"spiderpool.dev/spiderpool/test/lab/internal/daemon"
)

const etcdURL = "https://127.0.0.1:2379"

// idleControllers are the controllers for features that the lab lacks. We disable them
// to save time.
var idleControllers = []string{"ephemeral-volume-controller", "horizontal-pod-autoscaler-controller", "node-ipam-controller",
	"node-route-controller", "persistentvolume-attach-detach-controller", "persistentvolume-binder-controller",
	"persistentvolume-expander-controller", "persistentvolume-protection-controller", "persistentvolumeclaim-protection-controller",
	"resourceclaim-controller", "service-lb-controller", "volumeattributesclass-protection-controller"}

// apiServer describes etcd and the API server. etcd's data does not outlive the lab, so
// etcd does not wait for disks.
func (c *ControlPlane) apiServer() ([]daemon.Spec, error) {
	etcd := c.flags("etcd", "",
		"--name="+c.control().Name,
		"--data-dir="+filepath.Join(c.Dir.Volatile(), "etcd"),
		"--unsafe-no-fsync",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL,
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster="+c.control().Name+"=http://127.0.0.1:2380",
		"--client-cert-auth", "--trusted-ca-file="+c.file("ca.crt"),
		"--cert-file="+c.file("etcd.crt"), "--key-file="+c.file("etcd.key"))
	api := c.flags("kube-apiserver", "",
		"--etcd-servers="+etcdURL,
		"--etcd-cafile="+c.file("ca.crt"),
		"--etcd-certfile="+c.file("apiserver-etcd-client.crt"), "--etcd-keyfile="+c.file("apiserver-etcd-client.key"),
		"--bind-address=::", fmt.Sprintf("--secure-port=%d", Port),
		"--advertise-address="+c.control().Addresses()[0].String(),
		"--service-cluster-ip-range="+serviceIPv4+","+serviceIPv6,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--anonymous-auth=true",
		"--client-ca-file="+c.file("ca.crt"),
		"--tls-cert-file="+c.file("apiserver.crt"), "--tls-private-key-file="+c.file("apiserver.key"),
		"--kubelet-certificate-authority="+c.file("ca.crt"),
		"--kubelet-client-certificate="+c.file("apiserver-kubelet-client.crt"),
		"--kubelet-client-key="+c.file("apiserver-kubelet-client.key"),
		// Node names do not resolve in the lab.
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc."+DNSDomain,
		"--service-account-key-file="+c.file("sa.pub"), "--service-account-signing-key-file="+c.file("sa.key"),
		"--requestheader-client-ca-file="+c.file("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file="+c.file("front-proxy-client.crt"), "--proxy-client-key-file="+c.file("front-proxy-client.key"),
		"--egress-selector-config-file="+c.file(egressConfig),
		"--allow-privileged=true",
		"--profiling=false")
	return c.specs(etcd, api), nil
}

func (c *ControlPlane) controllers() ([]daemon.Spec, error) {
	names := "*"
	for _, name := range idleControllers {
		names += ",-" + name
	}
	manager := c.flags("kube-controller-manager", "controller-manager.conf",
		"--controllers="+names,
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+c.file("sa.key"), "--root-ca-file="+c.file("ca.crt"),
		"--cluster-signing-cert-file="+c.file("ca.crt"), "--cluster-signing-key-file="+c.file("ca.key"),
		"--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false")
	scheduler := c.flags("kube-scheduler", "scheduler.conf",
		"--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false")
	return c.specs(manager, scheduler), nil
}

// flags builds the command line of a control plane program.
func (c *ControlPlane) flags(program, kubeconfig string, flags ...string) []string {
	args := []string{filepath.Join(c.Programs, program)}
	if kubeconfig != "" {
		file := c.file(kubeconfig)
		args = append(args, "--kubeconfig="+file, "--authentication-kubeconfig="+file, "--authorization-kubeconfig="+file)
	}
	return append(args, flags...)
}

// specs turns command lines into daemons.
func (c *ControlPlane) specs(commands ...[]string) []daemon.Spec {
	var specs []daemon.Spec
	for _, args := range commands {
		specs = append(specs, daemon.Spec{Name: prefix + filepath.Base(args[0]), Args: args, Env: os.Environ()})
	}
	return specs
}

func (c *ControlPlane) client() (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("https://"+local.String(), c.Dir.InnerKubeconfig())
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

func (c *ControlPlane) waitAPI(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	return c.daemons.Await(ctx, func(ctx context.Context) error {
		_, err := client.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	}, prefix+"etcd", prefix+"kube-apiserver")
}

func (c *ControlPlane) waitControllers(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	// Pods can be created only after their namespace's service account.
	return c.daemons.Await(ctx, func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	}, prefix+"kube-controller-manager", prefix+"kube-scheduler")
}

package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"spiderpool.dev/spiderpool/test/lab/internal/pki"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

const (
	// apiPort is the API server's, on every address of the first node.
	apiPort = 6443
	// APIAddress is the API server's in that node.
	APIAddress = "127.0.0.1:6443"
	// serviceIPv4 and serviceIPv6 are the ranges of ClusterIPs.
	serviceIPv4 = "10.96.0.0/16"
	serviceIPv6 = "fd00:10:96::/112"
	// dnsIPv4 is the address of the cluster's DNS service.
	dnsIPv4   = "10.96.0.10"
	dnsDomain = "cluster.local"
	// etc is where a node has Kubernetes' configuration.
	etc = "/etc/kubernetes"
)

// secrets are the files of each node's /etc/kubernetes.
type secrets struct {
	shared  map[string][]byte
	control map[string][]byte
	nodes   map[string]map[string][]byte
}

// makeSecrets issues every certificate, and writes the administrator's
// kubeconfigs for use inside and outside of the machine.
func (c *Cluster) makeSecrets(context.Context) error {
	now := time.Now()
	ca, err := pki.NewAuthority("spiderpool-lab", now)
	if err != nil {
		return err
	}
	proxyCA, err := pki.NewAuthority("spiderpool-lab-front-proxy", now)
	if err != nil {
		return err
	}
	s := &secrets{nodes: map[string]map[string][]byte{}, shared: map[string][]byte{"ca.crt": ca.Cert}, control: map[string][]byte{}}
	issue := issuer{now: now}
	issue.files(s.control, "apiserver", ca, c.apiServerSubject())
	issue.files(s.control, "etcd", ca, pki.Subject{Name: "etcd", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	issue.files(s.control, "apiserver-etcd-client", ca, pki.Subject{Name: "kube-apiserver-etcd-client"})
	issue.files(s.control, "apiserver-kubelet-client", ca, pki.Subject{Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}})
	issue.files(s.control, "front-proxy-client", proxyCA, pki.Subject{Name: "front-proxy-client"})
	s.control["ca.key"], s.control["front-proxy-ca.crt"] = ca.Key, proxyCA.Cert
	signing, err := pki.SigningKey()
	if err != nil {
		return err
	}
	s.control["sa.key"], s.control["sa.pub"] = signing.Key, signing.Cert

	server := c.apiURL()
	issue.kubeconfig(s.control, "controller-manager.conf", ca, server, "system:kube-controller-manager")
	issue.kubeconfig(s.control, "scheduler.conf", ca, server, "system:kube-scheduler")

	issue.kubeconfig(s.control, "admin.conf", ca, server, "kubernetes-admin", "system:masters")
	for _, node := range c.Topology.Nodes {
		files := map[string][]byte{}
		issue.files(files, "kubelet", ca, nodeSubject(node))
		issue.kubeconfig(files, "kubelet.conf", ca, server, "system:node:"+node.Name, "system:nodes")
		issue.kubeconfig(files, "kube-proxy.conf", ca, server, "system:kube-proxy")
		s.nodes[node.Name] = files
	}
	state, err := c.Dir.Load()
	if err != nil {
		return err
	}
	outside := map[string][]byte{}
	issue.kubeconfig(outside, "kubeconfig", ca, "https://"+state.Endpoint, "kubernetes-admin", "system:masters")
	if issue.err != nil {
		return issue.err
	}
	c.secrets = s
	if err := os.WriteFile(c.Dir.InnerKubeconfig(), s.control["admin.conf"], 0o600); err != nil {
		return err
	}
	return os.WriteFile(c.Dir.Kubeconfig(), outside["kubeconfig"], 0o600)
}

// write puts a node's files below dir, as the node's /etc/kubernetes.
func (s *secrets) write(dir string, node topology.Host, control bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	sets := []map[string][]byte{s.shared, s.nodes[node.Name]}
	if control {
		sets = append(sets, s.control)
	}
	for _, set := range sets {
		for name, content := range set {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// apiURL is where everything inside the lab reaches the API server.
func (c *Cluster) apiURL() string {
	return "https://" + netip.AddrPortFrom(addresses(c.control())[0], apiPort).String()
}

func (c *Cluster) apiServerSubject() pki.Subject {
	s := nodeSubject(c.control())
	s.Name, s.Groups = "kube-apiserver", nil
	s.DNSNames = append(s.DNSNames, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc."+dnsDomain)
	s.IPs = append(s.IPs, net.IPv4(127, 0, 0, 1), net.IPv6loopback)
	for _, cidr := range []string{serviceIPv4, serviceIPv6} {
		s.IPs = append(s.IPs, netip.MustParsePrefix(cidr).Addr().Next().AsSlice())
	}
	return s
}

func nodeSubject(node topology.Host) pki.Subject {
	s := pki.Subject{Name: "system:node:" + node.Name, Groups: []string{"system:nodes"}, DNSNames: []string{node.Name}}
	for _, addr := range addresses(node) {
		s.IPs = append(s.IPs, addr.AsSlice())
	}
	return s
}

// issuer issues until the first error, which it keeps.
type issuer struct {
	now time.Time
	err error
}

// files adds name.crt and name.key.
func (i *issuer) files(to map[string][]byte, name string, ca *pki.Authority, subject pki.Subject) {
	pair := i.pair(ca, subject)
	to[name+".crt"], to[name+".key"] = pair.Cert, pair.Key
}

// kubeconfig adds a kubeconfig of that name for a user.
func (i *issuer) kubeconfig(to map[string][]byte, name string, ca *pki.Authority, server, user string, groups ...string) {
	pair := i.pair(ca, pki.Subject{Name: user, Groups: groups})
	if i.err == nil {
		to[name], i.err = ca.Kubeconfig(server, user, pair)
	}
}

func (i *issuer) pair(ca *pki.Authority, subject pki.Subject) pki.Pair {
	if i.err != nil {
		return pki.Pair{}
	}
	pair, err := ca.Issue(subject, i.now)
	if err != nil {
		i.err = fmt.Errorf("certificate of %s: %w", subject.Name, err)
	}
	return pair
}

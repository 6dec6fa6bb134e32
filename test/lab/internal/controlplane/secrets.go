package controlplane

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

// makeSecrets issues every certificate. It writes the files of /etc/kubernetes for the
// control plane and each node, and the administrator's kubeconfigs for use inside and
// outside the machine.
func (c *ControlPlane) makeSecrets(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.issued {
		return nil
	}
	now := time.Now()
	ca, err := pki.NewAuthority("spiderpool-lab", now)
	if err != nil {
		return err
	}
	proxyCA, err := pki.NewAuthority("spiderpool-lab-front-proxy", now)
	if err != nil {
		return err
	}
	signing, err := pki.SigningKey()
	if err != nil {
		return err
	}
	issue := issuer{now: now}
	control := files{"ca.crt": ca.Cert, "ca.key": ca.Key, "front-proxy-ca.crt": proxyCA.Cert, "sa.key": signing.Key, "sa.pub": signing.Cert,
		egressConfig: fmt.Appendf(nil, egressYAML, c.file(egressSocket))}
	issue.files(control, "apiserver", ca, c.apiServerSubject())
	issue.files(control, "etcd", ca, pki.Subject{Name: "etcd", IPs: []net.IP{local.Addr().AsSlice()}})
	issue.files(control, "apiserver-etcd-client", ca, pki.Subject{Name: "kube-apiserver-etcd-client"})
	issue.files(control, "apiserver-kubelet-client", ca, pki.Subject{Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}})
	issue.files(control, "front-proxy-client", proxyCA, pki.Subject{Name: "front-proxy-client"})
	issue.kubeconfig(control, "controller-manager.conf", ca, local.String(), "system:kube-controller-manager")
	issue.kubeconfig(control, "scheduler.conf", ca, local.String(), "system:kube-scheduler")
	all := map[string]files{c.Dir.Secrets("control-plane"): control}

	server := netip.AddrPortFrom(c.control().Addresses()[0], Port).String()
	admin := files{}
	issue.kubeconfig(admin, c.Dir.InnerKubeconfig(), ca, server, "kubernetes-admin", "system:masters")
	issue.kubeconfig(admin, c.Dir.Kubeconfig(), ca, c.Endpoint, "kubernetes-admin", "system:masters")
	for _, node := range c.Topology.Nodes {
		own := files{"ca.crt": ca.Cert}
		issue.files(own, "kubelet", ca, nodeSubject(node))
		issue.kubeconfig(own, "kubelet.conf", ca, server, "system:node:"+node.Name, "system:nodes")
		issue.kubeconfig(own, "kube-proxy.conf", ca, server, "system:kube-proxy")
		if node.Name == c.control().Name {
			own["admin.conf"] = admin[c.Dir.InnerKubeconfig()]
		}
		all[c.Dir.Secrets(node.Name)] = own
	}
	if issue.err != nil {
		return issue.err
	}
	for dir, content := range all {
		if err := content.write(dir); err != nil {
			return err
		}
	}
	c.issued = true
	return admin.write("")
}

// files maps file names to contents.
type files map[string][]byte

// write writes the files below dir, readable by their owner only.
func (f files) write(dir string) error {
	if err := os.MkdirAll(dir, 0o700); dir != "" && err != nil {
		return err
	}
	for name, content := range f {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (c *ControlPlane) apiServerSubject() pki.Subject {
	s := nodeSubject(c.control())
	s.Name, s.Groups = "kube-apiserver", nil
	s.DNSNames = append(s.DNSNames, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc."+DNSDomain)
	s.IPs = append(s.IPs, net.IPv4(127, 0, 0, 1), net.IPv6loopback)
	for _, cidr := range []string{serviceIPv4, serviceIPv6} {
		s.IPs = append(s.IPs, netip.MustParsePrefix(cidr).Addr().Next().AsSlice())
	}
	return s
}

func nodeSubject(node topology.Host) pki.Subject {
	s := pki.Subject{Name: "system:node:" + node.Name, Groups: []string{"system:nodes"}, DNSNames: []string{node.Name}}
	for _, addr := range node.Addresses() {
		s.IPs = append(s.IPs, addr.AsSlice())
	}
	return s
}

// issuer issues certificates until the first error, which it keeps.
type issuer struct {
	now time.Time
	err error
}

// files adds name.crt and name.key.
func (i *issuer) files(to files, name string, ca *pki.Authority, subject pki.Subject) {
	pair := i.pair(ca, subject)
	to[name+".crt"], to[name+".key"] = pair.Cert, pair.Key
}

// kubeconfig adds a user's kubeconfig under that name.
func (i *issuer) kubeconfig(to files, name string, ca *pki.Authority, server, user string, groups ...string) {
	pair := i.pair(ca, pki.Subject{Name: user, Groups: groups})
	if i.err == nil {
		to[name], i.err = ca.Kubeconfig("https://"+server, user, pair)
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

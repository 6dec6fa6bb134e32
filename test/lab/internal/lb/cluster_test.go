package lb

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"

	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// The Service and the Ingress of the AWS guide.
const (
	guideService = `
apiVersion: v1
kind: Service
metadata:
  name: nginx-svc-lb
  namespace: default
  annotations:
    service.beta.kubernetes.io/aws-load-balancer-nlb-target-type: ip
    service.beta.kubernetes.io/aws-load-balancer-scheme: internet-facing
    service.beta.kubernetes.io/aws-load-balancer-target-group-attributes: preserve_client_ip.enabled=true
spec:
  type: LoadBalancer
  ports:
  - {port: 80, protocol: TCP}
`
	guideIngress = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: k8s-app-ingress
  namespace: default
  annotations:
    alb.ingress.kubernetes.io/target-type: ip
    alb.ingress.kubernetes.io/scheme: internet-facing
spec:
  ingressClassName: alb
  rules:
  - http:
      paths:
      - {path: /, pathType: Exact, backend: {service: {name: nginx-svc-ingress, port: {number: 80}}}}
      - {path: /echo, pathType: Exact, backend: {service: {name: echoserver, port: {number: 80}}}}
`
)

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(text), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return object.(T)
}

func nodePortService(name string, targetPort int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type:  corev1.ServiceTypeNodePort,
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt(targetPort), Protocol: corev1.ProtocolTCP}},
		},
	}
}

// endpoints returns a Service's EndpointSlice. The prefix "!" marks an unready address.
func endpoints(service string, port int32, addrs ...string) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: service + "-" + addrs[0], Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		Ports: []discoveryv1.EndpointPort{{Port: &port}},
	}
	for _, addr := range addrs {
		ready := addr[0] != '!'
		if !ready {
			addr = addr[1:]
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	return slice
}

func loadTopology(t *testing.T, name string) *topology.Topology {
	t.Helper()
	topo, err := topology.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

func addrPorts(texts ...string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, text := range texts {
		all = append(all, netip.MustParseAddrPort(text))
	}
	return all
}

// guideSnapshot returns the cluster state at the end of the guide.
func guideSnapshot(t *testing.T) snapshot {
	return snapshot{
		services: []*corev1.Service{
			decode[*corev1.Service](t, guideService), nodePortService("nginx-svc-ingress", 80), nodePortService("echoserver", 8080),
		},
		ingresses: []*networkingv1.Ingress{decode[*networkingv1.Ingress](t, guideIngress)},
		slices: []*discoveryv1.EndpointSlice{
			endpoints("nginx-svc-lb", 80, "172.31.32.184", "172.31.28.31", "!172.31.28.20"),
			endpoints("nginx-svc-ingress", 80, "172.31.28.17", "172.31.32.177"),
			endpoints("echoserver", 8080, "172.31.28.18", "172.31.32.178"),
		},
	}
}

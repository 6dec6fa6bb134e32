// Package scheme registers the kinds that the controller and the tests handle.
//
// Agents do not link it: the types of all of Kubernetes would cost each of them
// about 25 MiB.
package scheme

import (
	"fmt"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
)

// New returns a scheme with the built-in kinds of Kubernetes, the custom resources of
// Spiderpool, Multus' NetworkAttachmentDefinition, and the policies of other projects.
func New() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, v2beta1.AddToScheme, nadv1.AddToScheme, npv1beta1.Install, multipolicy.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			// Registration fails only if one type has two kinds. No input can cause
			// that, so it is a mistake in this program.
			panic(fmt.Sprintf("register kinds: %v", err))
		}
	}
	return scheme
}

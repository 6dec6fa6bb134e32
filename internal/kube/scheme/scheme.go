// Package scheme is the scheme of the programs that handle objects of many kinds.
//
// It is apart from package kube because it links the types of the whole of
// Kubernetes, about 25 MiB, of which an agent, one a node, needs none.
package scheme

import (
	"fmt"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// New returns a scheme with the built-in kinds of Kubernetes, the custom
// resources of Spiderpool and Multus' NetworkAttachmentDefinition.
func New() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, v2beta1.AddToScheme, nadv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			// Registration fails only when one type has two kinds, which is a
			// mistake in this program that no input can cause.
			panic(fmt.Sprintf("register kinds: %v", err))
		}
	}
	return scheme
}

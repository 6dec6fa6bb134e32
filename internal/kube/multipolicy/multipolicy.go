// Package multipolicy has the kind MultiNetworkPolicy of the Network Plumbing Working Group
// (https://github.com/k8snetworkplumbingwg/multi-networkpolicy), version v1beta1: a NetworkPolicy for the networks in its
// annotation k8s.v1.cni.cncf.io/policy-for.
//
// +kubebuilder:object:generate=true
// +groupName=k8s.cni.cncf.io
// +versionName=v1beta1
package multipolicy

import (
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is that of MultiNetworkPolicies.
var GroupVersion = schema.GroupVersion{Group: "k8s.cni.cncf.io", Version: "v1beta1"}

// AddToScheme registers the kind.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &MultiNetworkPolicy{}, &MultiNetworkPolicyList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

// MultiNetworkPolicy is a NetworkPolicy for interfaces besides the default one.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=multi-networkpolicies,scope=Namespaced,shortName=multi-policy,singular=multi-networkpolicy
type MultiNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is that of a NetworkPolicy. The definition of another installer may lack some of its fields, e.g. endPort; the
	// API server then drops them.
	Spec networkingv1.NetworkPolicySpec `json:"spec,omitempty"`
}

// MultiNetworkPolicyList is a list of MultiNetworkPolicies.
//
// +kubebuilder:object:root=true
type MultiNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MultiNetworkPolicy `json:"items"`
}

// Package v2beta1 is the public API of Spiderpool: the custom resources of the
// group spiderpool.spidernet.io, version v2beta1.
//
// The markers in this package become OpenAPI and CEL rules in the CRDs. The API
// server checks shape and immutability with them, even if every webhook is down.
// internal/admission holds the rules that depend on other objects. The package
// imports apimachinery only.
//
// +kubebuilder:object:generate=true
// +groupName=spiderpool.spidernet.io
package v2beta1

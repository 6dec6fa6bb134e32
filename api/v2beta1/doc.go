// Package v2beta1 is the public API of Spiderpool: the custom resources of the
// group spiderpool.spidernet.io, version v2beta1.
//
// Shape and immutability are validated by OpenAPI and CEL from the markers in
// this package, so they hold with every webhook down. Rules that need other
// objects live in internal/admission. It imports apimachinery only.
//
// +kubebuilder:object:generate=true
// +groupName=spiderpool.spidernet.io
package v2beta1

package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "spiderpool.spidernet.io", Version: "v2beta1"}

var (
	// SchemeBuilder collects the kinds of this package.
	SchemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)
	// AddToScheme registers the kinds of this package in a scheme.
	AddToScheme = SchemeBuilder.AddToScheme
)

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&SpiderIPPool{}, &SpiderIPPoolList{},
		&SpiderSubnet{}, &SpiderSubnetList{},
		&SpiderReservedIP{}, &SpiderReservedIPList{},
		&SpiderEndpoint{}, &SpiderEndpointList{},
		&SpiderMultusConfig{}, &SpiderMultusConfigList{},
		&SpiderCoordinator{}, &SpiderCoordinatorList{},
		&SpiderIPBlock{}, &SpiderIPBlockList{},
		&SpiderPeerGroup{}, &SpiderPeerGroupList{},
		&SpiderCloudNetwork{}, &SpiderCloudNetworkList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

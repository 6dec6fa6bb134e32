package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SpiderReservedIPSpec lists addresses that no pool hands out.
type SpiderReservedIPSpec struct {
	// IPVersion is 4 or 6; left out, it is the version of ips.
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// IPs are addresses or ranges.
	// +optional
	IPs []string `json:"ips,omitempty"`
}

// SpiderReservedIP holds addresses that are never handed out, from any pool.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={spiderpool},path=spiderreservedips,scope=Cluster,shortName=sr,singular=spiderreservedip
// +kubebuilder:printcolumn:name=VERSION,type=string,JSONPath=`.spec.ipVersion`,description="IP version"
// +kubebuilder:printcolumn:name=IPS,type=string,JSONPath=`.spec.ips`,description="addresses"
type SpiderReservedIP struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SpiderReservedIPSpec `json:"spec,omitempty"`
}

// SpiderReservedIPList is a list of SpiderReservedIPs.
//
// +kubebuilder:object:root=true
type SpiderReservedIPList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderReservedIP `json:"items"`
}

package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SpiderReservedIPSpec lists the addresses that no pool hands out.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.ips) || self.ips.size() == 0 || self.ips.all(r, r.split('-', 2).all(a, !isIP(a) || ip(a).family() == (has(self.ipVersion) ? self.ipVersion : isIP(self.ips[0].split('-', 2)[0]) ? ip(self.ips[0].split('-', 2)[0]).family() : ip(a).family())))`,messageExpression=`"'" + self.ips.filter(r, r.split('-', 2).exists(a, isIP(a) && ip(a).family() != (has(self.ipVersion) ? self.ipVersion : ip(self.ips[0].split('-', 2)[0]).family())))[0] + "' is not IPv" + ((has(self.ipVersion) ? self.ipVersion : ip(self.ips[0].split('-', 2)[0]).family()) == 4 ? "4" : "6") + (has(self.ipVersion) ? ", the value of ipVersion" : ", the version of the first entry") + "; create one object per IP version"`,fieldPath=`.ips`
type SpiderReservedIPSpec struct {
	// IPVersion is 4 or 6. The default is the IP version of ips.
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// IPs lists addresses ("172.31.28.16") or ranges ("172.31.28.16-172.31.28.31") of one IP version.
	// +optional
	IPs AddressRanges `json:"ips,omitempty"`
}

// SpiderReservedIPStatus tells whether the addresses are reserved.
type SpiderReservedIPStatus struct {
	// Conditions has the condition Ready: True if every address of the list is reserved.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderReservedIP lists addresses that no pool ever hands out.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={spiderpool},path=spiderreservedips,scope=Cluster,shortName=sr,singular=spiderreservedip
// +kubebuilder:printcolumn:name=VERSION,type=string,JSONPath=`.spec.ipVersion`,description="IP version"
// +kubebuilder:printcolumn:name=IPS,type=string,JSONPath=`.spec.ips`,description="addresses"
// +kubebuilder:printcolumn:name=READY,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="whether all its addresses are reserved; the condition has the reason"
// +kubebuilder:printcolumn:name=AGE,type=date,JSONPath=`.metadata.creationTimestamp`,description="time since its creation"
type SpiderReservedIP struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SpiderReservedIPSpec   `json:"spec,omitempty"`
	Status SpiderReservedIPStatus `json:"status,omitempty"`
}

// SpiderReservedIPList is a list of SpiderReservedIPs.
//
// +kubebuilder:object:root=true
type SpiderReservedIPList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderReservedIP `json:"items"`
}

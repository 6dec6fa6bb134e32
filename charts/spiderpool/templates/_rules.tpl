{{/* Permissions of each program, limited to those in use. */}}

{{- define "spiderpool.agentRules" }}
- apiGroups: [""]
  resources: [pods, namespaces, nodes]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
# The pods' controllers, for the owner in a SpiderEndpoint and the proof of fixed addresses.
- apiGroups: [apps]
  resources: [replicasets, statefulsets]
  verbs: [get]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get]
- apiGroups: [kubevirt.io]
  resources: [virtualmachineinstances]
  verbs: [get]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderippools]
  verbs: [get, list, watch]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderreservedips]
  verbs: [list, watch]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spidercoordinators]
  verbs: [get]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spideripblocks]
  verbs: [get, list, watch, create, update]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderendpoints]
  verbs: [get, list, create, update, delete]
- apiGroups: [k8s.cni.cncf.io]
  resources: [network-attachment-definitions]
  verbs: [get]
# The versions of the definitions: an agent compares their fields with its own once.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [spideripblocks.spiderpool.spidernet.io, spiderendpoints.spiderpool.spidernet.io]
  verbs: [get]
# The frontends and backends of services, for spiderpoolctl service.
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# For spiderpoolctl policy.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list]
- apiGroups: [policy.networking.k8s.io]
  resources: [clusternetworkpolicies]
  verbs: [list]
- apiGroups: [k8s.cni.cncf.io]
  resources: [multi-networkpolicies]
  verbs: [list]
{{- if .Values.policy.enabled }}
# The policies to enforce, and the addresses of the pods that they select.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [watch]
- apiGroups: [policy.networking.k8s.io]
  resources: [clusternetworkpolicies]
  verbs: [watch]
- apiGroups: [k8s.cni.cncf.io]
  resources: [multi-networkpolicies]
  verbs: [watch]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderpeergroups]
  verbs: [list, watch]
{{- end }}
{{- if include "spiderpool.secureMetrics" .Values.spiderpoolAgent }}
{{- include "spiderpool.reviewRules" . }}
{{- end }}
{{- end }}

{{/* The console watches each kind once, and asks which of its objects a user may see. */}}
{{- define "spiderpool.consoleRules" }}
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderippools, spiderreservedips, spideripblocks, spiderendpoints]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods, nodes, namespaces, events]
  verbs: [list, watch]
- apiGroups: [k8s.cni.cncf.io]
  resources: [network-attachment-definitions]
  verbs: [list, watch]
# The top controllers of pods, each once.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get]
{{- include "spiderpool.reviewRules" . }}
{{- end }}

{{- define "spiderpool.consoleNamespacedRules" }}
- apiGroups: [apps]
  resources: [daemonsets]
  resourceNames: [{{ .Values.spiderpoolAgent.name }}]
  verbs: [list, watch]
{{- end }}

{{/* Rules to check the token of a client of the metrics. */}}
{{- define "spiderpool.reviewRules" }}
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
{{- end }}

{{- define "spiderpool.controllerRules" }}
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderippools]
  verbs: [list, watch, patch]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spidersubnets, spidermultusconfigs, spidercoordinators, spidercloudnetworks]
  verbs: [list, watch]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderippools/status, spidersubnets/status, spiderreservedips/status, spidermultusconfigs/status, spidercoordinators/status, spidercloudnetworks/status]
  verbs: [patch]
{{- if .Values.cloud.enabled }}
# The pools and attachments of SpiderCloudNetworks.
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderippools]
  verbs: [get, create, delete]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spidermultusconfigs]
  verbs: [create, patch]
# Their finalizer, while an interface that the controller has created may be without an instance.
- apiGroups: [spiderpool.spidernet.io]
  resources: [spidercloudnetworks]
  verbs: [patch]
# The namespaces of pods that wait for addresses: their annotations may name other pools.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
{{- end }}
# SpiderReservedIPs for the addresses of nodes.
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderreservedips]
  verbs: [list, watch, create, update, delete]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderendpoints]
  verbs: [list, watch, create, delete]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spideripblocks]
  verbs: [get, list, watch, create, update, delete]
- apiGroups: [k8s.cni.cncf.io]
  resources: [network-attachment-definitions]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods, nodes]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- if .Values.startupTaint.enabled }}
# The startup taint.
- apiGroups: [""]
  resources: [nodes]
  verbs: [patch]
{{- end }}
{{- if .Values.addressResource.enabled }}
# The addresses of nodes as extended resources, and the namespaces of pods that request them.
- apiGroups: [""]
  resources: [nodes/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
{{- end }}
{{- if .Values.policy.enabled }}
# The addresses of the pods that policies select, and the faults of policies.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderpeergroups]
  verbs: [get, list, watch, create, update, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch]
- apiGroups: [policy.networking.k8s.io]
  resources: [clusternetworkpolicies]
  verbs: [list, watch]
- apiGroups: [policy.networking.k8s.io]
  resources: [clusternetworkpolicies/status]
  verbs: [patch]
- apiGroups: [k8s.cni.cncf.io]
  resources: [multi-networkpolicies]
  verbs: [list, watch]
{{- else }}
# Those of a controller with policy.enabled: they would be outdated when it is true again.
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderpeergroups]
  verbs: [list, delete]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- if .Values.policy.enabled }}
# The faults of policies that an earlier process has told.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [list]
{{- end }}
# The leader election writes events of the group "", each once.
- apiGroups: [""]
  resources: [events]
  verbs: [create]
# The networks of ClusterIPs and overlay pods, for the status of the SpiderCoordinator.
- apiGroups: [networking.k8s.io]
  resources: [servicecidrs]
  verbs: [list, watch]
- apiGroups: [crd.projectcalico.org]
  resources: [ippools]
  verbs: [list, watch]
- apiGroups: [cilium.io]
  resources: [ciliumpodippools]
  verbs: [list, watch]
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [list, watch]
# The owners of fixed addresses.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch]
- apiGroups: [kubevirt.io]
  resources: [virtualmachines, virtualmachineinstances]
  verbs: [get]
# The CA bundle of our own webhooks.
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations, validatingwebhookconfigurations]
  verbs: [list, watch]
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations, validatingwebhookconfigurations]
  resourceNames: [{{ include "spiderpool.webhookName" . }}]
  verbs: [patch]
{{- if include "spiderpool.secureMetrics" .Values.spiderpoolController }}
{{- include "spiderpool.reviewRules" . }}
{{- end }}
{{- end }}

{{/* Rules without a request of ours: the admission plugin OwnerReferencesPermissionEnforcement, e.g. of OpenShift, asks for them when we own an attachment. */}}
{{- define "spiderpool.controllerOwnerRules" }}
- apiGroups: [spiderpool.spidernet.io]
  resources: [spidermultusconfigs/finalizers]
  verbs: [update]
{{- end }}

{{- define "spiderpool.controllerNamespacedRules" }}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ .Values.spiderpoolController.name }}]
  verbs: [get, update]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "spiderpool.tlsSecretName" . }}]
  verbs: [list, watch, update]
{{- if and (include "spiderpool.secureMetrics" .Values.spiderpoolAgent) (eq .Values.spiderpoolController.tls.method "auto") }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "spiderpool.agentTLSSecretName" . }}]
  verbs: [get, update]
{{- end }}
{{- if include "spiderpool.consoleTLSIssued" . }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "spiderpool.consoleTLSSecretName" . }}]
  verbs: [get, update]
{{- end }}
{{- if and (include "spiderpool.flowServer" .) (eq .Values.spiderpoolController.tls.method "auto") }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ join ", " (include "spiderpool.flowSecrets" . | fromJsonArray) }}]
  verbs: [get, update]
{{- end }}
{{- end }}

{{- define "spiderpool.multusRules" }}
- apiGroups: [k8s.cni.cncf.io]
  resources: [network-attachment-definitions]
  verbs: [get]
- apiGroups: [""]
  resources: [pods]
  verbs: [get]
- apiGroups: [""]
  resources: [pods/status]
  verbs: [get, update, patch]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch, update]
{{- end }}

{{- define "spiderpool.definitionsRules" }}
# A patch that creates a definition also needs create, with the name in the request.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames:
    - spidercloudnetworks.spiderpool.spidernet.io
    - spidercoordinators.spiderpool.spidernet.io
    - spiderendpoints.spiderpool.spidernet.io
    - spideripblocks.spiderpool.spidernet.io
    - spiderippools.spiderpool.spidernet.io
    - spidermultusconfigs.spiderpool.spidernet.io
    - spiderpeergroups.spiderpool.spidernet.io
    - spiderreservedips.spiderpool.spidernet.io
    - spidersubnets.spiderpool.spidernet.io
    {{- range include "spiderpool.otherDefinitions" . | fromJsonArray }}
    - {{ . }}
    {{- end }}
  verbs: [get, create, update, patch]
# To find addresses of another Spiderpool release.
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderippools]
  verbs: [list]
{{- end }}

{{- define "spiderpool.initRules" }}
- apiGroups: [spiderpool.spidernet.io]
  resources: [spidercoordinators, spiderippools, spidersubnets]
  verbs: [get, create]
# To find addresses of another Spiderpool release.
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderippools]
  verbs: [list]
# For a dry run that checks whether the webhooks answer.
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderreservedips]
  verbs: [create]
{{- end }}

{{- define "spiderpool.initNamespacedRules" }}
- apiGroups: [k8s.cni.cncf.io]
  resources: [network-attachment-definitions]
  verbs: [get, create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [spiderpool-init-stopped]
  verbs: [delete]
{{- end }}

{{- define "spiderpool.removeRules" }}
# The pods with addresses.
- apiGroups: [spiderpool.spidernet.io]
  resources: [spideripblocks]
  verbs: [list]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- end }}

{{- define "spiderpool.removeNamespacedRules" }}
- apiGroups: [apps]
  resources: [daemonsets]
  resourceNames: [{{ .Values.spiderpoolAgent.name }}{{ if .Values.multus.multusCNI.install }}, {{ .Values.multus.multusCNI.name }}{{ end }}]
  verbs: [get, delete]
- apiGroups: [apps]
  resources: [daemonsets]
  resourceNames: [{{ .Values.spiderpoolInit.name }}-clean]
  verbs: [get]
# It lets the DaemonSet start. A rule cannot name an object that does not exist.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [spiderpool-init-stopped]
  verbs: [delete]
{{- end }}

{{- define "spiderpool.cleanupRules" }}
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderippools, spidersubnets, spiderreservedips, spiderendpoints, spidermultusconfigs, spidercoordinators, spideripblocks]
  verbs: [get, list, patch]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spidercoordinators]
  verbs: [delete]
- apiGroups: [k8s.cni.cncf.io]
  resources: [network-attachment-definitions]
  verbs: [list, delete]
{{- end }}

{{- define "spiderpool.webhookClient" -}}
admissionReviewVersions: [v1]
sideEffects: None
timeoutSeconds: {{ .timeout | default 10 }}
clientConfig:
  service:
    name: {{ .root.Values.spiderpoolController.name }}
    namespace: {{ .root.Release.Namespace }}
    port: 443
    path: {{ .path }}
  {{- if eq .root.Values.spiderpoolController.tls.method "provided" }}
  caBundle: {{ .root.Values.spiderpoolController.tls.provided.tlsCa }}
  {{- end }}
{{- end -}}

{{- define "spiderpool.cleanupNamespacedRules" }}
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [spiderpool-init-stopped]
  verbs: [delete]
- apiGroups: [batch]
  resources: [jobs]
  resourceNames: [{{ .Values.spiderpoolInit.name }}]
  verbs: [delete]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ .Values.spiderpoolController.name }}]
  verbs: [delete]
{{- with include "spiderpool.issuedSecrets" . | fromJsonArray }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ join ", " . }}]
  verbs: [delete]
{{- end }}
{{- end }}

{{/* For "helm test": the parties of the test, and the causes of failures. */}}
{{- define "spiderpool.connectivityRules" }}
- apiGroups: [""]
  resources: [nodes, namespaces]
  verbs: [get, list]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderippools, spiderreservedips, spideripblocks]
  verbs: [list]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderendpoints]
  verbs: [get, list]
- apiGroups: [k8s.cni.cncf.io]
  resources: [network-attachment-definitions]
  verbs: [get]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list]
- apiGroups: [policy.networking.k8s.io]
  resources: [clusternetworkpolicies]
  verbs: [list]
- apiGroups: [k8s.cni.cncf.io]
  resources: [multi-networkpolicies]
  verbs: [list]
{{- end }}

{{- define "spiderpool.connectivityReleaseRules" }}
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [{{ .Values.global.configName }}]
  verbs: [get]
{{- end }}

{{/* In the namespace of the test only. */}}
{{- define "spiderpool.connectivityPodRules" }}
- apiGroups: [""]
  resources: [pods]
  verbs: [create, get, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [create, list, delete]
- apiGroups: [""]
  resources: [pods/exec]
  verbs: [get, create]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
{{- end }}

{{- define "spiderpool.connectivityServiceRules" }}
- apiGroups: [""]
  resources: [services]
  resourceNames: [kubernetes]
  verbs: [get]
{{- end }}

{{/* Permissions of each program, limited to those in use. */}}

{{- define "spiderpool.agentRules" }}
- apiGroups: [""]
  resources: [pods, namespaces, nodes]
  verbs: [get, list, watch]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch, update]
# The pods' controllers, for the owner in a SpiderEndpoint.
- apiGroups: [apps]
  resources: [deployments, replicasets, statefulsets, daemonsets]
  verbs: [get]
- apiGroups: [batch]
  resources: [jobs, cronjobs]
  verbs: [get]
# Together with statefulsets: the owners of fixed addresses.
- apiGroups: [kubevirt.io]
  resources: [virtualmachineinstances]
  verbs: [get]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spiderippools, spidersubnets, spiderreservedips, spidercoordinators, spidermultusconfigs]
  verbs: [get, list, watch]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spideripblocks, spiderendpoints]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spideripblocks/status, spiderendpoints/status]
  verbs: [get, update, patch]
- apiGroups: [k8s.cni.cncf.io]
  resources: [network-attachment-definitions]
  verbs: [get, list, watch]
{{- end }}

{{- define "spiderpool.controllerRules" }}
{{- /* It writes SpiderReservedIPs for the addresses of nodes. */}}
- apiGroups: [spiderpool.spidernet.io]
  resources:
    - spiderippools
    - spidersubnets
    - spiderreservedips
    - spiderendpoints
    - spideripblocks
    - spidermultusconfigs
    - spidercoordinators
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [spiderpool.spidernet.io]
  resources: ["*/status", "*/finalizers"]
  verbs: [get, update, patch]
- apiGroups: [k8s.cni.cncf.io]
  resources: [network-attachment-definitions]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [""]
  resources: [pods, nodes, namespaces]
  verbs: [get, list, watch]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch, update]
# The networks of ClusterIPs and overlay pods, for the status of the SpiderCoordinator.
- apiGroups: [networking.k8s.io]
  resources: [servicecidrs]
  verbs: [get, list, watch]
- apiGroups: [crd.projectcalico.org]
  resources: [ippools]
  verbs: [get, list, watch]
- apiGroups: [cilium.io]
  resources: [ciliumpodippools]
  verbs: [get, list, watch]
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [get, list, watch]
# The applications with automatic pools.
- apiGroups: [apps]
  resources: [deployments, replicasets, statefulsets, daemonsets]
  verbs: [get, list, watch]
- apiGroups: [batch]
  resources: [jobs, cronjobs]
  verbs: [get, list, watch]
- apiGroups: [kubevirt.io]
  resources: [virtualmachines, virtualmachineinstances]
  verbs: [get, list, watch]
# The CA bundle of our own webhooks.
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations, validatingwebhookconfigurations]
  verbs: [list, watch]
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations, validatingwebhookconfigurations]
  resourceNames: [{{ include "spiderpool.webhookName" . }}]
  verbs: [get, update, patch]
{{- end }}

{{- define "spiderpool.controllerNamespacedRules" }}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ .Values.spiderpoolController.name }}]
  verbs: [get, update, patch, delete]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "spiderpool.tlsSecretName" . }}]
  verbs: [get, list, watch, update, patch, delete]
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
{{- end }}

{{- define "spiderpool.cleanupRules" }}
- apiGroups: [spiderpool.spidernet.io]
  resources: ["*"]
  verbs: [get, list, update, patch]
- apiGroups: [spiderpool.spidernet.io]
  resources: [spidercoordinators]
  verbs: [delete]
- apiGroups: [k8s.cni.cncf.io]
  resources: [network-attachment-definitions]
  verbs: [get, list, delete]
{{- end }}

{{- define "spiderpool.webhookClient" -}}
admissionReviewVersions: [v1]
sideEffects: None
timeoutSeconds: 10
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
- apiGroups: [batch]
  resources: [jobs]
  resourceNames: [{{ .Values.spiderpoolInit.name }}]
  verbs: [delete]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ .Values.spiderpoolController.name }}]
  verbs: [delete]
{{- if eq .Values.spiderpoolController.tls.method "auto" }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "spiderpool.tlsSecretName" . }}]
  verbs: [delete]
{{- end }}
{{- end }}

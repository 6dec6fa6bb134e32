{{/* Definitions of other projects to create unless they exist, as a list in JSON. */}}
{{- define "spiderpool.otherDefinitions" -}}
{{- $names := list -}}
{{- if or .Values.multus.multusCNI.install .Values.multus.enableMultusConfig }}{{ $names = append $names "network-attachment-definitions.k8s.cni.cncf.io" }}{{ end -}}
{{- with .Values.policy.installCRDs -}}
{{- if .clusterNetworkPolicy }}{{ $names = append $names "clusternetworkpolicies.policy.networking.k8s.io" }}{{ end -}}
{{- if .multiNetworkPolicy }}{{ $names = append $names "multi-networkpolicies.k8s.cni.cncf.io" }}{{ end -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{/* Name prefix for objects without a name value of their own. */}}
{{- define "spiderpool.name" -}}
{{- default .Chart.Name .Values.global.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Selector labels of a component. Arguments: root, component. */}}
{{- define "spiderpool.selectorLabels" -}}
app.kubernetes.io/name: {{ include "spiderpool.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object. Arguments: root, component. */}}
{{- define "spiderpool.labels" -}}
{{ include "spiderpool.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.global.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of an object. Arguments: root, component, and optionally annotations and labels (maps). */}}
{{- define "spiderpool.metadata" -}}
labels:
  {{- include "spiderpool.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default dict .annotations) .root.Values.global.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of a pod template. Arguments: root, component, values, and optionally annotations. */}}
{{- define "spiderpool.podMetadata" -}}
labels:
  {{- include "spiderpool.selectorLabels" . | nindent 2 }}
  {{- with merge (dict) (default dict .values.podLabels) .root.Values.global.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default dict .values.podAnnotations) (default dict .annotations) .root.Values.global.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Image reference. Arguments: root, image. */}}
{{- define "spiderpool.image" -}}
{{- $global := .root.Values.global -}}
{{- $registry := default (default $global.imageRegistry .image.registry) $global.imageRegistryOverride -}}
{{- $name := .image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" $registry .image.repository }}{{ end -}}
{{- if .image.digest -}}
{{ printf "%s@%s" $name .image.digest }}
{{- else -}}
{{ printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) }}
{{- end -}}
{{- end -}}

{{/* Pull secrets of several images, without duplicates. Arguments: images. */}}
{{- define "spiderpool.imagePullSecrets" -}}
{{- $secrets := list -}}
{{- range .images -}}{{- $secrets = concat $secrets (default list .imagePullSecrets) -}}{{- end -}}
{{- with uniq $secrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Scheduling of a pod: priority class, node selector, affinity, tolerations. Arguments: values. */}}
{{- define "spiderpool.scheduling" -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Topology spread constraints of a pod. Arguments: root, component, values. */}}
{{- define "spiderpool.topologySpread" -}}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range . }}
  - {{- toYaml . | nindent 4 }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels:
        {{- include "spiderpool.selectorLabels" $ | nindent 8 }}
    {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* PodDisruptionBudget. Arguments: root, component, values. */}}
{{- define "spiderpool.podDisruptionBudget" -}}
{{- $p := .values.podDisruptionBudget -}}
{{- if $p.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .values.name }}
  namespace: {{ .root.Release.Namespace }}
  {{- include "spiderpool.metadata" . | nindent 2 }}
spec:
  minAvailable: {{ $p.minAvailable }}
  selector:
    matchLabels:
      {{- include "spiderpool.selectorLabels" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* Security context of containers that copy files into directories of the node. They belong to root as a rule, but some distributions unpack an archive with other owners into /opt/cni/bin, so root needs DAC_OVERRIDE. */}}
{{- define "spiderpool.installerSecurityContext" -}}
runAsUser: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add: [DAC_OVERRIDE]
# On nodes with SELinux, other types may not write to directories of the node.
seLinuxOptions:
  type: spc_t
{{- end -}}

{{/* Probes on the port "health". Arguments: values, hostNetwork: then the port is on 127.0.0.1 of the node. */}}
{{- define "spiderpool.probes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: health
    {{- if .hostNetwork }}
    host: 127.0.0.1
    {{- end }}
  failureThreshold: {{ .values.healthChecking.startupProbe.failureThreshold }}
  periodSeconds: {{ .values.healthChecking.startupProbe.periodSeconds }}
livenessProbe:
  httpGet:
    path: /healthz
    port: health
    {{- if .hostNetwork }}
    host: 127.0.0.1
    {{- end }}
  timeoutSeconds: 5
  failureThreshold: {{ .values.healthChecking.livenessProbe.failureThreshold }}
  periodSeconds: {{ .values.healthChecking.livenessProbe.periodSeconds }}
readinessProbe:
  httpGet:
    path: /readyz
    port: health
    {{- if .hostNetwork }}
    host: 127.0.0.1
    {{- end }}
  timeoutSeconds: 5
  failureThreshold: {{ .values.healthChecking.readinessProbe.failureThreshold }}
  periodSeconds: {{ .values.healthChecking.readinessProbe.periodSeconds }}
{{- end -}}

{{/* Environment variables of every Spiderpool program. */}}
{{- define "spiderpool.environment" -}}
- name: SPIDERPOOL_NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: SPIDERPOOL_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: SPIDERPOOL_POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end -}}

{{/* Log level in the configuration file. The levels fatal and panic of earlier releases become error. */}}
{{- define "spiderpool.logLevel" -}}
{{- if has . (list "fatal" "panic") }}error{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{/* Secret with the webhook certificate. A provided certificate has its own Secret, because Helm cannot take over the controller's Secret. */}}
{{- define "spiderpool.tlsSecretName" -}}
{{- $c := .Values.spiderpoolController -}}
{{- $existing := ternary $c.tls.provided.existingSecret "" (eq $c.tls.method "provided") -}}
{{- default (default (printf "%s-server-certs%s" $c.name (ternary "-provided" "" (eq $c.tls.method "provided"))) $c.tls.secretName) $existing -}}
{{- end -}}

{{/* Secret with the certificate of the agents' metrics. */}}
{{- define "spiderpool.agentTLSSecretName" -}}
{{- $a := .Values.spiderpoolAgent -}}
{{- default (printf "%s-server-certs" $a.name) $a.prometheus.tlsSecretName -}}
{{- end -}}

{{/* "true" if the metrics are for permitted clients only. Argument: values of the program. */}}
{{- define "spiderpool.secureMetrics" -}}
{{- if and .prometheus.enabled .prometheus.secure }}true{{ end -}}
{{- end -}}

{{/* "true" if the agents serve flows on TCP. */}}
{{- define "spiderpool.flowServer" -}}
{{- if and .Values.observability.enabled (or .Values.observability.server.enabled .Values.observability.relay.enabled) }}true{{ end -}}
{{- end -}}

{{/* Secrets with the certificates of the servers of flows and their clients, as a list in JSON. */}}
{{- define "spiderpool.flowSecrets" -}}
{{- with .Values.observability.server }}{{ list .tlsSecretName .relayTLSSecretName .clientTLSSecretName | toJson }}{{ end -}}
{{- end -}}

{{/* Secret with the certificate of the console. */}}
{{- define "spiderpool.consoleTLSSecretName" -}}
{{- default (printf "%s-server-certs" .Values.console.name) .Values.console.tls.secretName -}}
{{- end -}}

{{/* "true" if the controller issues the certificate of the console. */}}
{{- define "spiderpool.consoleTLSIssued" -}}
{{- with .Values.console }}{{ if and .enabled .tls.enabled (not .tls.secretName) (eq $.Values.spiderpoolController.tls.method "auto") }}true{{ end }}{{ end -}}
{{- end -}}

{{/* "true" if the console follows flows. */}}
{{- define "spiderpool.consoleFlows" -}}
{{- if and .Values.console.enabled .Values.observability.enabled .Values.observability.relay.enabled }}true{{ end -}}
{{- end -}}

{{/* Secrets that the controller creates, as a list in JSON. */}}
{{- define "spiderpool.issuedSecrets" -}}
{{- $secrets := list -}}
{{- if eq .Values.spiderpoolController.tls.method "auto" -}}
{{- $secrets = append $secrets (include "spiderpool.tlsSecretName" .) -}}
{{- if include "spiderpool.secureMetrics" .Values.spiderpoolAgent }}{{ $secrets = append $secrets (include "spiderpool.agentTLSSecretName" .) }}{{ end -}}
{{- if include "spiderpool.consoleTLSIssued" . }}{{ $secrets = append $secrets (include "spiderpool.consoleTLSSecretName" .) }}{{ end -}}
{{- if include "spiderpool.flowServer" . }}{{ $secrets = concat $secrets (include "spiderpool.flowSecrets" . | fromJsonArray) }}{{ end -}}
{{- end -}}
{{- toJson $secrets -}}
{{- end -}}

{{/* Name of the webhook configurations. If Helm writes the CA bundle (tls.method provided), the objects have another name than those with the controller's CA bundle: Helm 4 refuses to take over a field of another manager. */}}
{{- define "spiderpool.webhookName" -}}
{{- .Values.spiderpoolController.name }}{{ if eq .Values.spiderpoolController.tls.method "provided" }}-provided{{ end -}}
{{- end -}}

{{/* Annotation with a checksum of the configuration, so that a change replaces the pods. */}}
{{- define "spiderpool.configChecksum" -}}
checksum/config: {{ include "spiderpool.config" . | sha256sum }}
{{- end -}}

{{/* ClusterRole and ClusterRoleBinding. Arguments: root, component, name, annotations, rules (YAML), and optionally suffix, the end of the name. */}}
{{- define "spiderpool.clusterRole" -}}
{{- $role := printf "%s%s" .name (default "" .suffix) -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $role }}
  {{- include "spiderpool.metadata" . | nindent 2 }}
rules:
  {{- .rules | trim | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $role }}
  {{- include "spiderpool.metadata" . | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ $role }}
subjects:
  - kind: ServiceAccount
    name: {{ .name }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}

{{/* Role and RoleBinding in the namespace of the release, or in .namespace. The name of the role ends in .suffix. */}}
{{- define "spiderpool.role" -}}
{{- $namespace := default .root.Release.Namespace .namespace -}}
{{- $role := printf "%s%s" .name (default "" .suffix) -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $role }}
  namespace: {{ $namespace }}
  {{- include "spiderpool.metadata" . | nindent 2 }}
rules:
  {{- .rules | trim | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $role }}
  namespace: {{ $namespace }}
  {{- include "spiderpool.metadata" . | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $role }}
subjects:
  - kind: ServiceAccount
    name: {{ .name }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}

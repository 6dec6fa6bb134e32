{{/* Prefix of the names of objects that have no name of their own in the values. */}}
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

{{/* The metadata of an object below its name and namespace. Arguments: root, component, and optionally annotations and labels (maps). */}}
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

{{/* The metadata of a pod template. Arguments: root, component, values, and optionally annotations. */}}
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

{{/* Reference of an image. Arguments: root, image. */}}
{{- define "spiderpool.image" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistryOverride -}}
{{- $name := .image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" $registry .image.repository }}{{ end -}}
{{- if .image.digest -}}
{{ printf "%s@%s" $name .image.digest }}
{{- else -}}
{{ printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) }}
{{- end -}}
{{- end -}}

{{/* Pull secrets of images, each named once. Arguments: images. */}}
{{- define "spiderpool.imagePullSecrets" -}}
{{- $secrets := list -}}
{{- range .images -}}{{- $secrets = concat $secrets (default list .imagePullSecrets) -}}{{- end -}}
{{- with uniq $secrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Where a pod may run. Arguments: values. */}}
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

{{/* Probes on the port "health". Arguments: healthChecking. */}}
{{- define "spiderpool.probes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: health
  failureThreshold: {{ .healthChecking.startupProbe.failureThreshold }}
  periodSeconds: {{ .healthChecking.startupProbe.periodSeconds }}
livenessProbe:
  httpGet:
    path: /healthz
    port: health
  timeoutSeconds: 5
  failureThreshold: {{ .healthChecking.livenessProbe.failureThreshold }}
  periodSeconds: {{ .healthChecking.livenessProbe.periodSeconds }}
readinessProbe:
  httpGet:
    path: /readyz
    port: health
  timeoutSeconds: 5
  failureThreshold: {{ .healthChecking.readinessProbe.failureThreshold }}
  periodSeconds: {{ .healthChecking.readinessProbe.periodSeconds }}
{{- end -}}

{{/* Environment of every program of ours. */}}
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

{{/* A log level of the configuration file. The levels fatal and panic of earlier releases are errors here. */}}
{{- define "spiderpool.logLevel" -}}
{{- if has . (list "fatal" "panic") }}error{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{/* Secret with the certificate of the webhooks. One that is provided is another object than the one that the controller makes, which Helm cannot take over. */}}
{{- define "spiderpool.tlsSecretName" -}}
{{- $c := .Values.spiderpoolController -}}
{{- default (printf "%s-server-certs%s" $c.name (ternary "-provided" "" (eq $c.tls.method "provided"))) $c.tls.secretName -}}
{{- end -}}

{{/* Name of the webhook configurations. A CA bundle belongs to who wrote it (the controller, Helm), and Helm 4 refuses to take it over, so where Helm writes it the objects are others. */}}
{{- define "spiderpool.webhookName" -}}
{{- .Values.spiderpoolController.name }}{{ if eq .Values.spiderpoolController.tls.method "provided" }}-provided{{ end -}}
{{- end -}}

{{/* Annotation that replaces a pod when the configuration changes. */}}
{{- define "spiderpool.configChecksum" -}}
checksum/config: {{ include "spiderpool.config" . | sha256sum }}
{{- end -}}

{{/* A role and its binding, for the cluster. Arguments: root, component, name, annotations, rules (YAML). */}}
{{- define "spiderpool.clusterRole" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .name }}
  {{- include "spiderpool.metadata" . | nindent 2 }}
rules:
  {{- .rules | trim | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .name }}
  {{- include "spiderpool.metadata" . | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .name }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}

{{/* The same in the namespace of the release, or in .namespace, with .suffix behind the name of the role. */}}
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

{{/* A ServiceMonitor. Arguments: root, component, values (of the program), secret (with the certificate). */}}
{{- define "spiderpool.serviceMonitor" -}}
{{- $m := .values.prometheus.serviceMonitor -}}
{{- if $m.install -}}
{{- if not .values.prometheus.enabled -}}
{{- fail (printf "spiderpool%s.prometheus.serviceMonitor.install is true, but spiderpool%s.prometheus.enabled is false, so there are no metrics to collect; set both to true" (title .component) (title .component)) -}}
{{- end -}}
{{- $secure := include "spiderpool.secureMetrics" .values -}}
{{- if and $secure $m.namespace (ne $m.namespace .root.Release.Namespace) -}}
{{- fail (printf "spiderpool%s.prometheus.serviceMonitor.namespace is %s, but with prometheus.secure the ServiceMonitor must be in namespace %s, beside the Secret with the certificate authority; leave the value empty, and let the Prometheus operator select that namespace" (title .component) $m.namespace .root.Release.Namespace) -}}
{{- end -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ .values.name }}
  namespace: {{ default .root.Release.Namespace $m.namespace }}
  {{- include "spiderpool.metadata" (dict "root" .root "component" .component "labels" $m.labels "annotations" $m.annotations) | nindent 2 }}
spec:
  selector:
    matchLabels:
      {{- include "spiderpool.selectorLabels" . | nindent 6 }}
  namespaceSelector:
    matchNames: [{{ .root.Release.Namespace }}]
  endpoints:
    - port: metrics
      path: /metrics
      {{- if $secure }}
      scheme: https
      tlsConfig:
        serverName: {{ .values.name }}.{{ .root.Release.Namespace }}.svc
        ca:
          secret:
            name: {{ .secret }}
            key: ca.crt
      {{- with $m.tokenSecretName }}
      authorization:
        credentials:
          name: {{ . }}
          key: token
      {{- else }}
      bearerTokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
      {{- end }}
      {{- end }}
{{- end -}}
{{- end -}}

{{/* A PrometheusRule. Arguments: root, component, values (of the program), rules (YAML). */}}
{{- define "spiderpool.prometheusRule" -}}
{{- $r := .values.prometheus.prometheusRule -}}
{{- if $r.install -}}
{{- if not .values.prometheus.enabled -}}
{{- fail (printf "spiderpool%s.prometheus.prometheusRule.install is true, but spiderpool%s.prometheus.enabled is false, so the rules would never fire; set both to true" (title .component) (title .component)) -}}
{{- end -}}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ .values.name }}
  namespace: {{ default .root.Release.Namespace $r.namespace }}
  {{- include "spiderpool.metadata" (dict "root" .root "component" .component "labels" $r.labels "annotations" $r.annotations) | nindent 2 }}
spec:
  groups:
    - name: {{ .values.name }}
      rules:
        {{- .rules | trim | nindent 8 }}
{{- end -}}
{{- end -}}

{{- define "spiderpool.agentAlerts" -}}
- alert: SpiderpoolAddressesNotAssigned
  expr: >-
    sum by (instance) (rate(spiderpool_ipam_allocation_failure_counts_total[5m])) * 100
    > {{ .Values.spiderpoolAgent.prometheus.prometheusRule.failurePercent }}
    * sum by (instance) (rate(spiderpool_ipam_allocation_counts_total[5m]))
  for: 5m
  labels:
    severity: warning
  annotations:
    summary: Pods on {{ "{{ $labels.instance }}" }} get no addresses.
    description: >-
      More than {{ .Values.spiderpoolAgent.prometheus.prometheusRule.failurePercent }}% of the requests failed in the last five minutes.
      The pods' events list every pool with the reason why it was not used.
- alert: SpiderpoolAddressesUsedUp
  expr: sum by (instance) (increase(spiderpool_ipam_allocation_err_ip_used_out_counts_total[5m])) > 0
  for: 5m
  labels:
    severity: warning
  annotations:
    summary: Pools have no free address for pods on {{ "{{ $labels.instance }}" }}.
    description: Add addresses to the pools listed in the pods' events.
- alert: SpiderpoolRuntimeUnavailable
  expr: min by (instance) (spiderpool_container_runtime_up) == 0
  for: 15m
  labels:
    severity: warning
  annotations:
    summary: The agent {{ "{{ $labels.instance }}" }} cannot ask its container runtime.
    description: >-
      Addresses whose DEL was lost are not reclaimed on this node. The event RuntimeUnavailable of the node and
      spiderpoolctl node name the reason and the way out.
- alert: SpiderpoolPolicyNotEnforced
  expr: max by (instance) (spiderpool_policy_pods{state="failing"}) > 0
  for: 5m
  labels:
    severity: warning
  annotations:
    summary: Network policies of pods on {{ "{{ $labels.instance }}" }} are not in effect.
    description: >-
      The packet filters of some pods differ from what the policies want. The event PolicyNotEnforced of each pod names the reason.
- alert: SpiderpoolServicesOutOfDate
  expr: sum by (instance) (increase(spiderpool_service_failure_counts_total[15m])) > 0
  for: 15m
  labels:
    severity: warning
  annotations:
    summary: The eBPF maps for services on {{ "{{ $labels.instance }}" }} cannot be updated.
    description: >-
      Pods on this node may connect to endpoints that have ended, or a map is full and kube-proxy translates some services. See the
      event ServicesLeftToKubeProxy of the node and the agent's log.
- alert: SpiderpoolServiceMapAlmostFull
  expr: max by (instance, map) (spiderpool_service_entries / spiderpool_service_entries_limit) > 0.9
  for: 15m
  labels:
    severity: warning
  annotations:
    summary: The eBPF map {{ "{{ $labels.map }}" }} of {{ "{{ $labels.instance }}" }} is almost full.
    description: kube-proxy translates the services without room. Nothing fails, but their packets take the path through the node.
{{- end -}}

{{- define "spiderpool.controllerAlerts" -}}
- alert: SpiderpoolReclaimFails
  expr: sum by (instance) (increase(spiderpool_ip_gc_failure_counts_total[30m])) > 0
  for: 30m
  labels:
    severity: warning
  annotations:
    summary: Addresses of deleted pods are not reclaimed by {{ "{{ $labels.instance }}" }}.
    description: See its log for the reason. The addresses stay reserved until reclaim succeeds.
{{- end -}}

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
      {{- with $m.interval }}
      interval: {{ . }}
      {{- end }}
      {{- with $m.scrapeTimeout }}
      scrapeTimeout: {{ . }}
      {{- end }}
      {{- with $m.relabelings }}
      relabelings:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $m.metricRelabelings }}
      metricRelabelings:
        {{- toYaml . | nindent 8 }}
      {{- end }}
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
        {{- include "spiderpool.withRunbooks" . | nindent 8 }}
{{- end -}}
{{- end -}}

{{/* The alerts in .rules, each with the address of its section in the guide. */}}
{{- define "spiderpool.withRunbooks" -}}
{{- $url := .root.Values.global.runbookURL -}}
{{- $rules := fromYamlArray .rules -}}
{{- if $url -}}
{{- range $rules }}{{ $_ := set .annotations "runbook_url" (printf "%s#%s" $url (lower .alert)) }}{{ end -}}
{{- end -}}
{{- toYaml $rules -}}
{{- end -}}

{{- define "spiderpool.agentAlerts" -}}
{{- if .Values.spiderpoolAgent.prometheus.serviceMonitor.install }}{{/* It gives the metric up these labels. */}}
- alert: SpiderpoolAgentDown
  expr: up{job={{ .Values.spiderpoolAgent.name | quote }}, namespace={{ .Release.Namespace | quote }}} == 0
  for: 5m
  labels:
    severity: critical
  annotations:
    summary: The agent {{ "{{ $labels.instance }}" }} does not answer.
    description: Pods of its node neither start nor get new addresses. Running pods keep their network.
{{- end }}
{{- /* The agent ends a request after 90 seconds, so the age falls again and again. A time in "for" would never pass. */}}
- alert: SpiderpoolAllocationStuck
  expr: count_over_time((max by (instance) (spiderpool_ipam_oldest_allocation_age_seconds) > 30)[10m:1m]) >= 3
  labels:
    severity: warning
  annotations:
    summary: Pods on {{ "{{ $labels.instance }}" }} have waited for addresses for more than 30 seconds, again and again.
    description: The API server may be slow or unreachable for the agent. See the agent's log.
- alert: SpiderpoolReleasesWait
  expr: max by (instance) (spiderpool_ipam_oldest_release_age_seconds) > 600
  for: 10m
  labels:
    severity: warning
  annotations:
    summary: Releases of addresses have been on the disk of {{ "{{ $labels.instance }}" }} for more than ten minutes.
    description: The agent cannot write to the API server. The addresses of deleted pods stay in use until it can.
- alert: SpiderpoolAddressConflict
  expr: sum by (instance) (increase(spiderpool_ipam_address_conflicts_total[15m])) > 0
  labels:
    severity: warning
  annotations:
    summary: Another host answered for the address of a new pod on {{ "{{ $labels.instance }}" }}.
    description: >-
      The pod gets another address, and the pool does not hand out the old one for a while. The event IPConflict of the pod names the
      address and the hardware address of the other host.
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
      spiderpoolctl node in its agent name the reason and the way out.
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

{{/* A metric of the pools with alerts. Every replica of the controller serves it. Arguments: root, metric. */}}
{{- define "spiderpool.perPool" -}}
max by (pool, node) ({{ .metric }}{pool!="(other)"
{{- with .root.Values.spiderpoolController.prometheus.prometheusRule.poolSelector }},{{ . }}{{ end }}})
{{- end -}}

{{- define "spiderpool.controllerAlerts" -}}
{{- $r := .Values.spiderpoolController.prometheus.prometheusRule -}}
{{- $percent := $r.poolPercent -}}
{{- $free := include "spiderpool.perPool" (dict "root" . "metric" "spiderpool_pool_free_addresses") -}}
{{- $total := include "spiderpool.perPool" (dict "root" . "metric" "spiderpool_pool_addresses") -}}
{{- $levels := list
  (dict "alert" "SpiderpoolPoolFilling" "severity" "info" "from" $percent.info)
  (dict "alert" "SpiderpoolPoolAlmostFull" "severity" "warning" "from" $percent.warning)
  (dict "alert" "SpiderpoolPoolNearlyExhausted" "severity" "critical" "from" $percent.critical) -}}
{{- if or (gt (float64 $percent.info) (float64 $percent.warning)) (gt (float64 $percent.warning) (float64 $percent.critical)) -}}
{{- fail (printf "spiderpoolController.prometheus.prometheusRule.poolPercent is info %v, warning %v, critical %v; each must be at least the one before" $percent.info $percent.warning $percent.critical) -}}
{{- end -}}
{{- /* No upper bound: a pool that fills at a steady pace would leave each range before the time of its alert is over. */}}
{{- range $levels }}
- alert: {{ .alert }}
  expr: >-
    100 * (1 - {{ $free }} / {{ $total }}) >= {{ .from }}
  for: 15m
  labels:
    severity: {{ .severity }}
  annotations:
    summary: The pool {{ "{{ $labels.pool }}" }} is {{ "{{ printf \"%.0f\" $value }}" }}% full.
    description: Pods will wait for addresses when it is full. Add addresses to the pool, or another pool for its pods.
{{- end }}
- alert: SpiderpoolPoolExhausted
  expr: >-
    {{ $free }} == 0 and {{ $total }} > 0
  for: 5m
  labels:
    severity: critical
  annotations:
    summary: The pool {{ "{{ $labels.pool }}" }} has no free address.
    description: New pods that may use no other pool wait for an address. Add addresses to the pool, or another pool for its pods.
- alert: SpiderpoolReclaimBlocked
  expr: max(spiderpool_ip_gc_blocked_addresses) > 0
  for: 15m
  labels:
    severity: warning
  annotations:
    summary: Addresses of {{ "{{ $value }}" }} ended pods cannot be reclaimed.
    description: >-
      Nothing proves that the sandboxes of these pods have ended, e.g. because their node is down. spiderpoolctl reclaim --dry-run
      names each address with the reason and the way out.
- alert: SpiderpoolObjectNotReady
  expr: max by (kind, reason) (spiderpool_object_conditions{type="Ready", status="False", reason!="Terminating"}) > 0
  for: 15m
  labels:
    severity: warning
  annotations:
    summary: Objects of the kind {{ "{{ $labels.kind }}" }} are not ready ({{ "{{ $labels.reason }}" }}).
    description: The condition Ready of each object names the wrong field, its value and the way out.
- alert: SpiderpoolCloudDegraded
  expr: max by (reason) (spiderpool_object_conditions{kind="SpiderCloudNetwork", type="Degraded", status="True"}) > 0
  for: 15m
  labels:
    severity: warning
  annotations:
    summary: The pools of a SpiderCloudNetwork work, but something needs attention ({{ "{{ $labels.reason }}" }}).
    description: >-
      E.g. pools cannot get further addresses, or the cloud may give fixed addresses to others. The condition Degraded of the SpiderCloudNetwork has the way out.
- alert: SpiderpoolCertificateExpires
  expr: min by (instance, certificate) (spiderpool_certificate_expiry_timestamp_seconds) - time() < {{ $r.certificateDays }} * 86400
  for: 30m
  labels:
    severity: warning
  annotations:
    summary: The certificate {{ "{{ $labels.certificate }}" }} of {{ "{{ $labels.instance }}" }} expires in {{ "{{ $value | humanizeDuration }}" }}.
    description: Its renewal has failed or is not automatic. Without a valid certificate, the clients of this server refuse to connect.
{{- if .Values.spiderpoolController.prometheus.serviceMonitor.install }}{{/* As for the agent. */}}
- alert: SpiderpoolControllerDown
  expr: absent(up{job={{ .Values.spiderpoolController.name | quote }}, namespace={{ .Release.Namespace | quote }}} == 1)
  for: 10m
  labels:
    severity: critical
  annotations:
    summary: No replica of the controller answers.
    description: Pods still start and stop. Changes of pools and networks have no effect, and addresses of lost nodes are not reclaimed.
{{- end }}
- alert: SpiderpoolReclaimFails
  expr: sum by (instance) (increase(spiderpool_ip_gc_failure_counts_total[30m])) > 0
  for: 30m
  labels:
    severity: warning
  annotations:
    summary: Addresses of deleted pods are not reclaimed by {{ "{{ $labels.instance }}" }}.
    description: See its log for the reason. The addresses stay reserved until reclaim succeeds.
{{- end -}}

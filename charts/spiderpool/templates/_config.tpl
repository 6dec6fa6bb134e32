{{/* The configuration file. internal/config is its schema; unknown keys are an error there. */}}
{{- define "spiderpool.config" -}}
{{- $v := .Values -}}
{{- $c := $v.spiderpoolController -}}
{{- $a := $v.spiderpoolAgent -}}
{{- with $v.iaasNetworkProvider.serverUrl -}}
{{- if not $v.cloud.enabled -}}
{{- fail (printf "iaasNetworkProvider.serverUrl is %s, but nothing asks this service without cloud.enabled; set cloud.enabled to true, or leave the URL empty" .) -}}
{{- end -}}
{{- end -}}
apiVersion: config.spiderpool.spidernet.io/v1
kind: SpiderpoolConfiguration
clusterDNSDomain: {{ $v.global.clusterDnsDomain }}
ipam:
  enableIPv4: {{ $v.ipam.enableIPv4 }}
  enableIPv6: {{ $v.ipam.enableIPv6 }}
  enableStatefulSet: {{ $v.ipam.enableStatefulSet }}
  enableKubevirtStaticIP: {{ $v.ipam.enableKubevirtStaticIP }}
  enableIPConflictDetection: {{ $v.ipam.enableIPConflictDetection }}
  enableGatewayDetection: {{ $v.ipam.enableGatewayDetection }}
  enableCleanOutdatedEndpoint: {{ $v.ipam.enableCleanOutdatedEndpoint }}
  spiderSubnet:
    enable: {{ $v.ipam.spiderSubnet.enable }}
    autoPool:
      # Automatic pools need SpiderSubnets.
      enable: {{ and $v.ipam.spiderSubnet.enable $v.ipam.spiderSubnet.autoPool.enable }}
      defaultRedundantIPNumber: {{ $v.ipam.spiderSubnet.autoPool.defaultRedundantIPNumber | int }}
  gc:
    enabled: {{ $v.ipam.gc.enabled }}
    gcAll:
      intervalInSecond: {{ $v.ipam.gc.gcAll.intervalInSecond | int }}
    statelessPod:
      zombieOnReadyNode: {{ $v.ipam.gc.statelessPod.zombieOnReadyNode }}
      zombieOnNotReadyNode: {{ $v.ipam.gc.statelessPod.zombieOnNotReadyNode }}
      enableGcRunningPodOnEmptyPodStatusIPs: {{ $v.ipam.gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs }}
    gcDeletingTimeOutPodDelay: {{ $v.ipam.gc.gcDeletingTimeOutPodDelay | int }}
coordinator:
  enabled: {{ $v.coordinator.enabled }}
  name: {{ $v.coordinator.name }}
  {{- with $v.global.ciliumConfigMap }}
  ciliumConfigMap:
    namespace: {{ dir . }}
    name: {{ base . }}
  {{- end }}
  spec:
    mode: {{ $v.coordinator.mode }}
    podCIDRType: {{ $v.coordinator.podCIDRType }}
    {{- with $v.coordinator.serviceCIDR }}
    serviceCIDR: {{ toJson . }}
    {{- end }}
    {{- with $v.coordinator.overlayPodCIDR }}
    overlayPodCIDR: {{ toJson . }}
    {{- end }}
    detectGateway: {{ $v.coordinator.detectGateway }}
    detectIPConflict: {{ $v.coordinator.detectIPConflict }}
    tunePodRoutes: {{ $v.coordinator.tunePodRoutes }}
    hijackCIDR: {{ toJson $v.coordinator.hijackCIDR }}
    policyRoutes: {{ toJson $v.coordinator.policyRoutes }}
    {{- with $v.coordinator.vethLinkAddress }}
    vethLinkAddress: {{ . | quote }}
    {{- end }}
    vethMTU: {{ $v.coordinator.vethMTU | int }}
    antiSpoof: {{ $v.coordinator.antiSpoof }}
multus:
  enableMultusConfig: {{ $v.multus.enableMultusConfig }}
  {{- with $v.multus.multusCNI.defaultCniCRName }}
  defaultNetwork: {{ $.Release.Namespace }}/{{ . }}
  {{- end }}
  defaultNetworks: {{ toJson $v.multus.defaultNetworks }}
  systemNamespaces: {{ toJson $v.multus.systemNamespaces }}
service:
  mode: {{ $v.service.mode }}
  cgroup: {{ $v.service.cgroup | quote }}
  externalIPs: {{ $v.service.externalIPs }}
policy:
  enabled: {{ $v.policy.enabled }}
cloud:
  enabled: {{ $v.cloud.enabled }}
observability:
  enabled: {{ $v.observability.enabled }}
  sample: {{ $v.observability.sample }}
  flows: {{ $v.observability.flows | int }}
  metrics: {{ toJson $v.observability.metrics }}
  socketPath: {{ dir $v.global.ipamUNIXSocketHostPath }}/hubble.sock
  {{- with $v.observability.server }}
  port: {{ ternary (int .port) 0 (ne (include "spiderpool.flowServer" $) "") }}
  address: {{ .address | quote }}
  tls:
    secretName: {{ .tlsSecretName }}
    relaySecretName: {{ .relayTLSSecretName }}
    clientSecretName: {{ .clientTLSSecretName }}
    serverName: {{ $a.name }}-flows
    relayName: {{ $v.observability.relay.name }}
  {{- end }}
iaasNetworkProvider:
  serverUrl: {{ $v.iaasNetworkProvider.serverUrl | quote }}
  httpRequestTimeout: {{ $v.iaasNetworkProvider.httpRequestTimeout }}
  tlsSecret:
    namespace: {{ $v.iaasNetworkProvider.tlsSecret.namespace | quote }}
    name: {{ $v.iaasNetworkProvider.tlsSecret.name | quote }}
agent:
  logLevel: {{ include "spiderpool.logLevel" $a.debug.logLevel }}
  socketPath: {{ $v.global.ipamUNIXSocketHostPath }}
  stateDir: {{ $a.stateHostPath }}
  healthPort: {{ $a.httpPort | int }}
  healthAddress: 127.0.0.1
  metrics:
    enabled: {{ $a.prometheus.enabled }}
    port: {{ $a.prometheus.port | int }}
    address: {{ $a.prometheus.address | quote }}
    secure: {{ $a.prometheus.secure }}
    debug: {{ $a.prometheus.enabledDebugMetric }}
  tls:
    secretName: {{ include "spiderpool.agentTLSSecretName" . }}
    serviceName: {{ $a.name }}
  tuneSysctl: {{ $a.tuneSysctlConfig }}
  sysctlDir: /host/proc/sys
  {{- with $a.criSocket }}
  criSockets: [{{ quote . }}]
  {{- end }}
controller:
  logLevel: {{ include "spiderpool.logLevel" $c.debug.logLevel }}
  healthPort: {{ $c.httpPort | int }}
  # Without the node's network, the kubelet probes the address of the pod.
  healthAddress: {{ ternary "127.0.0.1" "" $c.hostnetwork | quote }}
  metrics:
    enabled: {{ $c.prometheus.enabled }}
    port: {{ $c.prometheus.port | int }}
    address: {{ $c.prometheus.address | quote }}
    secure: {{ $c.prometheus.secure }}
    debug: {{ $c.prometheus.enabledDebugMetric }}
  leaderElection:
    leaseName: {{ $c.name }}
  webhook:
    port: {{ $c.webhookPort | int }}
    serviceName: {{ $c.name }}
    mutatingWebhookConfiguration: {{ include "spiderpool.webhookName" . }}
    validatingWebhookConfiguration: {{ include "spiderpool.webhookName" . }}
    tls:
      method: {{ $c.tls.method }}
      secretName: {{ include "spiderpool.tlsSecretName" . }}
      caLifetime: {{ mul 24 (int $c.tls.auto.caExpiration) }}h
      certLifetime: {{ mul 24 (int $c.tls.auto.certExpiration) }}h
      extraIPs: {{ toJson $c.tls.auto.extraIpAddresses }}
      extraDNSNames: {{ toJson $c.tls.auto.extraDnsNames }}
  podResourceInject:
    enabled: {{ $c.podResourceInject.enabled }}
    namespacesExclude: {{ toJson $c.podResourceInject.namespacesExclude }}
    namespacesInclude: {{ toJson $c.podResourceInject.namespacesInclude }}
  addressResource:
    enabled: {{ $v.addressResource.enabled }}
  startupTaint:
    enabled: {{ $v.startupTaint.enabled }}
    daemonSet: {{ $a.name }}
console:
  {{- with $v.console }}
  enabled: {{ .enabled }}
  logLevel: {{ include "spiderpool.logLevel" .debug.logLevel }}
  port: {{ .port | int }}
  address: ""
  healthPort: {{ .httpPort | int }}
  healthAddress: {{ ternary "127.0.0.1" "" .hostnetwork | quote }}
  tls:
    enabled: {{ .tls.enabled }}
    issued: {{ empty .tls.secretName }}
    secretName: {{ include "spiderpool.consoleTLSSecretName" $ }}
    serviceName: {{ .name }}
  flows:
    server: {{ if include "spiderpool.consoleFlows" $ }}{{ $v.observability.relay.name }}.{{ $.Release.Namespace }}.svc.{{ $v.global.clusterDnsDomain }}:443{{ else }}""{{ end }}
    serverName: {{ if include "spiderpool.consoleFlows" $ }}{{ $v.observability.relay.name }}.{{ $.Release.Namespace }}.svc{{ else }}""{{ end }}
  {{- end }}
install:
  logLevel: {{ include "spiderpool.logLevel" $v.spiderpoolInit.debug.logLevel }}
  timeout: {{ $v.spiderpoolInit.timeout }}
  installMultus: {{ $v.multus.multusCNI.install }}
  defaultCNICRName: {{ $v.multus.multusCNI.defaultCniCRName | quote }}
  {{- with include "spiderpool.defaultPools" . | trim }}
  defaultPools:
    {{- . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "spiderpool.defaultPools" -}}
{{- $d := .Values.clusterDefaultPool -}}
{{- if $d.installIPv4IPPool }}
- name: {{ $d.ipv4IPPoolName }}
  subnetName: {{ $d.ipv4SubnetName | quote }}
  ipVersion: 4
  subnet: {{ required "clusterDefaultPool.ipv4Subnet is empty, but clusterDefaultPool.installIPv4IPPool is true: set the subnet of the default IPv4 pool, e.g. 172.31.16.0/20" $d.ipv4Subnet | quote }}
  ipRanges: {{ toJson $d.ipv4IPRanges }}
  gateway: {{ $d.ipv4Gateway | quote }}
{{- end }}
{{- if $d.installIPv6IPPool }}
- name: {{ $d.ipv6IPPoolName }}
  subnetName: {{ $d.ipv6SubnetName | quote }}
  ipVersion: 6
  subnet: {{ required "clusterDefaultPool.ipv6Subnet is empty, but clusterDefaultPool.installIPv6IPPool is true: set the subnet of the default IPv6 pool, e.g. fd00:31::/64" $d.ipv6Subnet | quote }}
  ipRanges: {{ toJson $d.ipv6IPRanges }}
  gateway: {{ $d.ipv6Gateway | quote }}
{{- end }}
{{- end -}}

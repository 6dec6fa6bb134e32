{{/* Job of spiderpool-init as a hook of Helm. Arguments: root, component, hook, weight, name, account, retries, log (the outcomes whose log Helm prints), args. */}}
{{- define "spiderpool.hookJob" -}}
{{- $v := .root.Values.spiderpoolInit -}}
{{- $policy := dict "helm.sh/hook-weight" .weight "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded" "helm.sh/hook-output-log-policy" .log -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  {{- include "spiderpool.metadata" (dict "root" .root "component" .component "annotations" (merge $policy .hook)) | nindent 2 }}
spec:
  backoffLimit: {{ .retries }}
  template:
    metadata:
      {{- include "spiderpool.podMetadata" (dict "root" .root "component" .component "values" $v) | nindent 6 }}
    spec:
      {{- with include "spiderpool.imagePullSecrets" (dict "images" (list $v.image)) }}{{ trim . | nindent 6 }}{{ end }}
      {{- with include "spiderpool.scheduling" (dict "values" $v) }}{{ trim . | nindent 6 }}{{ end }}
      serviceAccountName: {{ .account }}
      restartPolicy: Never
      {{- if or $v.hostnetwork .root.Values.multus.multusCNI.install }}
      # The pod network may be missing, or gone together with our Multus.
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "spiderpool.image" (dict "root" .root "image" $v.image) }}
          imagePullPolicy: {{ $v.image.pullPolicy }}
          command: [/usr/bin/spiderpool-init]
          args:
            {{- toYaml .args | nindent 12 }}
          env:
            {{- include "spiderpool.environment" .root | nindent 12 }}
          {{- with $v.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with $v.securityContext }}
          securityContext:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}

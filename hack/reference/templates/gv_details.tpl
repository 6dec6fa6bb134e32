{{- define "gvDetails" -}}
{{- $gv := . -}}
Every kind belongs to `{{ $gv.GroupVersionString }}`. CEL rules in the CRDs check what these tables cannot show; an error names the field,
the value and the way out. [Conditions](conditions.md) has the conditions of each kind, [annotations](annotations.md) the annotations and labels.

Kinds:
{{- range $gv.SortedKinds }} {{ $gv.TypeForKind . | markdownRenderTypeLink }}{{ end }}

{{ range $gv.SortedTypes }}{{ template "type" . }}{{ end }}
{{- end -}}

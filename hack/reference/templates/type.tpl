{{- define "type" -}}
{{- $type := . -}}
{{- if markdownShouldRenderType $type -}}
## {{ $type.Name }}

{{ if $type.IsAlias }}Type: {{ markdownRenderTypeLink $type.UnderlyingType }}. {{ end }}{{ $type.Doc }}
{{ if $type.References }}
Used by:{{ range $type.SortedReferences }} {{ markdownRenderTypeLink . }}{{ end }}
{{ end }}
{{ if $type.Members -}}
| field | description | default | limits |
| --- | --- | --- | --- |
{{ range $type.Members -}}
{{- if ne .Name "metadata" -}}
| `{{ .Name }}` _{{ markdownRenderType .Type }}_ | {{ markdownRenderFieldDoc .Doc | replace "<br />" " " }} | {{ markdownRenderDefault .Default }} |{{ range .Validation }}{{ template "limit" . }}{{ end }} |
{{ end -}}
{{ end }}
{{ end -}}
{{ if and $type.EnumValues (index $type.EnumValues 0).Doc -}}
| value | meaning |
| --- | --- |
{{ range $type.EnumValues -}}
| `{{ .Name }}` | {{ markdownRenderFieldDoc .Doc | replace "<br />" " " | trim }} |
{{ end }}
{{ end -}}
{{- end -}}
{{- end -}}
{{- define "limit" -}}{{ if not (or (contains "XValidation" .) (hasPrefix "Optional" .)) }} {{ . }}.{{ end }}{{- end -}}

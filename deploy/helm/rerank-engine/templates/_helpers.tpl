{{- define "rerank-engine.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "rerank-engine.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rerank-engine.labels" -}}
{{ include "rerank-engine.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "rerank-engine.secret" -}}
{{- if and .Values.apiKey.existingSecret .Values.apiKey.value }}{{ fail "apiKey: give existingSecret or value, not both" }}{{ end -}}
{{- if not (or .Values.apiKey.existingSecret .Values.apiKey.value) }}{{ fail "apiKey: the server listens on all addresses and needs a key: set apiKey.existingSecret, or apiKey.value" }}{{ end -}}
{{- .Values.apiKey.existingSecret | default (include "rerank-engine.name" .) -}}
{{- end }}

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

{{- /* "yes", or nothing where a budget would keep every node from being drained: it would ask for as many pods as there are. */}}
{{- define "rerank-engine.disruptionBudget" -}}
{{- $pods := ternary .Values.autoscaling.minReplicas .Values.replicas .Values.autoscaling.enabled }}
{{- if and .Values.podDisruptionBudget.enabled (or (kindIs "string" .Values.podDisruptionBudget.minAvailable) (lt (int .Values.podDisruptionBudget.minAvailable) (int $pods))) }}yes{{ end }}
{{- end }}

{{- define "quire.name" -}}
{{- if contains "quire" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-quire{{ end }}
{{- end -}}

{{- define "quire.isOnePod" -}}
{{- if eq .Values.topology "one-pod" }}true{{ else if ne .Values.topology "cluster" }}{{ fail (printf "topology: %q must be cluster or one-pod" .Values.topology) }}{{ end }}
{{- end -}}

{{/* The component of the pods in which a service runs. */}}
{{- define "quire.component" -}}
{{- if include "quire.isOnePod" .root }}one-pod{{ else }}{{ .service }}{{ end }}
{{- end -}}

{{- define "quire.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "quire.labels" -}}
app.kubernetes.io/name: quire
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "quire.redisSecret" -}}
{{ .Values.redis.existingSecret | default (printf "%s-redis" (include "quire.name" .)) }}
{{- end -}}

{{/* Whether Redis runs in the release. */}}
{{- define "quire.ownRedis" -}}
{{- if not (or .Values.redis.url .Values.redis.external) }}true{{ end }}
{{- end -}}

{{- define "quire.prometheus" -}}
- namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: {{ .Values.networkPolicy.monitoringNamespace }}}
{{- end -}}

{{- define "quire.dns" -}}
- to:
    - namespaceSelector:
        matchLabels: {kubernetes.io/metadata.name: kube-system}
      podSelector:
        matchLabels: {k8s-app: kube-dns}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

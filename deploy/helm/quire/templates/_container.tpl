{{/* What sets the services apart. health: port of grpc.health.v1. startup, ready: the name that is asked for; "" says that
tokens can be made, "live" that the process answers. A standby is ready, too. */}}
{{- define "quire.services" -}}
frontend: {health: 8001, ports: {http: 8000, grpc: 8001}, startup: live, startupSeconds: 120, period: 1, ready: ""}
scheduler: {health: 8002, ports: {scheduler: 8002, sched-metrics: 9002}, startup: live, startupSeconds: 60, period: 1, ready: live}
executor: {health: 8003, ports: {executor: 8003, exec-metrics: 9003}, startup: "", startupSeconds: 1800, period: 2, ready: ""}
{{- end -}}

{{/* The service's own settings of this chart; .settings of the values win. */}}
{{- define "quire.settings" -}}
{{- $name := include "quire.name" .root }}
{{- $onePod := include "quire.isOnePod" .root }}
{{- if eq .service "frontend" }}
listen: 0.0.0.0:8001
http_listen: 0.0.0.0:8000
scheduler: {{ ternary "127.0.0.1:8002" (printf "dns:%s-scheduler:8002" $name) (eq $onePod "true") }}
{{- else if eq .service "scheduler" }}
listen: 0.0.0.0:8002
metrics_listen: 0.0.0.0:9002
executors: {{ ternary "127.0.0.1:8003" (printf "dns:%s-executor:8003" $name) (eq $onePod "true") }}
{{- if $onePod }}
drain_seconds: 25
{{- end }}
{{- else }}
listen: 0.0.0.0:8003
metrics_listen: 0.0.0.0:9003
{{- if gt (int .root.Values.executor.gpus) 0 }}
device: cuda
{{- end }}
{{- end }}
{{- with .root.Values.model.path }}{{ if ne $.service "scheduler" }}
model: {{ . }}
{{- end }}{{ end }}
{{- end -}}

{{- define "quire.container" -}}
{{- $root := .root }}
{{- $values := index .root.Values .service }}
{{- $service := index (include "quire.services" . | fromYaml) .service }}
{{- $image := .service }}
{{- if eq .service "executor" }}{{ $image = ternary "executor-gpu" "executor-cpu" (gt (int $values.gpus) 0) }}{{ end }}
{{- $own := $values.settings }}
{{- if and (include "quire.isOnePod" $root) (ne .service "scheduler") }}{{ $own = omit $own "drain_seconds" }}{{ end }}
- name: {{ .service }}
  image: {{ with $root.Values.image.registry }}{{ . }}/{{ end }}quire-{{ $image }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  {{- if .isSidecar }}
  restartPolicy: Always
  {{- end }}
  command: [quire, {{ .service }}]
  env:
    {{- range $key, $value := merge (deepCopy $own) (include "quire.settings" . | fromYaml) }}
    - {name: QUIRE_{{ upper $.service }}_{{ upper $key }}, value: {{ $value | toString | quote }}}
    {{- end }}
    {{- if eq .service "scheduler" }}
    {{- if include "quire.ownRedis" $root }}
    - name: REDIS_PASSWORD
      valueFrom:
        secretKeyRef: {name: {{ include "quire.redisSecret" $root }}, key: password}
    - {name: QUIRE_SCHEDULER_REDIS, value: "redis://:$(REDIS_PASSWORD)@{{ include "quire.name" $root }}-redis:6379/0"}
    {{- else if $root.Values.redis.url }}
    - {name: QUIRE_SCHEDULER_REDIS, value: {{ $root.Values.redis.url | quote }}}
    {{- else }}
    - name: QUIRE_SCHEDULER_REDIS
      valueFrom:
        secretKeyRef: {name: {{ required "redis.external needs redis.existingSecret" $root.Values.redis.existingSecret }}, key: url}
    {{- end }}
    {{- end }}
  ports:
    {{- range $name, $port := $service.ports }}
    - {name: {{ $name }}, containerPort: {{ $port }}}
    {{- end }}
  startupProbe:
    grpc: {port: {{ $service.health }}{{ with $service.startup }}, service: {{ . }}{{ end }}}
    periodSeconds: {{ $service.period }}
    failureThreshold: {{ div $service.startupSeconds $service.period }}
  readinessProbe:
    grpc: {port: {{ $service.health }}{{ with $service.ready }}, service: {{ . }}{{ end }}}
    periodSeconds: 2
    timeoutSeconds: 1
    failureThreshold: 2
  livenessProbe:
    grpc: {port: {{ $service.health }}, service: live}
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 6
  {{- if .preStopSeconds }}
  lifecycle:
    preStop:
      sleep: {seconds: {{ .preStopSeconds }}}
  {{- end }}
  resources:
    {{- $resources := deepCopy $values.resources }}
    {{- if $values.gpus }}{{ $resources = merge $resources (dict "limits" (dict "nvidia.com/gpu" (toString $values.gpus))) }}{{ end }}
    {{- toYaml $resources | nindent 4 }}
  securityContext:
    {{- include "quire.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    {{- if ne .service "scheduler" }}
    - {name: models, mountPath: /models}
    {{- end }}
    {{- if eq .service "executor" }}
    - {name: cache, mountPath: /cache}
    {{- end }}
{{- end -}}

{{- define "quire.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "quire.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
{{- if eq (int .) 10001 }}
fsGroup: {{ . }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

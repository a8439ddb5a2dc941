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
{{- with .root.Values.security }}
{{- if .tlsSecret }}
tls_cert: /run/quire/tls/tls.crt
tls_key: /run/quire/tls/tls.key
tls_ca: /run/quire/tls/ca.crt
tls_name: {{ .tlsName }}
{{- end }}
{{- if .tokenSecret }}
service_token_file: /run/quire/token/token
{{- end }}
{{- if eq $.service "frontend" }}
{{- if .apiKeysSecret }}
api_keys: /run/quire/api-keys/keys.toml
{{- end }}
{{- if .publicTlsSecret }}
public_tls_cert: /run/quire/public-tls/tls.crt
public_tls_key: /run/quire/public-tls/tls.key
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Secrets that a service has as files below /run/quire, by name: in no environment, and read again when they change. */}}
{{- define "quire.secrets" -}}
{{- with .root.Values.security }}
{{- with .tlsSecret }}
tls: {{ . }}
{{- end }}
{{- with .tokenSecret }}
token: {{ . }}
{{- end }}
{{- if eq $.service "frontend" }}
{{- with .apiKeysSecret }}
api-keys: {{ . }}
{{- end }}
{{- with .publicTlsSecret }}
public-tls: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq .service "scheduler") (not .root.Values.redis.external) }}
{{- if or (include "quire.ownRedis" .root) .root.Values.redis.existingSecret }}
redis: {{ include "quire.redisSecret" .root }}
{{- end }}
{{- end }}
{{- end -}}

{{/* How a service is asked for its health. Kubernetes' own way speaks no TLS. */}}
{{- define "quire.asked" -}}
{{- $security := .root.Values.security }}
{{- $isPublic := eq .service "frontend" }}
{{- if ternary $security.publicTlsSecret $security.tlsSecret $isPublic }}
exec:
  command:
    - quire
    - health
    - 127.0.0.1:{{ .port }}
    - --timeout=4
    {{- with .name }}
    - --service={{ . }}
    {{- end }}
    {{- if $isPublic }}
    - --tls-ca=/run/quire/public-tls/ca.crt
    - --tls-name={{ required "security.publicTlsSecret needs security.publicTlsName" $security.publicTlsName }}
    {{- else }}
    - --tls-ca=/run/quire/tls/ca.crt
    - --tls-cert=/run/quire/tls/tls.crt
    - --tls-key=/run/quire/tls/tls.key
    - --tls-name={{ $security.tlsName }}
    {{- end }}
{{- else }}
grpc: {port: {{ .port }}{{ with .name }}, service: {{ . }}{{ end }}}
{{- end }}
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
    {{- if hasKey (include "quire.secrets" . | fromYaml) "redis" }}
    - {name: QUIRE_SCHEDULER_REDIS_PASSWORD_FILE, value: /run/quire/redis/password}
    {{- end }}
    {{- if include "quire.ownRedis" $root }}
    - {name: QUIRE_SCHEDULER_REDIS, value: "redis://quire@{{ include "quire.name" $root }}-redis:6379/0"}
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
  {{- $asked := dict "root" $root "service" .service "port" $service.health }}
  {{- $isCommand := contains "exec:" (include "quire.asked" $asked) }}
  {{- /* A command starts a process, which takes some tenths of a second of a core. */}}
  {{- $period := ternary 5 $service.period $isCommand }}
  startupProbe:
    {{- include "quire.asked" (merge (dict "name" $service.startup) $asked) | nindent 4 }}
    periodSeconds: {{ $period }}
    {{- if $isCommand }}
    timeoutSeconds: 5
    {{- end }}
    failureThreshold: {{ div $service.startupSeconds $period }}
  readinessProbe:
    {{- include "quire.asked" (merge (dict "name" $service.ready) $asked) | nindent 4 }}
    periodSeconds: {{ ternary 5 2 $isCommand }}
    timeoutSeconds: {{ ternary 5 1 $isCommand }}
    failureThreshold: 2
  livenessProbe:
    {{- include "quire.asked" (merge (dict "name" "live") $asked) | nindent 4 }}
    periodSeconds: {{ ternary 15 5 $isCommand }}
    timeoutSeconds: 5
    failureThreshold: {{ ternary 2 6 $isCommand }}
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
    {{- range $name, $_ := include "quire.secrets" . | fromYaml }}
    - {name: {{ $name }}, mountPath: /run/quire/{{ $name }}, readOnly: true}
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

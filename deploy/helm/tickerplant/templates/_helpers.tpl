{{- define "tickerplant.name" -}}
{{- if contains "tickerplant" .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{- else -}}{{ printf "%s-tickerplant" .Release.Name | trunc 40 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "tickerplant.selector" -}}
app.kubernetes.io/name: tickerplant
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tickerplant.labels" -}}
{{ include "tickerplant.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "tickerplant.check" -}}
{{- if eq .Values.mode "services" -}}
{{- if not .Values.kafka.address }}{{ fail "mode services needs kafka.address, such as kafka://broker1:9092" }}{{ end -}}
{{- if not .Values.secrets }}{{ fail "mode services needs a secret with TICKERPLANT_STORE; name it in secrets" }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* A container of the plant. Values: root, name, arguments. */}}
{{- define "tickerplant.container" -}}
- name: {{ .name }}
  image: "{{ .root.Values.image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}"
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args: {{ toJson .arguments }}
  env:
    {{- if eq .root.Values.mode "services" }}
    # The number of the pod is the name of this member. It stays the same when the pod restarts.
    - name: TICKERPLANT_INSTANCE
      valueFrom:
        fieldRef:
          fieldPath: metadata.labels['apps.kubernetes.io/pod-index']
    {{- end }}
    # The plant creates this folder with mode 0700. The volume itself belongs to the pod's group.
    - name: TICKERPLANT_DATA
      value: /data/plant
  envFrom:
    - configMapRef:
        name: {{ include "tickerplant.name" .root }}
    {{- range .root.Values.secrets }}
    - secretRef:
        name: {{ . }}
    {{- end }}
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
  volumeMounts:
    - name: data
      mountPath: /data
    - name: tmp
      mountPath: /tmp
{{- end -}}

{{- define "tickerplant.probes" -}}
ports:
  {{- if .api }}
  - name: http
    containerPort: 8000
  {{- end }}
  - name: metrics
    containerPort: 9400
startupProbe:
  httpGet: {path: /health/live, port: metrics}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /health/live, port: metrics}
  {{- toYaml .root.Values.probes | nindent 2 }}
readinessProbe:
  httpGet: {path: /health/ready, port: {{ if .api }}http{{ else }}metrics{{ end }}}
  {{- toYaml .root.Values.probes | nindent 2 }}
{{- end -}}

{{- define "tickerplant.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: 90
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

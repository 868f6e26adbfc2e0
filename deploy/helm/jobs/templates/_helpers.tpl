{{- define "jobs.fullname" -}}
{{- if contains "jobs" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-jobs" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- /* Labels that select the pods of a service; takes a dict with `root` and `name`. */}}
{{- define "jobs.selector" -}}
app.kubernetes.io/name: jobs
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "jobs.labels" -}}
{{ include "jobs.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- /* A Deployment, its headless Service for metrics and its disruption budget. Takes a dict:
       root; name: of the service and its image; user: in NATS; variable: the prefix of its variables; port: of its
       monitor; values: its part of the values; strategy; ports, env, volumes, mounts: further ones as text, may be
       empty; drain: seconds to wait before SIGTERM; scaled: whether something else sets the replicas. */}}
{{- define "jobs.service" -}}
{{- $full := printf "%s-%s" (include "jobs.fullname" .root) .name }}
{{- $nats := .root.Values.nats }}
{{- $values := .values }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $full }}
  labels: {{- include "jobs.labels" . | nindent 4 }}
spec:
  {{- if not .scaled }}
  replicas: {{ .replicas }}
  {{- end }}
  {{- with .strategy }}
  strategy: {{- toYaml . | nindent 4 }}
  {{- end }}
  selector:
    matchLabels: {{- include "jobs.selector" . | nindent 6 }}
  template:
    metadata:
      labels: {{- include "jobs.labels" . | nindent 8 }}
      {{- $annotations := merge (dict) .annotations $values.podAnnotations }}
      {{- with $annotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ add $values.grace .drain 5 }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        seccompProfile: { type: RuntimeDefault }
      {{- with .root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . | quote }}
        {{- end }}
      {{- end }}
      {{- range $field := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
      {{- with index $values $field }}
      {{ $field }}: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- end }}
      containers:
        - name: {{ .name }}
          {{- $image := printf "%s/%s:%s" .root.Values.image.registry .name (default .root.Chart.AppVersion .root.Values.image.tag) }}
          image: {{ default $image $values.image | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: { drop: [ALL] }
          ports:
            - { name: monitor, containerPort: {{ .port }} }
            {{- with .ports }}
            {{- . | nindent 12 }}
            {{- end }}
          env:
            - { name: NATS_URL, value: {{ $nats.url | quote }} }
            {{- if $nats.creds.secret }}
            - { name: NATS_CREDS, value: /etc/jobs/creds/nats.creds }
            {{- else }}
            - { name: NATS_USER, value: {{ .user | quote }} }
            - name: NATS_PASSWORD
              valueFrom:
                secretKeyRef:
                  name: {{ $nats.passwords.secret | quote }}
                  key: {{ index $nats.passwords.keys .user | quote }}
            {{- end }}
            {{- if $nats.ca.secret }}
            - { name: NATS_CA, value: /etc/jobs/ca/ca.crt }
            {{- end }}
            {{- if $nats.clientCertificate.secret }}
            - { name: NATS_CERT, value: /etc/jobs/client/tls.crt }
            - { name: NATS_KEY, value: /etc/jobs/client/tls.key }
            {{- end }}
            - { name: RUST_LOG, value: {{ .root.Values.log.filter | quote }} }
            - { name: LOG_FORMAT, value: {{ .root.Values.log.format | quote }} }
            {{- with .root.Values.otlpEndpoint }}
            - { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }} }
            {{- end }}
            # The name of the pod, so that logs, status and records say where it was.
            - name: {{ .variable }}_INSTANCE
              valueFrom: { fieldRef: { fieldPath: metadata.name } }
            - { name: {{ .variable }}_MONITOR, value: "0.0.0.0:{{ .port }}" }
            - { name: {{ .variable }}_GRACE, value: "{{ $values.grace }}s" }
            {{- with .env }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- range $name, $value := $values.env }}
            - { name: {{ $name }}, value: {{ $value | toString | quote }} }
            {{- end }}
          {{- with $values.secretEnv }}
          envFrom:
            {{- range . }}
            - secretRef: { name: {{ . | quote }} }
            {{- end }}
          {{- end }}
          # Alive as long as the process runs: a restart does not help while NATS is away.
          livenessProbe:
            httpGet: { path: /livez, port: monitor }
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          readinessProbe:
            httpGet: { path: /readyz, port: monitor }
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 3
          {{- if .drain }}
          # It is taken out of the Service meanwhile, and still answers.
          lifecycle:
            preStop:
              exec: { command: [sleep, "{{ .drain }}"] }
          {{- end }}
          resources: {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - { name: tmp, mountPath: /tmp }
            {{- if $nats.creds.secret }}
            - { name: creds, mountPath: /etc/jobs/creds, readOnly: true }
            {{- end }}
            {{- if $nats.ca.secret }}
            - { name: ca, mountPath: /etc/jobs/ca, readOnly: true }
            {{- end }}
            {{- if $nats.clientCertificate.secret }}
            - { name: client, mountPath: /etc/jobs/client, readOnly: true }
            {{- end }}
            {{- with .mounts }}
            {{- . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: { medium: Memory, sizeLimit: {{ $values.tmpSize }} }
        {{- if $nats.creds.secret }}
        - name: creds
          secret:
            secretName: {{ $nats.creds.secret | quote }}
            items: [{ key: {{ index $nats.passwords.keys .user | quote }}, path: nats.creds }]
        {{- end }}
        {{- if $nats.ca.secret }}
        - name: ca
          secret:
            secretName: {{ $nats.ca.secret | quote }}
            items: [{ key: {{ $nats.ca.key | quote }}, path: ca.crt }]
        {{- end }}
        {{- if $nats.clientCertificate.secret }}
        - name: client
          secret: { secretName: {{ $nats.clientCertificate.secret | quote }} }
        {{- end }}
        {{- with .volumes }}
        {{- . | nindent 8 }}
        {{- end }}
---
# For metrics only: no service connects to another one.
apiVersion: v1
kind: Service
metadata:
  name: {{ $full }}-monitor
  labels:
    {{- include "jobs.labels" . | nindent 4 }}
    jobs/monitor: "true"
spec:
  clusterIP: None
  # One that is not ready says why in its metrics.
  publishNotReadyAddresses: true
  selector: {{- include "jobs.selector" . | nindent 4 }}
  ports:
    - { name: monitor, port: {{ .port }}, targetPort: monitor }
{{- if (default dict $values.disruptionBudget).enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $full }}
  labels: {{- include "jobs.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $values.disruptionBudget.maxUnavailable }}
  # One that is not ready does no work, so it may go.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "jobs.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- /* The jobs of these kinds that wait or run, for Prometheus. A kind has no characters that a regular expression
       knows but its dots; in a pattern, `*` stands for one token and `>` at the end for the rest. */}}
{{- define "jobs.backlog" -}}
{{- $kinds := list }}
{{- range .Values.consumer.kinds }}
{{- $kinds = append $kinds (. | replace "." "[.]" | replace "*" "[^.]+" | replace ">" ".+") }}
{{- end }}
{{- $filter := "" }}
{{- if $kinds }}{{ $filter = printf "{kind=~\"%s\"}" (join "|" $kinds) }}{{ end }}
{{- printf "sum(max by (kind) (jobs_backlog%s))" $filter }}
{{- end }}

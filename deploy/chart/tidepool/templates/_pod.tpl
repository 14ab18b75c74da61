{{- define "tidepool.pod" -}}
metadata:
  labels:
    {{- include "tidepool.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    checksum/config: {{ include "tidepool.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "tidepool.serviceAccount" . }}
  automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .Values.shutdownDelaySeconds .Values.drainSeconds 15 }}
  securityContext: {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.kind "StatefulSet" }}
  topologySpreadConstraints:
    {{- with .Values.topologySpreadConstraints }}{{ toYaml . | nindent 4 }}{{ else }}
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "tidepool.selector" $ | nindent 10 }}
    {{- end }}
    {{- end }}
  {{- end }}
  {{- $containerd := and (eq .Values.kind "DaemonSet") (ne .Values.containerd.mode "off") }}
  {{- if or $containerd .Values.extraInitContainers }}
  initContainers:
    {{- with .Values.extraInitContainers }}{{ toYaml . | nindent 4 }}{{ end }}
    {{- if $containerd }}{{ include "tidepool.containerd" . | nindent 4 }}{{ end }}
  {{- end }}
  containers:
    - name: tidepool
      image: {{ include "tidepool.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      env: {{- include "tidepool.env" . | nindent 8 }}
      ports:
        - name: door
          containerPort: 5000
          {{- if eq .Values.kind "DaemonSet" }}
          hostPort: {{ .Values.hostPort.port }}
          {{- with .Values.hostPort.hostIP }}
          hostIP: {{ . }}
          {{- end }}
          {{- end }}
        - {name: gossip, containerPort: 7946, protocol: TCP}
        - {name: gossip-udp, containerPort: 7946, protocol: UDP}
        - {name: peer, containerPort: 7947}
        {{- if .Values.admin.expose }}
        - {name: admin, containerPort: 5001}
        {{- end }}
      # By exec, as the admin listener may be on loopback. Ready is after its start, and not from SIGTERM on; alive is also
      # who drains.
      startupProbe:
        exec: {command: [/usr/bin/tidepool, health, --live]}
        periodSeconds: 2
        timeoutSeconds: 6
        failureThreshold: 60
      readinessProbe:
        exec: {command: [/usr/bin/tidepool, health]}
        periodSeconds: 5
        timeoutSeconds: 6
        failureThreshold: 2
      livenessProbe:
        exec: {command: [/usr/bin/tidepool, health, --live]}
        periodSeconds: 20
        timeoutSeconds: 10
        failureThreshold: 4
      resources: {{- toYaml .Values.resources | nindent 8 }}
      securityContext: {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - {name: data, mountPath: /var/lib/tidepool}
        - {name: config, mountPath: /etc/tidepool, readOnly: true}
        {{- if include "tidepool.clustered" . }}
        - {name: cluster, mountPath: /run/tidepool/cluster, readOnly: true}
        {{- end }}
        {{- if include "tidepool.papers" . }}
        - {name: papers, mountPath: /run/tidepool/papers, readOnly: true}
        {{- end }}
        {{- if .Values.tls.existingSecret }}
        - {name: tls, mountPath: /run/tidepool/tls, readOnly: true}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes: {{- include "tidepool.volumes" . | nindent 4 }}
{{- end -}}

{{- /* What pods of one file differ in. A DaemonSet's pod has a new name each time, its node has not. */ -}}
{{- define "tidepool.env" -}}
{{- $field := "metadata.name" -}}
{{- if eq .Values.kind "DaemonSet" }}{{ $field = "spec.nodeName" }}{{ end -}}
{{- if include "tidepool.clustered" . -}}
- name: TIDEPOOL_CLUSTER_NAME
  valueFrom: {fieldRef: {fieldPath: {{ $field }}}}
- name: TIDEPOOL_CLUSTER_ADVERTISE
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- if eq .Values.cluster.zone "node" }}
- name: TIDEPOOL_CLUSTER_ZONE
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- else if eq .Values.cluster.zone "label" }}
- name: TIDEPOOL_CLUSTER_ZONE
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
{{- end }}
{{- if include "tidepool.papers" . }}
{{- range $variable, $file := dict "CERT" "tls.crt" "KEY" "tls.key" "CA" "ca.crt" }}
- name: TIDEPOOL_CLUSTER_TLS_{{ $variable }}
  value: /run/tidepool/papers/$(TIDEPOOL_CLUSTER_NAME)/{{ $file }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- else }}
{{- if not (include "tidepool.clustered" .) }}[]{{ end }}
{{- end }}
{{- end -}}

{{- define "tidepool.volumes" -}}
- name: config
  configMap: {name: {{ include "tidepool.fullname" . }}}
{{- if eq (include "tidepool.volume" .) "hostPath" }}
- name: data
  hostPath: {path: {{ .Values.persistence.hostPath }}, type: Directory}
{{- else if eq (include "tidepool.volume" .) "emptyDir" }}
- name: data
  emptyDir: {sizeLimit: {{ .Values.persistence.size }}}
{{- end }}
{{- if include "tidepool.clustered" . }}
- name: cluster
  secret:
    secretName: {{ include "tidepool.secretName" . }}
    defaultMode: 0440
    items: [{key: {{ .Values.cluster.secretKey }}, path: secret}]
{{- end }}
{{- if include "tidepool.papers" . }}
- name: papers
  projected:
    defaultMode: 0440
    sources:
      {{- range $n := until (int .Values.replicas) }}
      - secret:
          name: {{ $.Values.cluster.tls.secretPrefix }}-{{ $n }}
          items:
            {{- range list "tls.crt" "tls.key" "ca.crt" }}
            - {key: {{ . }}, path: {{ include "tidepool.fullname" $ }}-{{ $n }}/{{ . }}}
            {{- end }}
      {{- end }}
{{- end }}
{{- with .Values.tls.existingSecret }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- if and (eq .Values.kind "DaemonSet") (ne .Values.containerd.mode "off") }}
- name: containerd
  hostPath: {path: {{ .Values.containerd.directory }}, type: DirectoryOrCreate}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Root, as containerd's directory is root's, and without any other right. */ -}}
{{- define "tidepool.containerd" -}}
- name: containerd
  image: {{ include "tidepool.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - setup
    - containerd
    - --root=/host
    {{- if eq .Values.containerd.mode "undo" }}
    - --undo
    {{- else }}
    - --write
    - --address={{ ternary "https" "http" (not (empty .Values.tls.existingSecret)) }}://{{ default "$(NODE_IP)" .Values.hostPort.hostIP }}:{{ .Values.hostPort.port }}
    {{- if .Values.containerd.fallback }}
    - --fallback
    {{- end }}
    {{- end }}
  env:
    - name: NODE_IP
      valueFrom: {fieldRef: {fieldPath: status.hostIP}}
  resources: {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    runAsNonRoot: false
    runAsUser: 0
    runAsGroup: 0
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
  volumeMounts:
    - {name: containerd, mountPath: /host/etc/containerd}
{{- end -}}

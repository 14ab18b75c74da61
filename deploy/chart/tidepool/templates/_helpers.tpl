{{- define "tidepool.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tidepool.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tidepool.labels" -}}
{{ include "tidepool.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "tidepool.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "tidepool.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "tidepool.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- /* "true" where there are others to share with. */ -}}
{{- define "tidepool.clustered" -}}
{{- if and .Values.cluster.enabled (or (eq .Values.kind "DaemonSet") (gt (int .Values.replicas) 1)) -}}true{{- end -}}
{{- end -}}

{{- /* "true" where members are given certificates. All have those of all, as pods of one template have the same Secrets. */ -}}
{{- define "tidepool.papers" -}}
{{- if and (include "tidepool.clustered" .) .Values.cluster.tls.secretPrefix -}}
{{- if eq .Values.kind "DaemonSet" -}}
{{- fail "cluster.tls.secretPrefix names a Secret for each numbered pod, which a DaemonSet does not have: leave it out, and members make certificates from their secret" -}}
{{- end -}}
true
{{- end -}}
{{- end -}}

{{- define "tidepool.secretName" -}}
{{ default (printf "%s-cluster" (include "tidepool.fullname" .)) .Values.cluster.existingSecret }}
{{- end -}}

{{- /* pvc: a volume of its own; hostPath; emptyDir. */ -}}
{{- define "tidepool.volume" -}}
{{- if .Values.persistence.hostPath -}}hostPath
{{- else if and .Values.persistence.enabled (eq .Values.kind "StatefulSet") -}}pvc
{{- else -}}emptyDir
{{- end -}}
{{- end -}}

{{- /* Of a file system that is not its own a share would be of what others need: four fifths of the size, in tidepool's units. */ -}}
{{- define "tidepool.disk" -}}
{{- if .Values.disk -}}{{ .Values.disk }}
{{- else if eq (include "tidepool.volume" .) "pvc" -}}80%
{{- else -}}
{{- $n := regexFind "^[0-9]+" .Values.persistence.size | int64 -}}
{{- $smaller := dict "Mi" "KiB" "Gi" "MiB" "Ti" "GiB" -}}
{{ div (mul $n 1024 4) 5 }}{{ get $smaller (regexFind "[A-Z]i$" .Values.persistence.size) }}
{{- end -}}
{{- end -}}

{{- /* tidepool's own file. What the chart sets stands over config. */ -}}
{{- define "tidepool.config" -}}
{{- $own := dict
  "listen" ":5000"
  "admin" (ternary ":5001" "127.0.0.1:5001" .Values.admin.expose)
  "data" "/var/lib/tidepool"
  "disk" (include "tidepool.disk" .)
  "memory" .Values.memory
  "shutdown_delay" (printf "%ds" (int .Values.shutdownDelaySeconds))
  "drain" (printf "%ds" (int .Values.drainSeconds)) -}}
{{- if include "tidepool.clustered" . -}}
{{- $cluster := dict
  "bind" (printf "%s:7946" .Values.cluster.address)
  "peer_listen" (printf "%s:7947" .Values.cluster.address)
  "secret_file" "/run/tidepool/cluster/secret"
  "join" (list (printf "%s-headless.%s.svc" (include "tidepool.fullname" .) .Release.Namespace)) -}}
{{- if gt (int .Values.cluster.replicas) 1 -}}
{{- $_ := set $cluster "replicas" (int .Values.cluster.replicas) -}}
{{- end -}}
{{- with .Values.cluster.repairRate -}}
{{- $_ := set $cluster "repair_rate" . -}}
{{- end -}}
{{- $_ := set $own "cluster" $cluster -}}
{{- end -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $own "door" (dict "tls_cert" "/run/tidepool/tls/tls.crt" "tls_key" "/run/tidepool/tls/tls.key") -}}
{{- end -}}
{{ mustMergeOverwrite (deepCopy .Values.config) $own | toYaml }}
{{- end -}}

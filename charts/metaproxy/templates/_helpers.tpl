{{/* What a name may be at most, of which no dash is left at the end. */}}
{{- define "metaproxy.cut" -}}
{{- regexReplaceAll "-+$" (trunc 63 .) "" }}
{{- end }}

{{- define "metaproxy.name" -}}
{{- include "metaproxy.cut" (default .Chart.Name .Values.nameOverride) }}
{{- end }}

{{- define "metaproxy.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- include "metaproxy.cut" .Values.fullnameOverride }}
{{- else if contains (include "metaproxy.name" .) .Release.Name }}
{{- include "metaproxy.cut" .Release.Name }}
{{- else }}
{{- include "metaproxy.cut" (printf "%s-%s" .Release.Name (include "metaproxy.name" .)) }}
{{- end }}
{{- end }}

{{/* The name of an object beside the DaemonSet: of (list . "metrics"). The end tells them apart, so it is never cut. */}}
{{- define "metaproxy.beside" -}}
{{- $end := index . 1 }}
{{- printf "%s-%s" (include "metaproxy.fullname" (index . 0) | trunc (sub 62 (len $end) | int) | trimAll "-") $end }}
{{- end }}

{{- define "metaproxy.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "metaproxy.serviceAccountName" -}}
{{- default (ternary (include "metaproxy.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* Never the version: a DaemonSet's selector cannot be changed. */}}
{{- define "metaproxy.selectorLabels" -}}
app.kubernetes.io/name: {{ include "metaproxy.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{- define "metaproxy.labels" -}}
app.kubernetes.io/name: {{ include "metaproxy.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of (dict "image" IMAGE "chart" .Chart). */}}
{{- define "metaproxy.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .chart.AppVersion .image.tag) }}
{{- end }}
{{- end }}

{{/* Whether Prometheus asks from outside of the node: then the metrics cannot stay on loopback. */}}
{{- define "metaproxy.scraped" -}}
{{- if or .Values.podMonitor.enabled .Values.serviceMonitor.enabled }}true{{ end }}
{{- end }}

{{/* The agent's settings as they stand in its file: what the operator says, and the metrics' addresses if scraped. */}}
{{- define "metaproxy.config" -}}
{{- $config := deepCopy .Values.config }}
{{- if include "metaproxy.scraped" . }}
{{- range $group, $port := dict "admin" 9181 "redirect" 9182 }}
{{- $settings := default dict (get $config $group) }}
{{- if not $settings.listen }}
{{- $_ := set $config $group (merge (dict "listen" (printf "0.0.0.0:%v" $port)) $settings) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := $config }}
{{- if and (kindIs "map" $value) (empty $value) }}
{{- $_ := unset $config $name }}
{{- end }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* The port of a group's listener: of (list . "admin"). */}}
{{- define "metaproxy.port" -}}
{{- $config := include "metaproxy.config" (index . 0) | fromYaml }}
{{- $listen := (get $config (index . 1)).listen }}
{{- if not (regexMatch ":0*[1-9][0-9]*$" $listen) }}
{{- fail (printf "config.%s.listen: %s has no port at which Prometheus could ask" (index . 1) $listen) }}
{{- end }}
{{- regexFind "[0-9]+$" $listen }}
{{- end }}

{{/* Whom the agent runs as: the image's user, unless the values say otherwise. */}}
{{- define "metaproxy.user" -}}
{{- dig "runAsUser" 65532 .Values.securityContext | int64 }}
{{- end }}
{{- define "metaproxy.group" -}}
{{- dig "runAsGroup" 65532 .Values.securityContext | int64 }}
{{- end }}

{{/* Whether the agent takes the startup taint off its node. */}}
{{- define "metaproxy.taint" -}}
{{- if dig "node" "remove_startup_taint" false .Values.config }}true{{ end }}
{{- end }}

{{/* The redirect's rights, and nothing else of root's. */}}
{{- define "metaproxy.netAdmin" -}}
runAsNonRoot: false
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- if eq (default "auto" (default dict .Values.config.redirect).backend) "iptables-legacy" }}
  # Legacy iptables speaks to the kernel over a raw socket.
  add: [NET_ADMIN, NET_RAW]
  {{- else }}
  add: [NET_ADMIN]
  {{- end }}
{{- end }}

{{/* A container of the redirect: of (dict "root" . "name" NAME "verb" VERB). */}}
{{- define "metaproxy.redirect" -}}
{{- $ := .root -}}
name: {{ .name }}
image: {{ include "metaproxy.image" (dict "image" $.Values.redirect.image "chart" $.Chart) }}
imagePullPolicy: {{ $.Values.redirect.image.pullPolicy }}
command: [metaproxy, redirect, {{ .verb }}]
terminationMessagePolicy: FallbackToLogsOnError
env:
- name: METAPROXY_CONFIG
  value: /etc/metaproxy/config.yaml
- name: METAPROXY_NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
resources: {{- toYaml $.Values.redirect.resources | nindent 2 }}
securityContext: {{- include "metaproxy.netAdmin" $ | nindent 2 }}
volumeMounts:
- name: config
  mountPath: /etc/metaproxy
  readOnly: true
- name: xtables-lock
  mountPath: /run/xtables.lock
{{- end }}

{{/* Values that are well formed and cannot work: told before anything is installed, all of them at once. */}}
{{- define "metaproxy.checks" -}}
{{- $wrong := list }}
{{- $config := .Values.config }}
{{- $surge := include "metaproxy.surge" . }}
{{- $extra := list }}
{{- range .Values.extraVolumeMounts }}
{{- $extra = append $extra (toString .mountPath | trimSuffix "/") }}
{{- end }}

{{/* How pods are replaced. */}}
{{- $drain := dig "handover" "drain" 20.0 $config }}
{{- if le (float64 .Values.terminationGracePeriodSeconds) (addf $drain 5) }}
{{- $wrong = append $wrong (printf "terminationGracePeriodSeconds: %v s end a pod that serves others' last requests for %v s and its own for 5 s more" .Values.terminationGracePeriodSeconds $drain) }}
{{- end }}
{{- if eq .Values.updateStrategy.type "RollingUpdate" }}
{{- $rolling := .Values.updateStrategy.rollingUpdate }}
{{- $unavailable := not (regexMatch "^0+%?$" (toString $rolling.maxUnavailable)) }}
{{- $more := not (regexMatch "^0+%?$" (toString $rolling.maxSurge)) }}
{{- if and $more $unavailable }}
{{- $wrong = append $wrong "updateStrategy.rollingUpdate: maxUnavailable must be 0 where there is a surge: Kubernetes takes one of the two" }}
{{- else if not (or $more $unavailable) }}
{{- $wrong = append $wrong "updateStrategy.rollingUpdate: with maxSurge 0 and maxUnavailable 0 no pod could ever be replaced" }}
{{- end }}
{{- end }}

{{/* Files: the root of every container is read-only, and some of them two pods must share, or must not. */}}
{{- $handover := dig "handover" "socket" "" $config }}
{{- $socket := dig "admin" "socket" "" $config }}
{{- if and $surge (not $handover) }}
{{- $wrong = append $wrong "config.handover.socket: without it a new pod cannot take over from the running one, and waits for its end: set updateStrategy.rollingUpdate to maxSurge 0, maxUnavailable 1" }}
{{- end }}
{{- if and $surge (not $socket) }}
{{- $wrong = append $wrong "config.admin.socket: without it a new pod's probes would be answered by the old one: set updateStrategy.rollingUpdate to maxSurge 0, maxUnavailable 1" }}
{{- end }}
{{- if and $surge .Values.redirect.enabled .Values.redirect.watch (not (dig "redirect" "socket" "" $config)) }}
{{- $wrong = append $wrong "config.redirect.socket: without it the probes of a new pod's watch would be answered by the old one: set updateStrategy.rollingUpdate to maxSurge 0, maxUnavailable 1" }}
{{- end }}
{{- if and (not $socket) (eq (dig "admin" "listen" "" $config) "none") }}
{{- $wrong = append $wrong "config.admin.listen: with none, and without config.admin.socket, no probe could be answered" }}
{{- end }}
{{- range $setting, $folder := dict "handover.socket" "/run/metaproxy" "tokens.key_file" "/run/metaproxy" "admin.socket" "/run/metaproxy-admin" "redirect.socket" "/run/metaproxy-redirect" }}
{{- $path := get (default dict (get $config (splitList "." $setting | first))) (splitList "." $setting | last) }}
{{- if $path }}
{{- $held := false }}
{{- range ternary (list $folder) (prepend $extra $folder) (eq $setting "redirect.socket") }}
{{- if hasPrefix (printf "%s/" .) $path }}{{ $held = true }}{{ end }}
{{- end }}
{{- if not $held }}
{{- $wrong = append $wrong (printf "config.%s: %s is in no folder that can be written to there: it is %s%s" $setting $path $folder (ternary "" ", or one of extraVolumeMounts" (eq $setting "redirect.socket"))) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whom the agent runs as. */}}
{{- $context := .Values.securityContext }}
{{- if eq (toString $context.runAsUser) "0" }}
{{- $wrong = append $wrong "securityContext.runAsUser: the agent needs no root, and who is root on a node can have everything of it" }}
{{- end }}
{{- if ne (hasKey $context "runAsUser") (hasKey $context "runAsGroup") }}
{{- $wrong = append $wrong "securityContext: give runAsUser and runAsGroup both, or neither: the node's folder is made for that group" }}
{{- end }}
{{- if $surge }}
{{- $running := include "metaproxy.running" . | fromYaml }}
{{- range $what, $now := dict "securityContext.runAsUser" (include "metaproxy.user" .) "stateDirectory" .Values.stateDirectory "config.handover.socket" $handover }}
{{- $before := get $running $what }}
{{- if and $before (ne $before $now) }}
{{- $wrong = append $wrong (printf "%s: %s where the running pods have %s: a new pod could not take over from them, and waits for their end. To change it with a gap on each node, set updateStrategy.rollingUpdate to maxSurge 0, maxUnavailable 1 for this upgrade" $what $now $before) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where is listened. */}}
{{- if and $surge .Values.redirect.enabled (not .Values.redirect.watch) }}
{{- $now := dig "redirect" "port" 8181 $config }}
{{- $before := default $now (get (include "metaproxy.running" . | fromYaml) "config.redirect.port") }}
{{- if ne (toString $now) (toString $before) }}
{{- $wrong = append $wrong (printf "config.redirect.port: %v where pods are led to %v now: without redirect.watch nobody would lead them on when the new agent listens. To change it with a gap on each node, set updateStrategy.rollingUpdate to maxSurge 0, maxUnavailable 1 for this upgrade" $now $before) }}
{{- end }}
{{- end }}
{{- if and .Values.redirect.enabled (dig "server" "listen" list $config) }}
{{- $port := dig "redirect" "port" 8181 $config }}
{{- $met := false }}
{{- range list "169.254.170.254" "[fd00:a9fe:170::254]" "0.0.0.0" "[::]" }}
{{- if has (printf "%s:%v" . $port) $config.server.listen }}{{ $met = true }}{{ end }}
{{- end }}
{{- if not $met }}
{{- $wrong = append $wrong (printf "config.server.listen: pods are led to port %v of 169.254.170.254 and fd00:a9fe:170::254, and nobody would listen there; leave it out" $port) }}
{{- end }}
{{- end }}
{{- if and .Values.redirect.enabled .Values.redirect.watch }}
{{- $effective := include "metaproxy.config" . | fromYaml }}
{{- $admin := dig "admin" "listen" "127.0.0.1:9181" $effective }}
{{- $watch := dig "redirect" "listen" "127.0.0.1:9182" $effective }}
{{- $hosts := list (regexReplaceAll ":[0-9]+$" $admin "") (regexReplaceAll ":[0-9]+$" $watch "") }}
{{- $meet := or (eq (first $hosts) (last $hosts)) (has "0.0.0.0" $hosts) (has "[::]" $hosts) }}
{{- if and $meet (eq (regexFind "[0-9]+$" $admin) (regexFind "[0-9]+$" $watch)) (ne $admin "none") }}
{{- $wrong = append $wrong (printf "config.redirect.listen: %s, where config.admin.listen is %s: they are processes of one node, and cannot both have that port" $watch $admin) }}
{{- end }}
{{- end }}

{{/* What the agent itself would refuse, one pod at a time. */}}
{{- $duration := dig "sts" "session_duration" 3600 $config }}
{{- if and (lt (float64 $duration) 3600.0) (not (dig "sts" "force_session_duration" false $config)) }}
{{- $wrong = append $wrong (printf "config.sts.session_duration: %v s leave too little life to sit out an outage of STS; give 3600, or config.sts.force_session_duration" $duration) }}
{{- end }}
{{- if and (gt (float64 $duration) 3600.0) $config.assume_role_arn }}
{{- $wrong = append $wrong "config.sts.session_duration: AWS gives a role that was assumed by a role (config.assume_role_arn) at most 3600 s" }}
{{- end }}
{{- if not $config.cluster_name }}
{{- range prepend (values (dig "sts" "session_tags" dict $config)) (printf "%s%s" (dig "sts" "session_name" "" $config) (dig "sts" "source_identity" "" $config)) }}
{{- if contains "{cluster}" . }}
{{- $wrong = append $wrong "config.cluster_name: a template of config.sts uses {cluster}: name it" }}
{{- end }}
{{- end }}
{{- end }}
{{- if dig "source" "manifests" list $config }}
{{- if dig "source" "kubeconfig" "" $config }}
{{- $wrong = append $wrong "config.source: manifests and kubeconfig: pods have one source; give one of them" }}
{{- end }}
{{- if dig "node" "remove_startup_taint" false $config }}
{{- $wrong = append $wrong "config.node.remove_startup_taint: with config.source.manifests there is no node object" }}
{{- end }}
{{- end }}

{{/* What is added must not take the place of what is there. */}}
{{- range .Values.extraEnv }}
{{- if hasPrefix "METAPROXY_" (upper .name) }}
{{- $wrong = append $wrong (printf "extraEnv: %s: settings of the agent are values below config" .name) }}
{{- end }}
{{- end }}
{{- range .Values.extraVolumes }}
{{- if has .name (list "state" "admin" "redirect" "token" "config" "xtables-lock") }}
{{- $wrong = append $wrong (printf "extraVolumes: the chart has a volume %s itself: give yours another name" .name) }}
{{- end }}
{{- end }}
{{- range $extra }}
{{- if has . (list "/run/metaproxy" "/run/metaproxy-admin" "/run/metaproxy-redirect" "/etc/metaproxy" "/var/run/secrets/kubernetes.io/serviceaccount") }}
{{- $wrong = append $wrong (printf "extraVolumeMounts: the chart mounts something at %s itself" .) }}
{{- end }}
{{- end }}
{{- $ours := keys (include "metaproxy.labels" (dict "Values" (dict "nameOverride" "" "commonLabels" dict) "Chart" .Chart "Release" .Release) | fromYaml) (include "metaproxy.selectorLabels" . | fromYaml) | uniq }}
{{- range $where, $labels := dict "commonLabels" .Values.commonLabels "podLabels" .Values.podLabels }}
{{- range $ours }}
{{- if hasKey $labels . }}
{{- $wrong = append $wrong (printf "%s: the chart sets the label %s itself, and finds its pods by it" $where .) }}
{{- end }}
{{- end }}
{{- end }}
{{- range list "checksum/config" "kubectl.kubernetes.io/default-container" }}
{{- if hasKey $.Values.podAnnotations . }}
{{- $wrong = append $wrong (printf "podAnnotations: the chart sets %s itself" .) }}
{{- end }}
{{- end }}

{{- with $wrong }}
{{- fail (join "\n" (prepend (uniq .) "values that cannot work:")) }}
{{- end }}
{{- end }}

{{/* Whether a new pod is made beside the old one. */}}
{{- define "metaproxy.surge" -}}
{{- if and (eq .Values.updateStrategy.type "RollingUpdate") (not .Values.cleanup) (not (regexMatch "^0+%?$" (toString .Values.updateStrategy.rollingUpdate.maxSurge))) }}true{{ end }}
{{- end }}

{{/* What the pods that run now were made of, as far as a successor must have the same; nothing where helm asks no cluster. */}}
{{- define "metaproxy.running" -}}
{{- $found := dict }}
{{- with lookup "apps/v1" "DaemonSet" (include "metaproxy.namespace" .) (include "metaproxy.fullname" .) }}
{{- range .spec.template.spec.volumes }}
{{- if eq .name "state" }}{{ $_ := set $found "stateDirectory" .hostPath.path }}{{ end }}
{{- end }}
{{- range .spec.template.spec.containers }}
{{- if and $found (eq .name "metaproxy") }}{{ $_ := set $found "securityContext.runAsUser" (dig "securityContext" "runAsUser" 65532 . | int64 | toString) }}{{ end }}
{{- end }}
{{- end }}
{{- if $found }}
{{- with lookup "v1" "ConfigMap" (include "metaproxy.namespace" .) (include "metaproxy.fullname" .) }}
{{- $config := index .data "config.yaml" | fromYaml }}
{{- $_ := set $found "config.handover.socket" (dig "handover" "socket" "" $config) }}
{{- $_ := set $found "config.redirect.port" (dig "redirect" "port" 8181 $config) }}
{{- end }}
{{- end }}
{{- toYaml $found }}
{{- end }}

{{- /* What each value may be is in values.schema.json. Here is what they may not be together. */ -}}
{{- define "ostiary.checks" -}}
{{- $ports := dict (toString (int .Values.containerPort)) "containerPort" -}}
{{- $others := list (list "adminPort" .Values.adminPort) -}}
{{- if .Values.metrics.enabled }}{{ $others = append $others (list "metrics.port" .Values.metrics.port) }}{{ end -}}
{{- range $others -}}
{{- $port := last . | int | toString -}}
{{- if hasKey $ports $port }}{{ fail (printf "%s: %s is that of %s, and two cannot listen on one port of a pod: give one of them another" (first .) $port (get $ports $port)) }}{{ end -}}
{{- $_ := set $ports $port (first .) -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas: %d is more than maxReplicas, %d: lower the one or raise the other" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- with .Values.policy.polling -}}
{{- if gt (int .min_delay_seconds) (int .max_delay_seconds) -}}
{{- fail (printf "policy.polling.min_delay_seconds: %d is more than max_delay_seconds, %d, and OPA would not start: lower the one or raise the other" (int .min_delay_seconds) (int .max_delay_seconds)) -}}
{{- end -}}
{{- end -}}
{{- $seen := dict -}}
{{- range .Values.networkPolicy.protected -}}
{{- $one := printf "%s in namespace %s" .name (.namespace | default $.Release.Namespace) -}}
{{- if hasKey $seen $one }}{{ fail (printf "networkPolicy.protected: there are two of the name %s, and only the later would be protected: give one of them another name" $one) }}{{ end -}}
{{- $_ := set $seen $one true -}}
{{- end -}}
{{- $own := include "ostiary.labels" . | fromYaml -}}
{{- range $label, $_ := .Values.podLabels -}}
{{- if hasKey $own $label }}{{ fail (printf "podLabels: %s is set by the chart, which finds its pods by such labels: leave it out" $label) }}{{ end -}}
{{- end -}}
{{- if not (include "ostiary.private" .) -}}
{{- with .Values.policy -}}
{{- if .tokenSecret }}{{ fail "policy.url: over http the token of policy.tokenSecret would be read on the way: use https, or leave the token out" }}{{ end -}}
{{- if not .verification }}{{ fail "policy.url: over http another policy could be put in the place of yours on the way: use https, or say in policy.verification whose signature it has" }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Something, if nobody on the way can read what goes to the server of bundles. */ -}}
{{- define "ostiary.private" -}}
{{- if regexMatch "^(https://|http://(127\\.0\\.0\\.1|localhost|\\[::1\\])([:/]|$))" .Values.policy.url }}yes{{ end -}}
{{- end }}

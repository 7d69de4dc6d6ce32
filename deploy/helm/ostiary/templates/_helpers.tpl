{{- define "ostiary.name" -}}
{{- if contains "ostiary" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-ostiary" (.Release.Name | trunc 42) }}{{ end }}
{{- end }}

{{- define "ostiary.selector" -}}
app.kubernetes.io/name: ostiary
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ostiary.labels" -}}
{{ include "ostiary.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "ostiary.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "ostiary.admin" -}}
127.0.0.1:{{ .Values.adminPort }}
{{- end }}

{{- /* ostiary.yaml: what the pod decides, over what the values say. */ -}}
{{- define "ostiary.config" -}}
{{- $signing := "/run/secrets/ostiary/signing" -}}
{{- $listen := dict "data" (printf "0.0.0.0:%d" (int .Values.containerPort)) "admin" (include "ostiary.admin" .) -}}
{{- $usual := ternary 443 80 (ne .Values.tls.secretName "") -}}
{{- if ne (int .Values.service.port) $usual -}}
{{- $ports := append (dig "listen" "public_ports" list .Values.config) (int .Values.service.port) -}}
{{- $_ := set $listen "public_ports" (uniq $ports) -}}
{{- end -}}
{{- if .Values.tls.secretName -}}
{{- $_ := set $listen "tls" (dict "certificate" "/run/secrets/ostiary/tls/tls.crt" "key" "/run/secrets/ostiary/tls/tls.key") -}}
{{- end -}}
{{- $key := dict "key_file" (printf "%s/%s" $signing .Values.signingKey.key) -}}
{{- with .Values.signingKey.extraKeys -}}
{{- $files := list -}}
{{- range . }}{{ $files = append $files (printf "%s/%s" $signing .) }}{{ end -}}
{{- $_ := set $key "extra_keys" $files -}}
{{- end -}}
{{- $opa := dict "url" "unix:///run/opa/opa.sock" -}}
{{- $policy := .Values.policy -}}
{{- $private := include "ostiary.private" . -}}
{{- $token := ternary (dict "token_file" "/run/secrets/ostiary/bundles/token") dict (not (empty $policy.tokenSecret)) -}}
{{- if $policy.reports -}}
{{- if not $private }}{{ fail "policy.reports: the proxy passes reports on over https, and policy.url is not that" }}{{ end -}}
{{- $_ := set $opa "report_to" (merge (dict "url" $policy.url) $token) -}}
{{- end -}}
{{- /* Beside the bundle, if it is on a server that has files: the way back to an older one, by the same key. */ -}}
{{- $files := ne (dig "services" "policy" "type" "" $policy.opa) "oci" -}}
{{- if and $policy.verification $private $files -}}
{{- $statement := printf "%s/%s.rollback" (trimSuffix "/" $policy.url) $policy.resource -}}
{{- $verification := dict
  "key_file" "/etc/ostiary/release.pub.pem"
  "key_id" $policy.verification.keyId
  "scope" (default "ostiary" $policy.verification.scope)
  "algorithm" (default "ES256" $policy.verification.algorithm) -}}
{{- $_ := set $opa "rollback" (merge (dict "url" $statement "verification" $verification) $token) -}}
{{- end -}}
{{- $own := dict
  "listen" $listen
  "state" "/var/lib/ostiary/state"
  "audit" (dict "path" "/var/lib/ostiary/audit")
  "opa" $opa
  "signing" $key
  "secrets" (dict "group_readable" true) -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $own) }}
{{- end }}

{{- /* Its reports go to the proxy, which so knows at once of another bundle. */ -}}
{{- define "ostiary.opa" -}}
{{- $policy := .Values.policy -}}
{{- $service := dict "url" $policy.url -}}
{{- if $policy.tokenSecret -}}
{{- $_ := set $service "credentials" (dict "bearer" (dict "token_path" "/run/secrets/ostiary/bundles/token")) -}}
{{- end -}}
{{- $bundle := dict "service" "policy" "resource" $policy.resource "persist" true "polling" $policy.polling -}}
{{- $opa := dict
  "labels" (dict "proxy" "${POD_NAME}" "resource" $policy.resource)
  "services" (dict "policy" $service "proxy" (dict "url" (printf "http://%s" (include "ostiary.admin" .))))
  "persistence_directory" "/var/lib/opa"
  "status" (dict "prometheus" true "service" "proxy") -}}
{{- with $policy.verification -}}
{{- $_ := set $bundle "signing" (dict "keyid" .keyId "scope" (default "ostiary" .scope)) -}}
{{- $_ := set $opa "keys" (dict .keyId (dict "algorithm" (default "ES256" .algorithm) "key" .publicKey)) -}}
{{- end -}}
{{- $_ := set $opa "bundles" (dict "ostiary" $bundle) -}}
{{- toYaml (mergeOverwrite $opa (deepCopy $policy.opa)) }}
{{- end }}

{{- define "ostiary.securityContext" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end }}

{{- define "tensile.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of an object; pass (list $ component). */}}
{{- define "tensile.labels" -}}
{{- $root := index . 0 -}}
{{ include "tensile.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{/* Labels that select the pods of a component; pass (list $ component). */}}
{{- define "tensile.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: tensile
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "tensile.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* What all pods of ours have in common: they never run on a virtual node, and as nobody. */}}
{{- define "tensile.podSpec" -}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tensile.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "tensile.container" -}}
image: {{ include "tensile.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- include "tensile.securityContext" . | nindent 2 }}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
{{- end -}}

{{/* The container of a hook: it ends by itself, so it has no probes. */}}
{{- define "tensile.cli" -}}
image: {{ include "tensile.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- include "tensile.securityContext" . | nindent 2 }}
command: [/usr/bin/kubectl-tensile]
resources:
  requests: {cpu: 10m, memory: 16Mi}
  limits: {memory: 128Mi}
{{- end -}}

{{/* Flags of all components. */}}
{{- define "tensile.args" -}}
- --admin-listen=0.0.0.0:9090
- --log-format={{ .Values.logFormat }}
- {{ printf "--log-level=%s" .Values.logLevel | quote }}
- --system-namespace={{ .Release.Namespace }}
{{- end -}}

{{/* The flag on whose value webhook, virtual node and scheduler must agree. */}}
{{- define "tensile.ignoredKeys" -}}
- {{ printf "--ignore-selector-keys=%s" (join "," .Values.ignoreSelectorKeys) | quote }}
{{- end -}}

{{/* Labels and annotations of a component's pods; pass (list $ component). */}}
{{- define "tensile.podMetadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "tensile.labels" . | nindent 2 }}
  {{- with $root.Values.podLabels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with $root.Values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Off virtual nodes, and replicas on several nodes if possible; pass (list $ component). */}}
{{- define "tensile.affinity" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - {key: type, operator: NotIn, values: [virtual-kubelet]}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "tensile.selector" . | nindent 12 }}
{{- end -}}

{{/* At most one pod of a component is away; pass (list $ component name replicas wanted). */}}
{{- define "tensile.budget" -}}
{{- $root := index . 0 -}}
{{- $component := list $root (index . 1) -}}
{{- if and (index . 4) (gt (int (index . 3)) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ index . 2 }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "tensile.labels" $component | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "tensile.selector" $component | nindent 6 }}
{{- end }}
{{- end -}}

{{/* A service account; pass (list $ component name). */}}
{{- define "tensile.serviceAccount" -}}
{{- $root := index . 0 -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ index . 2 }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "tensile.labels" (list $root (index . 1)) | nindent 4 }}
{{- end -}}

{{/* Gives the service account `name` the ClusterRole `role`; pass (list $ component name role binding). */}}
{{- define "tensile.clusterBinding" -}}
{{- $root := index . 0 -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ index . 4 }}
  labels: {{- include "tensile.labels" (list $root (index . 1)) | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ index . 3 | quote }}}
subjects:
  - {kind: ServiceAccount, name: {{ index . 2 }}, namespace: {{ $root.Release.Namespace }}}
{{- end -}}

{{/* Gives the service account `name` the Role `role` of a namespace; pass (list $ component name role namespace binding). */}}
{{- define "tensile.binding" -}}
{{- $root := index . 0 -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ index . 5 }}
  namespace: {{ index . 4 }}
  labels: {{- include "tensile.labels" (list $root (index . 1)) | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ index . 3 | quote }}}
subjects:
  - {kind: ServiceAccount, name: {{ index . 2 }}, namespace: {{ $root.Release.Namespace }}}
{{- end -}}

{{/* Rule: the Secrets of lower clusters, followed; a rule about Secrets by label does not exist. */}}
{{- define "tensile.clusterSecrets" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [list, watch]
{{- end -}}

{{/* Rule: the Lease `name`, which the chart makes, so that nobody needs to create any. */}}
{{- define "tensile.leaseRule" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ . }}]
  verbs: [get, update]
{{- end -}}

{{/* An empty object that a component fills, here so that it needs no right to create any and goes with the release; pass
     (list $ component apiVersion kind name). */}}
{{- define "tensile.vessel" -}}
{{- $root := index . 0 -}}
apiVersion: {{ index . 2 }}
kind: {{ index . 3 }}
metadata:
  name: {{ index . 4 }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "tensile.labels" (list $root (index . 1)) | nindent 4 }}
{{- end -}}

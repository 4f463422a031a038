// Package k8s_test holds what deploy/k8s promises: it builds the kustomization
// in memory, decodes every object strictly into Kubernetes' own types, so that
// a misspelt field fails, and checks the facts that meterd relies on.
package k8s_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// deploy is relative to this directory, where "go test" and "make check" start the test.
const deploy = "../../deploy/k8s"

// objects are the kustomization's, one of each kind.
type objects struct {
	account    corev1.ServiceAccount
	config     corev1.ConfigMap
	deployment appsv1.Deployment
	service    corev1.Service
	budget     policyv1.PodDisruptionBudget
	network    networkingv1.NetworkPolicy
}

// build decodes each object into its kind's field, and fails on a kind that is
// not there, appears twice, or has no field.
func build(t *testing.T) *objects {
	t.Helper()

	result, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), deploy)
	require.NoError(t, err)

	var o objects
	missing := map[string]any{
		"v1/ServiceAccount":                  &o.account,
		"v1/ConfigMap":                       &o.config,
		"apps/v1/Deployment":                 &o.deployment,
		"v1/Service":                         &o.service,
		"policy/v1/PodDisruptionBudget":      &o.budget,
		"networking.k8s.io/v1/NetworkPolicy": &o.network,
	}
	for _, resource := range result.Resources() {
		kind := path.Join(resource.GetApiVersion(), resource.GetKind())
		object, ok := missing[kind]
		require.True(t, ok, "%s %s: unknown, or the second of its kind", kind, resource.GetName())
		delete(missing, kind)
		text, err := resource.MarshalJSON()
		require.NoError(t, err)
		// as the API server does it: the case of a name counts too
		strict, err := json.UnmarshalStrict(text, object)
		require.NoError(t, err, "%s %s", kind, resource.GetName())
		require.Empty(t, strict, "%s %s", kind, resource.GetName())
	}
	require.Empty(t, missing, "not in the kustomization")
	return &o
}

func (o *objects) pod() corev1.PodSpec { return o.deployment.Spec.Template.Spec }

func (o *objects) container(t *testing.T) corev1.Container {
	t.Helper()
	require.Len(t, o.pod().Containers, 1)
	require.Empty(t, o.pod().InitContainers)
	return o.pod().Containers[0]
}

// settings are the parts of meterd.yaml that must agree with the pod.
type settings struct {
	Kafka struct {
		SASL struct {
			PasswordFile string `json:"password_file"`
		} `json:"sasl"`
	} `json:"kafka"`
	State struct {
		Dir string `json:"dir"`
	} `json:"state"`
	HTTP struct {
		Listen     string `json:"listen"`
		TokensFile string `json:"tokens_file"`
	} `json:"http"`
}

func (o *objects) settings(t *testing.T) settings {
	t.Helper()
	var s settings
	require.NoError(t, yaml.Unmarshal([]byte(o.config.Data["meterd.yaml"]), &s))
	return s
}

func TestOldPodsEndBeforeNewOnesStart(t *testing.T) {
	t.Parallel()
	spec := build(t).deployment.Spec
	require.Equal(t, appsv1.RecreateDeploymentStrategyType, spec.Strategy.Type)
	require.Nil(t, spec.Strategy.RollingUpdate)
	require.EqualValues(t, 1, *spec.Replicas)
	require.EqualValues(t, 60, *spec.Template.Spec.TerminationGracePeriodSeconds)
}

func TestPodIsRestricted(t *testing.T) {
	t.Parallel()
	o := build(t)
	pod := o.pod()
	require.True(t, *pod.SecurityContext.RunAsNonRoot)
	require.EqualValues(t, 65532, *pod.SecurityContext.RunAsUser)
	require.EqualValues(t, 65532, *pod.SecurityContext.RunAsGroup)
	require.EqualValues(t, 65532, *pod.SecurityContext.FSGroup)
	require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, pod.SecurityContext.SeccompProfile.Type)
	require.False(t, pod.HostNetwork || pod.HostPID || pod.HostIPC)

	security := o.container(t).SecurityContext
	require.False(t, *security.AllowPrivilegeEscalation)
	require.True(t, *security.ReadOnlyRootFilesystem)
	require.Equal(t, []corev1.Capability{"ALL"}, security.Capabilities.Drop)
	require.Empty(t, security.Capabilities.Add)
	require.Nil(t, security.Privileged)
	require.Nil(t, security.RunAsUser, "the pod's user stands")
}

func TestPodNeverTalksToKubernetes(t *testing.T) {
	t.Parallel()
	o := build(t)
	require.Equal(t, o.account.Name, o.pod().ServiceAccountName)
	require.False(t, *o.account.AutomountServiceAccountToken)
	require.False(t, *o.pod().AutomountServiceAccountToken)
}

func TestProbes(t *testing.T) {
	t.Parallel()
	c := build(t).container(t)
	require.Equal(t, "/readyz", c.StartupProbe.HTTPGet.Path)
	require.Equal(t, "/readyz", c.ReadinessProbe.HTTPGet.Path)
	require.Equal(t, "/livez", c.LivenessProbe.HTTPGet.Path)
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		require.Equal(t, "http", probe.HTTPGet.Port.String())
		require.LessOrEqual(t, probe.TimeoutSeconds, probe.PeriodSeconds)
	}
	require.EqualValues(t, 30*60, c.StartupProbe.PeriodSeconds*c.StartupProbe.FailureThreshold, "seconds for a long restore")
	require.Len(t, c.Ports, 1)
	require.Equal(t, "http", c.Ports[0].Name)
	require.EqualValues(t, 8080, c.Ports[0].ContainerPort)
}

func TestResources(t *testing.T) {
	t.Parallel()
	r := build(t).container(t).Resources
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		require.False(t, r.Requests.Name(name, "").IsZero(), name)
	}
	require.Equal(t, 1, r.Limits.Memory().Cmp(*r.Requests.Memory()))
	require.True(t, r.Limits.Cpu().IsZero(), "throttling in a transaction loses partitions")
}

func TestConfigurationFitsThePod(t *testing.T) {
	t.Parallel()
	o := build(t)
	c, s := o.container(t), o.settings(t)
	require.Equal(t, []string{"run", "--config", "/etc/meterd/meterd.yaml"}, c.Args)
	require.Empty(t, c.Command, "the image's entry point stands")
	require.Equal(t, "0.0.0.0:8080", s.HTTP.Listen)

	mounts := map[string]corev1.VolumeMount{}
	for _, mount := range c.VolumeMounts {
		mounts[mount.MountPath] = mount
	}
	require.Len(t, mounts, 2)
	require.True(t, mounts["/etc/meterd"].ReadOnly)
	require.False(t, mounts[s.State.Dir].ReadOnly, "state.dir is the one writable place")

	files, state := o.volumes(t, mounts["/etc/meterd"].Name, mounts[s.State.Dir].Name)
	require.Contains(t, files, "/etc/meterd/meterd.yaml")
	require.Contains(t, files, s.HTTP.TokensFile, "without tokens meterd listens on loopback alone")
	require.Contains(t, files, s.Kafka.SASL.PasswordFile)
	require.NotNil(t, state.EmptyDir)
	require.Positive(t, state.EmptyDir.SizeLimit.Value())
	require.Equal(t, 1, c.Resources.Limits.StorageEphemeral().Cmp(*state.EmptyDir.SizeLimit), "a full state must not evict the pod before its limit")
}

// volumes returns the paths of the files that the volume config brings, and
// the volume state.
func (o *objects) volumes(t *testing.T, config, state string) (files []string, stateVolume corev1.Volume) {
	t.Helper()
	for _, volume := range o.pod().Volumes {
		switch volume.Name {
		case state:
			stateVolume = volume
		case config:
			require.EqualValues(t, 0o440, *volume.Projected.DefaultMode)
			for _, source := range volume.Projected.Sources {
				if source.ConfigMap != nil {
					require.Equal(t, o.config.Name, source.ConfigMap.Name, "the generated name")
					for name := range o.config.Data {
						files = append(files, path.Join("/etc/meterd", name))
					}
					continue
				}
				require.Equal(t, "meterd", source.Secret.Name)
				for _, item := range source.Secret.Items {
					files = append(files, path.Join("/etc/meterd", item.Path))
				}
			}
		}
	}
	return files, stateVolume
}

func TestChangedConfigurationRollsThePods(t *testing.T) {
	t.Parallel()
	require.Regexp(t, `^meterd-[a-z0-9]{10}$`, build(t).config.Name)
}

func TestInstancesFindOneAnother(t *testing.T) {
	t.Parallel()
	env := build(t).container(t).Env
	ip := slices.IndexFunc(env, func(e corev1.EnvVar) bool { return e.Name == "POD_IP" })
	advertise := slices.IndexFunc(env, func(e corev1.EnvVar) bool { return e.Name == "METERD_HTTP_ADVERTISE" })
	require.GreaterOrEqual(t, ip, 0)
	require.Equal(t, "status.podIP", env[ip].ValueFrom.FieldRef.FieldPath)
	require.Greater(t, advertise, ip, "only an earlier variable is expanded")
	require.Equal(t, "$(POD_IP):8080", env[advertise].Value)
}

func TestSelectorsFindThePods(t *testing.T) {
	t.Parallel()
	o := build(t)
	pod := labels.Set(o.deployment.Spec.Template.Labels)
	require.NotEmpty(t, pod)
	selectors := map[string]*metav1.LabelSelector{
		"deployment":     o.deployment.Spec.Selector,
		"service":        {MatchLabels: o.service.Spec.Selector},
		"budget":         o.budget.Spec.Selector,
		"network policy": &o.network.Spec.PodSelector,
	}
	for name, selector := range selectors {
		require.NotNil(t, selector, name)
		parsed, err := metav1.LabelSelectorAsSelector(selector)
		require.NoError(t, err)
		require.False(t, parsed.Empty(), "%s selects everything", name)
		require.True(t, parsed.Matches(pod), name)
	}
	require.Len(t, o.service.Spec.Ports, 1)
	require.Equal(t, "http", o.service.Spec.Ports[0].TargetPort.String())
	require.EqualValues(t, 1, o.budget.Spec.MaxUnavailable.IntValue())
}

func TestNetworkPolicyNamesWhatIsNeeded(t *testing.T) {
	t.Parallel()
	spec := build(t).network.Spec
	require.ElementsMatch(t, []networkingv1.PolicyType{"Ingress", "Egress"}, spec.PolicyTypes)

	require.Len(t, spec.Ingress, 1)
	require.Equal(t, []string{"TCP/8080"}, ports(spec.Ingress[0].Ports))

	var out []string
	for _, rule := range spec.Egress {
		require.NotEmpty(t, rule.Ports, "a rule without ports opens all of them")
		out = append(out, ports(rule.Ports)...)
	}
	require.ElementsMatch(t, []string{
		"UDP/53", "TCP/53", // DNS
		"TCP/9092", "TCP/9093", // Kafka
		"TCP/8081",             // schema registry
		"TCP/8888", "TCP/8082", // Druid
		"TCP/8080", // the other instances
	}, out)
}

func ports(of []networkingv1.NetworkPolicyPort) []string {
	var names []string
	for _, p := range of {
		names = append(names, strings.Join([]string{string(*p.Protocol), p.Port.String()}, "/"))
	}
	return names
}

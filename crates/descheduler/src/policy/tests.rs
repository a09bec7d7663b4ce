use super::*;

const HEAD: &str = "apiVersion: descheduler/v1alpha2\nkind: DeschedulerPolicy\n";

fn parse(rest: &str) -> Result<Policy, String> {
    Policy::parse(&format!("{HEAD}{rest}")).map_err(|error| error.to_string())
}

fn mk_profile(rest: &str) -> String {
    format!("profiles:\n- name: tensile\n{rest}")
}

#[test]
fn a_policy_of_upstreams_shape_is_read_whole() {
    let policy = parse(
        "
nodeSelector: zone=a
maxNoOfPodsToEvictPerNode: 3
maxNoOfPodsToEvictPerNamespace: 4
maxNoOfPodsToEvictTotal: 5
gracePeriodSeconds: 30
profiles:
- name: tensile
  pluginConfig:
  - name: DefaultEvictor
    args:
      podProtections:
        defaultDisabled: [PodsWithLocalStorage, BarePods]
        extraEnabled: [PodsWithPVC]
      priorityThreshold: {value: 1000}
      avoidForSeconds: 60
  - name: UnschedulableBelow
    args:
      thresholdSeconds: 5
      maxPodLifeTimeSeconds: 600
      namespaces: {exclude: [batch]}
  - name: MakeRoom
    args: {maxVictims: 2}
  - name: SpreadViolation
    args: {thresholdSeconds: 7}
  plugins:
    deschedule: {enabled: [UnschedulableBelow]}
    balance: {enabled: [MakeRoom, SpreadViolation]}
    filter: {enabled: [DefaultEvictor]}
    preEvictionFilter: {enabled: [DefaultEvictor]}
",
    )
    .unwrap();
    let expected = Policy {
        profile: "tensile".into(),
        limits: Limits {
            per_node: Some(3),
            per_namespace: Some(4),
            total: Some(5),
        },
        node_selector: Some("zone=a".parse().unwrap()),
        grace_period: Some(30),
        protected: [
            Mark::Static,
            Mark::DaemonSet,
            Mark::PreferNoEviction,
            Mark::Critical,
            Mark::Claim,
        ]
        .into(),
        priority_threshold: Some(1000),
        avoid_for: 60,
        unschedulable_below: Some(unschedulable_below::Args {
            threshold_seconds: 5,
            max_pod_life_time_seconds: Some(600),
            namespaces: Namespaces {
                exclude: ["batch".to_owned()].into(),
                ..Namespaces::default()
            },
        }),
        make_room: Some(make_room::Args {
            max_victims: 2,
            ..make_room::Args::default()
        }),
        spread_violation: Some(spread_violation::Args {
            threshold_seconds: 7,
            ..spread_violation::Args::default()
        }),
    };
    assert_eq!(policy, expected);
}

#[test]
fn one_strategy_is_on_by_default_and_can_be_switched_off() {
    for (plugins, on) in [
        ("", true),
        ("  plugins: {deschedule: {disabled: [UnschedulableBelow]}}", false),
        ("  plugins: {deschedule: {disabled: ['*']}}", false),
        (
            "  plugins: {deschedule: {enabled: [UnschedulableBelow], disabled: ['*']}}",
            true,
        ),
        // Arguments switch nothing on.
        (
            "  pluginConfig: [{name: UnschedulableBelow, args: {}}]\n  plugins: {deschedule: {disabled: ['*']}}",
            false,
        ),
        ("  pluginConfig: [{name: MakeRoom, args: {}}]", true),
        ("  pluginConfig: [{name: SpreadViolation, args: {}}]", true),
    ] {
        let policy = parse(&mk_profile(plugins)).unwrap();
        assert_eq!(policy.unschedulable_below.is_some(), on, "{plugins}");
        assert_eq!(
            (policy.make_room, policy.spread_violation),
            (None, None),
            "{plugins}"
        );
    }
}

#[test]
fn the_policy_of_tensile_kube_is_read() {
    let policy = |enabled: &str| {
        Policy::parse(&format!(
            "apiVersion: descheduler/v1alpha1\nkind: DeschedulerPolicy\nstrategies:\n  \"PodLifeTime\":\n    \
             enabled: {enabled}\n    params:\n      maxPodLifeTimeSeconds: 180\n"
        ))
        .unwrap()
    };
    let args = unschedulable_below::Args {
        max_pod_life_time_seconds: Some(180),
        ..unschedulable_below::Args::default()
    };
    assert_eq!(policy("true").unschedulable_below, Some(args));
    assert_eq!(policy("false").unschedulable_below, None);
}

#[test]
fn what_cannot_be_meant_is_refused_with_line_and_remedy() {
    for (text, line, problem) in [
        (
            "maxNoOfPodsToEvictPerNod: 3\nprofiles: []",
            3,
            "maxNoOfPodsToEvictPerNod",
        ),
        ("profiles: []", 3, "there are 0 profiles; give exactly one"),
        (
            "maxNoOfPodsToEvictTotal: 2\nmaxNoOfPodsToEvictPerNode: 3\nprofiles: []",
            4,
            "a part may have 3 evictions, but all together only 2 (line 3); raise",
        ),
        (
            "maxNoOfPodsToEvictTotal: 0\nprofiles: []",
            3,
            "a limit of 0 evicts nothing; leave",
        ),
        ("nodeSelector: a in b\nprofiles: []", 3, "nodeSelector: "),
        (
            &mk_profile("  plugins:\n    deschedule:\n      enabled: [RemoveDuplicates]"),
            7,
            "deschedule has no plugin \"RemoveDuplicates\"; it has UnschedulableBelow",
        ),
        (
            &mk_profile("  plugins:\n    deschedule:\n      enabled: [MakeRoom]"),
            7,
            "deschedule has no plugin \"MakeRoom\"",
        ),
        (
            &mk_profile("  pluginConfig:\n  - name: LowNodeUtilization\n    args: {}"),
            6,
            "LowNodeUtilization",
        ),
        (
            &mk_profile("  pluginConfig:\n  - name: UnschedulableBelow\n    args:\n      threshold: 5"),
            8,
            "threshold",
        ),
        (
            &mk_profile("  pluginConfig:\n  - name: DefaultEvictor\n    args: {avoidForSeconds: 0}"),
            6,
            "avoidForSeconds is 0",
        ),
        (
            &mk_profile(
                "  pluginConfig:\n  - name: MakeRoom\n    args: {}\n  - name: MakeRoom\n    args: {maxVictims: 1}",
            ),
            8,
            "MakeRoom is configured twice; keep one of them",
        ),
        (
            &mk_profile("  pluginConfig:\n  - name: MakeRoom\n    args: {maxVictims: 0}"),
            6,
            "maxVictims",
        ),
        ("a: [", 0, ""),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(problem), "{text}: {error}");
        if line > 0 {
            assert!(
                error.starts_with(&format!("policy, line {line}: ")),
                "{text}: {error}"
            );
        }
    }
}

#[test]
fn a_file_of_another_kind_or_version_is_refused() {
    for (text, problem) in [
        (
            "apiVersion: v1\nkind: DeschedulerPolicy",
            "line 1: apiVersion is \"v1\"; it must be",
        ),
        (
            "apiVersion: descheduler/v1alpha2\nkind: Pod",
            "line 2: kind is \"Pod\"; it must be",
        ),
        (
            "apiVersion: descheduler/v1alpha1\nkind: DeschedulerPolicy\nstrategies:\n  RemoveDuplicates:\n    enabled: true",
            "strategy \"RemoveDuplicates\" is not known",
        ),
    ] {
        let error = Policy::parse(text).unwrap_err().to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn namespaces_are_included_or_excluded() {
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let only = Namespaces {
        include: set(&["a"]),
        exclude: set(&[]),
    };
    let but = Namespaces {
        include: set(&[]),
        exclude: set(&["a"]),
    };
    assert_eq!((only.admit("a"), only.admit("b")), (true, false));
    assert_eq!((but.admit("a"), but.admit("b")), (false, true));
    assert!(Namespaces::default().admit("a"));
}

use clap::{Args as _, FromArgMatches as _};
use insta::assert_snapshot;

use super::*;

const DATA: &str = "/data";

fn parse(file: &str, overrides: &[Override]) -> Result<Config, String> {
    let parsed = Config::parse(Some(("reinback.yaml", file.as_bytes())), overrides, Path::new(DATA));
    parsed.map_err(|problems| Problems(problems).to_string())
}

fn flags(words: &[&str]) -> Result<ConfigArgs, clap::Error> {
    let command = ConfigArgs::augment_args(clap::Command::new("reinback"));
    ConfigArgs::from_arg_matches(&command.try_get_matches_from([&["reinback"], words].concat())?)
}

/// The problems of a file that is right but for these lines.
fn problems(lines: &str) -> String {
    parse(&format!("cluster: prod\nsource: {{url: 'https://git.example.org/ops.git'}}\n{lines}\n"), &[])
        .expect_err("it has a problem")
}

fn each(values: &[&str], wrap: impl Fn(&str) -> String) -> String {
    values.iter().map(|value| problems(&wrap(value))).collect::<Vec<_>>().join("\n")
}

const MINIMAL: &str = "cluster: prod\nsource: {url: 'https://git.example.org/ops/rancher.git'}\n";

#[test]
fn what_is_left_out_has_its_default() {
    let config = parse(MINIMAL, &[]).expect("it is valid");
    assert_snapshot!(format!("{config:#?}"), @r#"
    Config {
        cluster: "prod",
        source: Source {
            url: Url {
                scheme: "https",
                cannot_be_a_base: false,
                username: "",
                password: None,
                host: Some(
                    Domain(
                        "git.example.org",
                    ),
                ),
                port: None,
                path: "/ops/rancher.git",
                query: None,
                fragment: None,
            },
            branch: "main",
            path: "",
            interval: 60s,
            secret_dir: None,
        },
        status: StatusTarget {
            url: Url {
                scheme: "https",
                cannot_be_a_base: false,
                username: "",
                password: None,
                host: Some(
                    Domain(
                        "git.example.org",
                    ),
                ),
                port: None,
                path: "/ops/rancher.git",
                query: None,
                fragment: None,
            },
            secret_dir: None,
            branch: "reinback/prod",
            author_name: "reinback",
            author_email: "reinback@localhost",
        },
        store: None,
        rancher: Rancher {
            namespace: "cattle-system",
            deployment: "rancher",
            url: None,
        },
        operator_namespace: "cattle-resources-system",
        policy: Policy {
            timeout: 2700s,
            max_hold: 86400s,
            max_prune_share: 20,
            on_failure: Hold,
            safety_backup: true,
            safety_backups: SafetyBackups {
                count: 5,
                days: 30,
            },
            repair: false,
            require_approval: [],
            verify: Verify {
                required: Usual,
                cluster_timeout: 600s,
            },
        },
        rates: Rates {
            qps: 0,
            concurrency: 0,
        },
        data_dir: "/data",
    }
    "#);
}

#[test]
fn every_key_of_the_file_is_read() {
    let config = parse(
        r#"
cluster: prod
source:
  url: ssh://git@git.example.org/ops/rancher.git
  branch: release/2
  path: /clusters/./prod/
  interval: 5m
  secretDir: /etc/reinback/git
status: {url: "file:///srv/status.git", secretDir: /etc/reinback/status, branch: status, authorName: Ada L., authorEmail: ada@example.org}
store: {s3: {bucketName: backups, endpoint: minio.example.org, region: eu-west-1, insecureTLSSkipVerify: true, clientConfig: {aws: {dualStack: true}, bucketLookup: dns}}}
rancher: {namespace: rancher, deployment: my-rancher, url: https://rancher.example.org}
operator: {namespace: backups}
policy: {timeout: 1h, maxHold: 48h, maxPruneShare: 0, onFailure: Undo, safetyBackup: false, safetyBackups: {count: 1, days: 7}, repair: true, requireApproval: [Rollback, Prune], verify: {required: [version, clusters], clusterTimeout: 90s}, windows: []}
limits: {qps: 50, concurrency: 8}
dataDir: /cache
"#,
        &[],
    )
    .expect("it is valid");
    assert_snapshot!(format!("{config:#?}"), @r#"
    Config {
        cluster: "prod",
        source: Source {
            url: Url {
                scheme: "ssh",
                cannot_be_a_base: false,
                username: "git",
                password: None,
                host: Some(
                    Domain(
                        "git.example.org",
                    ),
                ),
                port: None,
                path: "/ops/rancher.git",
                query: None,
                fragment: None,
            },
            branch: "release/2",
            path: "clusters/prod",
            interval: 300s,
            secret_dir: Some(
                "/etc/reinback/git",
            ),
        },
        status: StatusTarget {
            url: Url {
                scheme: "file",
                cannot_be_a_base: false,
                username: "",
                password: None,
                host: None,
                port: None,
                path: "/srv/status.git",
                query: None,
                fragment: None,
            },
            secret_dir: Some(
                "/etc/reinback/status",
            ),
            branch: "status",
            author_name: "Ada L.",
            author_email: "ada@example.org",
        },
        store: Some(
            S3(
                S3Location {
                    bucket_name: "backups",
                    credential_secret_name: None,
                    credential_secret_namespace: None,
                    endpoint: Some(
                        "minio.example.org",
                    ),
                    endpoint_ca: None,
                    insecure_tls_skip_verify: true,
                    region: Some(
                        "eu-west-1",
                    ),
                    folder: None,
                    client_config: ClientConfig {
                        aws: AwsConfig {
                            dual_stack: true,
                        },
                        bucket_lookup: Dns,
                    },
                },
            ),
        ),
        rancher: Rancher {
            namespace: "rancher",
            deployment: "my-rancher",
            url: Some(
                Url {
                    scheme: "https",
                    cannot_be_a_base: false,
                    username: "",
                    password: None,
                    host: Some(
                        Domain(
                            "rancher.example.org",
                        ),
                    ),
                    port: None,
                    path: "/",
                    query: None,
                    fragment: None,
                },
            ),
        },
        operator_namespace: "backups",
        policy: Policy {
            timeout: 3600s,
            max_hold: 172800s,
            max_prune_share: 0,
            on_failure: Undo,
            safety_backup: false,
            safety_backups: SafetyBackups {
                count: 1,
                days: 7,
            },
            repair: true,
            require_approval: [
                Rollback,
                Prune,
            ],
            verify: Verify {
                required: Listed(
                    {
                        Version,
                        Clusters,
                    },
                ),
                cluster_timeout: 90s,
            },
        },
        rates: Rates {
            qps: 50,
            concurrency: 8,
        },
        data_dir: "/cache",
    }
    "#);
}

#[test]
fn the_secrets_of_the_source_go_to_its_own_host_only() {
    let with = |url: &str| {
        let file = format!(
            "cluster: prod\nsource: {{url: 'https://git.example.org/a.git', secretDir: /s}}\nstatus: {{url: '{url}'}}\n"
        );
        parse(&file, &[]).expect("it is valid").status.secret_dir
    };
    assert_eq!(with("https://git.example.org/b.git"), Some(PathBuf::from("/s")));
    assert_eq!(with("https://evil.example.org/a.git"), None);
    assert_eq!(with("http://git.example.org/a.git"), None);
}

#[test]
fn what_is_missing_is_told_with_every_way_to_say_it() {
    assert_snapshot!(parse("", &[]).expect_err("it is empty"), @"
    reinback.yaml:1: `cluster` is missing: write it into the file, or give `--cluster` or `REINBACK_CLUSTER`
    reinback.yaml:1: `source.url` is missing: write it into the file, or give `--source-url` or `REINBACK_SOURCE_URL`
    ");
    assert_snapshot!(parse("source: {branch: main}\n", &[]).expect_err("no url"), @"
    reinback.yaml:1: `cluster` is missing: write it into the file, or give `--cluster` or `REINBACK_CLUSTER`
    reinback.yaml:1: `source.url` is missing: write it into the file, or give `--source-url` or `REINBACK_SOURCE_URL`
    ");
    let alone = Config::parse(None, &[], Path::new(DATA)).expect_err("nothing is said");
    assert_snapshot!(Problems(alone), @"
    configuration: `cluster` is missing: write it into the file, or give `--cluster` or `REINBACK_CLUSTER`
    configuration: `source.url` is missing: write it into the file, or give `--source-url` or `REINBACK_SOURCE_URL`
    ");
}

#[test]
fn unknown_keys_and_wrong_values_are_told_with_line_and_remedy() {
    assert_snapshot!(problems("polcy: {}\nstatus: {author: me}\nrancher: {namespaces: a}\nlimits: [1]"), @"
    reinback.yaml:3: unknown field `polcy`, did you mean `policy`?
    reinback.yaml:4: unknown field `author` in `status`
    reinback.yaml:5: unknown field `namespaces` in `rancher`, did you mean `namespace`?
    reinback.yaml:6: `limits` must be a mapping, not a list
    ");
    assert_snapshot!(each(
        &["timeout: 30s", "timeout: 45", "maxHold: 31 days", "maxHold: 1000h", "maxPruneShare: 101", "maxPruneShare: 20%", "onFailure: hold", "safetyBackup: on",
          "safetyBackups: {count: 0}", "requireApproval: Restore", "requireApproval: [Restores]", "requireApproval: [yes]",
          "verify: {required: [rollouts]}", "verify: {required: all}", "verify: {clusterTimeout: 2d}", "verify: {clusters: 1m}", "windows: [Sunday]"],
        |line| format!("policy: {{{line}}}"),
    ), @"
    reinback.yaml:3: `policy.timeout` must be from 1m to 24h, not `30s`
    reinback.yaml:3: `policy.timeout` is not a duration: `45`; write it like 90s, 45m or 1h30m
    reinback.yaml:3: `policy.maxHold` is not a duration: `31 days`; write it like 90s, 45m or 1h30m
    reinback.yaml:3: `policy.maxHold` must be from 1m to 720h, not `1000h`
    reinback.yaml:3: `policy.maxPruneShare` must be a whole number from 0 to 100, not the number `101`
    reinback.yaml:3: `policy.maxPruneShare` must be a whole number from 0 to 100, not the text `20%`
    reinback.yaml:3: `policy.onFailure` must be `Hold`, `Resume` or `Undo`, not `hold`, did you mean `Hold`?
    reinback.yaml:3: `policy.safetyBackup` must be a boolean, not `on`: write true or false
    reinback.yaml:3: `policy.safetyBackups.count` must be a whole number from 1 to 1000, not the number `0`
    reinback.yaml:3: `policy.requireApproval` must be a list, not the text `Restore`: write [a, b]
    reinback.yaml:3: an entry of `policy.requireApproval` must be `Restore`, `Rollback` or `Prune`, not `Restores`, did you mean `Restore`?
    reinback.yaml:3: `policy.requireApproval` must list words, not the boolean `yes`
    reinback.yaml:3: an entry of `policy.verify.required` must be `rollout`, `health`, `version`, `settings`, `webhook`, `apiServices`, `systemCharts` or `clusters`, not `rollouts`, did you mean `rollout`?
    reinback.yaml:3: `policy.verify.required` must be a list, not the text `all`: write [a, b]
    reinback.yaml:3: `policy.verify.clusterTimeout` is not a duration: `2d`; write it like 90s, 45m or 1h30m
    reinback.yaml:3: unknown field `clusters` in `policy.verify`
    reinback.yaml:3: `policy.windows` is not built yet: remove it
    ");
    assert_snapshot!(each(
        &["branch: 'a b'", "branch: a..b", "branch: /a", "branch: a.lock", "authorName: 'Ada <ada@x>'", "authorEmail: ada"],
        |line| format!("status: {{{line}}}"),
    ), @"
    reinback.yaml:3: `status.branch` is not a name of a branch: `a b`
    reinback.yaml:3: `status.branch` is not a name of a branch: `a..b`
    reinback.yaml:3: `status.branch` is not a name of a branch: `/a`
    reinback.yaml:3: `status.branch` is not a name of a branch: `a.lock`
    reinback.yaml:3: `status.authorName` is not a name that Git takes: `Ada <ada@x>`
    reinback.yaml:3: `status.authorEmail` is not an address: `ada`
    ");
    assert_snapshot!(each(
        &["store: {directory: backups}", "store: {directory: /a, s3: {bucketName: abc}}", "store: {s3: {bucket: abc}}", "rancher: {url: 'ftp://x'}", "rancher: {url: 'https://a:b@x'}",
          "limits: {qps: -1}", "dataDir: cache", "operator: {namespace: A}", "cluster: again", "a: *b", "---\ncluster: two"],
        str::to_owned,
    ), @"
    reinback.yaml:3: `store.directory` must be an absolute path, not `backups`
    reinback.yaml:3: `store` has both `directory` and `s3`: keep one
    reinback.yaml:3: `store.s3.bucketName` is missing: name the bucket
    reinback.yaml:3: unknown field `bucket` in `store.s3`
    reinback.yaml:3: `rancher.url` has the scheme `ftp`: write https://…
    reinback.yaml:3: `rancher.url` must be host and path only, without credentials or a query
    reinback.yaml:3: `limits.qps` must be a whole number from 0 to 100000, not the number `-1`
    reinback.yaml:3: `dataDir` must be an absolute path, not `cache`
    reinback.yaml:3: `operator.namespace` is not a name: `A`; write lower-case letters, digits and `-`, at most 63, beginning and ending with a letter or digit
    reinback.yaml:3: duplicate key `cluster`: remove one
    reinback.yaml:3: the alias `*b` has no anchor before it
    reinback.yaml:4: a second document: a configuration is one
    ");
    assert_snapshot!(parse("cluster: [", &[]).expect_err("not YAML"), @"reinback.yaml:1: not YAML: unclosed bracket '['");
    assert_snapshot!(parse("just text", &[]).expect_err("no mapping"), @"reinback.yaml:1: the document must be a mapping, not the text `just text`");
}

#[test]
fn urls_and_names_of_the_source_are_checked_and_no_credential_is_repeated() {
    let source =
        |line: &str| parse(&format!("cluster: prod\nsource: {{{line}}}\n"), &[]).expect_err("it has a problem");
    let told = [
        "url: 'https://ada:hunter2@git.example.org/a.git'",
        "url: 'https://ghp_hunter2@git.example.org/a.git'",
        "url: 'https://git.example.org/a.git?token=hunter2'",
        "url: 'ssh://git:hunter2@git.example.org/a.git'",
        "url: 'git@git.example.org:ops/a.git'",
        "url: 'hunter2@:x@y'",
        "url: 'git://git.example.org/a.git'",
        "url: 'ext::sh -c true'",
        "url: 'https://git.example.org'",
        "url: '../a.git'",
        "url: 'file://host/a.git'",
        "url: 'https://x.org/a.git', path: ../b",
        "url: 'https://x.org/a.git', interval: 1s",
        "url: 'https://x.org/a.git', secretDir: ''",
    ]
    .map(source)
    .join("\n");
    assert!(!told.contains("hunter2"), "{told}");
    assert_snapshot!(told, @"
    reinback.yaml:2: `source.url` holds credentials: put them into the files of `secretDir`, and remove them from the URL
    reinback.yaml:2: `source.url` holds credentials: put them into the files of `secretDir`, and remove them from the URL
    reinback.yaml:2: `source.url` must not have a query or a fragment (`?` or `#`)
    reinback.yaml:2: `source.url` holds credentials: put them into the files of `secretDir`, and remove them from the URL
    reinback.yaml:2: `source.url` is not a URL: write `ssh://git@git.example.org/ops/a.git`
    reinback.yaml:2: `source.url` is not a URL: write it as https://…, http://…, ssh://… or file:///…
    reinback.yaml:2: `source.url` has the scheme `git`: write it as https://…, http://…, ssh://… or file:///…
    reinback.yaml:2: `source.url` has the scheme `ext`: write it as https://…, http://…, ssh://… or file:///…
    reinback.yaml:2: `source.url` names no repository: write host and path
    reinback.yaml:2: `source.url` is not a URL: write it as https://…, http://…, ssh://… or file:///…
    reinback.yaml:2: `source.url` names no repository: write host and path
    reinback.yaml:2: `source.path` must be a folder of the repository: `../b`
    reinback.yaml:2: `source.interval` must be from 5s to 24h, not `1s`
    reinback.yaml:2: `source.secretDir` is empty: name a folder or remove it
    ");
    assert_snapshot!(parse("cluster: Prod_1\nsource: {url: 'file:///a.git'}\n", &[]).expect_err("no label"), @"reinback.yaml:1: `cluster` is not a name: `Prod_1`; write lower-case letters, digits and `-`, at most 63, beginning and ending with a letter or digit");
}

#[test]
fn every_key_is_a_flag_and_a_variable_by_one_rule() {
    for key in KEYS {
        let words = key.path.replace("endpointCA", "endpointCa").replace("TLS", "Tls");
        let kebab = words.chars().fold(String::new(), |mut kebab, c| {
            match c {
                '.' => kebab.push('-'),
                c if c.is_uppercase() => kebab.extend(['-', c.to_ascii_lowercase()]),
                c => kebab.push(c),
            }
            kebab
        });
        assert_eq!(
            (key.long, key.env),
            (kebab.as_str(), format!("REINBACK_{}", kebab.replace('-', "_").to_uppercase()).as_str())
        );
        assert!(key.help.len() <= 80 && !key.help.ends_with('.'), "{}", key.help);
    }
}

#[test]
fn every_key_of_the_table_is_one_that_the_reader_knows() {
    for key in KEYS {
        let text = if key.reads == Reads::Word { "[]" } else { "" };
        let one = Override { key, origin: Origin::Flag, text: text.to_owned() };
        let told = parse(MINIMAL, &[one]).err().unwrap_or_default();
        assert!(!told.contains("unknown field"), "{}: {told}", key.path);
    }
}

#[test]
fn a_flag_says_it_all_without_a_file() {
    let args = flags(&[
        "--cluster",
        "12",
        "--source-url",
        "file:///a.git",
        "--policy-require-approval",
        "Restore, Prune",
        "--policy-verify-required=rollout,apiServices",
        "--limits-qps=7",
        "--store-s3-bucket-name",
        "abc",
    ]);
    let config = Config::load(&args.expect("they are known")).expect("it is valid");
    assert_eq!((config.cluster.as_str(), config.source.url.as_str(), config.rates.qps), ("12", "file:///a.git", 7));
    assert_eq!(config.policy.require_approval, [ApprovalFor::Restore, ApprovalFor::Prune]);
    let listed = Requirements::Listed([CheckName::Rollout, CheckName::ApiServices].into());
    assert_eq!(config.policy.verify, Verify { required: listed, cluster_timeout: Duration::from_secs(600) });
    assert!(matches!(config.store, Some(StoreDefault::S3(s3)) if s3.bucket_name == "abc"));
}

#[test]
fn the_flags_stand_beside_those_of_a_command() {
    #[derive(clap::Parser)]
    struct Plan {
        #[command(flatten)]
        config: ConfigArgs,
        rev: Option<String>,
    }
    let plan = <Plan as clap::Parser>::try_parse_from(["plan", "--config", "f.yaml", "main", "--data-dir=/x"]);
    let Plan { config, rev } = plan.expect("they are known");
    assert_eq!((config.file, rev), (Some("f.yaml".into()), Some("main".to_owned())));
    assert_eq!(config.overrides.iter().map(Override::name).collect::<Vec<_>>(), ["--data-dir"]);
}

#[test]
fn a_wrong_flag_or_variable_is_named_as_such() {
    let mut args = flags(&[
        "--source-interval",
        "soon",
        "--policy-repair",
        "yes",
        "--policy-require-approval",
        "Backups",
        "--policy-verify-required",
        "api-services",
    ])
    .expect("they are known");
    args.overrides[0].origin = Origin::Environment;
    assert_snapshot!(parse(MINIMAL, &args.overrides).expect_err("all are wrong"), @"
    REINBACK_SOURCE_INTERVAL: `source.interval` is not a duration: `soon`; write it like 90s, 45m or 1h30m
    --policy-repair: `policy.repair` must be a boolean, not `yes`: write true or false
    --policy-require-approval: an entry of `policy.requireApproval` must be `Restore`, `Rollback` or `Prune`, not `Backups`
    --policy-verify-required: an entry of `policy.verify.required` must be `rollout`, `health`, `version`, `settings`, `webhook`, `apiServices`, `systemCharts` or `clusters`, not `api-services`, did you mean `apiServices`?
    ");
}

#[test]
fn a_flag_for_one_store_beats_the_other_in_the_file() {
    let args = flags(&["--store-directory", "/b"]).expect("it is known");
    let file = format!("{MINIMAL}store: {{s3: {{bucketName: abc}}}}\n");
    assert_eq!(parse(&file, &args.overrides).expect("it is valid").store, Some(StoreDefault::Directory("/b".into())));
    let args = flags(&["--store-directory", "/b", "--store-s3-bucket-name", "abc"]).expect("they are known");
    assert_snapshot!(parse(MINIMAL, &args.overrides).expect_err("both"), @"--store-s3-bucket-name: `store` has both `directory` and `s3`: keep one");
}

/// Runs itself once more with variables set: a process cannot safely change its own.
#[test]
fn a_variable_beats_the_file_and_a_flag_beats_the_variable() {
    if std::env::var_os("REINBACK_SOURCE_BRANCH").is_none() {
        let this = std::env::current_exe().expect("it runs");
        let mut child = std::process::Command::new(this);
        child.args(["--exact", "config::tests::a_variable_beats_the_file_and_a_flag_beats_the_variable"]);
        child
            .env("REINBACK_SOURCE_BRANCH", "variable")
            .env("REINBACK_SOURCE_PATH", "variable")
            .env("REINBACK_DATA_DIR", "");
        let output = child.output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let args = flags(&["--source-path", "flag"]).expect("it is known");
    let file = "cluster: prod\nsource: {url: 'file:///a.git', branch: file, path: file}\n";
    let config = parse(file, &args.overrides).expect("it is valid");
    assert_eq!((config.source.branch.as_str(), config.source.path.as_str()), ("variable", "flag"));
    assert_eq!(config.data_dir, Path::new(DATA), "an empty variable says nothing");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let args = flags(&["--config", "/nowhere/reinback.yaml"]).expect("it is known");
    assert_snapshot!(Config::load(&args).expect_err("it is not there"), @"cannot read the configuration /nowhere/reinback.yaml");
}

#[test]
fn caches_lie_where_the_user_has_them_and_else_where_a_volume_is() {
    let dir = |pairs: &[(&str, &str)]| {
        default_data_dir(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
    };
    assert_eq!(dir(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/reinback"));
    assert_eq!(dir(&[("XDG_CACHE_HOME", ""), ("HOME", "/h")]), Path::new("/h/.cache/reinback"));
    for pairs in [&[][..], &[("HOME", "/")], &[("HOME", "/nonexistent")], &[("HOME", "relative")]] {
        assert_eq!(dir(pairs), Path::new("/var/lib/reinback"));
    }
}

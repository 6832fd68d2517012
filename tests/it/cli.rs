//! The commands as a person meets them: what they print, where, and how they end.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use tempfile::TempDir;

use crate::git_server::{Work, git, make_bare};
use crate::harness::{REINBACK, temp_dir};
use crate::world::World;

/// A folder with a configuration and a kubeconfig whose API server nobody runs, and no variable of this machine.
struct Desk {
    folder: TempDir,
}

/// What a command printed and how it ended, as one text.
fn shown(output: &std::process::Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is text");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'), "colours without a terminal: {stdout}{stderr}");
    let errors: String = stderr.lines().map(|line| format!("! {line}\n")).collect();
    format!("{stdout}{errors}exit {}", output.status.code().expect("no signal ended it"))
}

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: temp_dir() };
        desk.write("reinback.yaml", "cluster: prod\nsource: {url: \"file:///nowhere/repo.git\"}\n");
        desk.write(
            "kubeconfig",
            "apiVersion: v1\nkind: Config\ncurrent-context: gone\n\
             clusters: [{name: gone, cluster: {server: \"https://127.0.0.1:1\"}}]\n\
             contexts: [{name: gone, context: {cluster: gone, user: someone}}]\n\
             users: [{name: someone, user: {}}]\n",
        );
        desk
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path().join(name), content).expect("the folder is writable");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(REINBACK);
        command.args(args).env_clear().current_dir(self.path()).stdin(Stdio::null());
        command.env("HOME", self.path()).env("KUBECONFIG", self.path().join("kubeconfig")).env("COLUMNS", "100");
        command
    }

    fn says(&self, args: &[&str]) -> String {
        let text = shown(&self.command(args).output().expect("it starts"));
        text.replace(&self.path().display().to_string(), "DESK")
    }
}

#[test]
fn the_help_names_every_command_and_no_more() {
    assert_snapshot!(Desk::new().says(&["-h"]), @"
    GitOps for Rancher restores and rollbacks

    Usage: reinback [OPTIONS] <COMMAND>

    Commands:
      demo        Show a rollback from the merge to the end, on a simulated cluster
      agent       Watch the source, carry out what is merged, and report back to Git
      plan        Show what each manifest would do now, without doing it
      check       Read manifests as the agent would, without a cluster
      run         Carry out one manifest now, in the foreground
      cancel      Stop a run before its first write, and give replicas back
      undo        Go back to what was before a run, by its safety backup
      status      Show runs, newest first, or one run whole
      backups     Look at backups, compare them and make one
      crd         Print the CustomResourceDefinition of Run, for `kubectl apply -f -`
      completion  Print a completion script for a shell
      man         Print the manual page of reinback, or of one of its commands
      help        Print this message or the help of the given subcommand(s)

    Options:
          --log-level <LEVEL>        How much is logged, on stderr: error, warn, info, debug, trace, or
                                     directives such as info,reinback::git=debug [env: RUST_LOG=]
          --log-format <LOG_FORMAT>  How a line of the log looks [default: text] [possible values: text,
                                     json]
      -h, --help                     Print help (see more with '--help')
      -V, --version                  Print version
    exit 0
    ");
}

#[test]
fn each_command_says_its_exit_codes_in_its_help() {
    let desk = Desk::new();
    let codes = |command: &str| {
        let help = desk.says(&[command, "--help"]);
        let (about, _) = help.split_once("\n\nUsage:").expect("a usage");
        about.to_owned()
    };
    let all: Vec<String> = ["demo", "agent", "plan", "check", "run", "cancel", "undo", "status"].map(codes).to_vec();
    assert_snapshot!(all.join("\n\n"), @"
    Show a rollback from the merge to the end, on a simulated cluster

    Takes some ten seconds, and needs no cluster and no network: repository, backup and agent are real,
    and lie in a temporary folder. Exits 0 when all came out as it should, else 1.

    Watch the source, carry out what is merged, and report back to Git

    Exits 0 when stopped. With --once: 0 when nothing is left to do, 3 when something is held, 1 when a
    run failed or on an error.

    Show what each manifest would do now, without doing it

    Exits 0 when nothing would change, 2 when something would, 3 when a gate holds it, 1 on an error.

    Read manifests as the agent would, without a cluster

    Prints a line for each manifest, and on stderr what is wrong with them. Exits 0 when all are valid,
    else 1.

    Carry out one manifest now, in the foreground

    The plan, a question, then the run; the same ledger and the same status as the agent's. It counts as
    newer than every commit. Exits 0 when it succeeded or had ended before, 3 when it is held or was not
    confirmed, 1 when it failed or on an error.

    Stop a run before its first write, and give replicas back

    A run that an agent carries out hears of it at its next step; one that is held, or that nobody is
    at, is ended here. After the first write a run goes on to its end: half of it is no state to stop
    in. Exits 0 when it is cancelled, 1 when it cannot be any more or on an error.

    Go back to what was before a run, by its safety backup

    The plan, a question, then the run, as with `reinback run`; a version that the run set is set back,
    too. It counts as newer than every commit. What came into the cluster after the run goes as well, so
    that its gates hold until they are accepted here. Exits 0 when it succeeded or had ended before, 3
    when it is held or was not confirmed, 1 when it failed or on an error.

    Show runs, newest first, or one run whole

    With a configuration, runs that only Git knows are shown, too. Exits 0, or 1 on an error.
    ");
}

#[test]
fn the_short_help_of_a_command_leaves_the_configuration_to_the_long_one() {
    let desk = Desk::new();
    assert_snapshot!(desk.says(&["plan", "-h"]), @"
    Show what each manifest would do now, without doing it

    Usage: reinback plan [OPTIONS] [REV]

    Arguments:
      [REV]  Commit of the branch to plan for: at least 7 digits of its id, or the branch or HEAD, with
             ~n for older ones [default: the tip]

    Options:
          --config <FILE>            Configuration, such as reinback.yaml [env: REINBACK_CONFIG=]
          --log-level <LEVEL>        How much is logged, on stderr: error, warn, info, debug, trace, or
                                     directives such as info,reinback::git=debug [env: RUST_LOG=]
          --log-format <LOG_FORMAT>  How a line of the log looks [default: text] [possible values: text,
                                     json]
      -v, --verbose                  Show every object
      -o, --output <OUTPUT>          Text for people, JSON for programs, Markdown for a pull request
                                     [default: text] [possible values: text, json, markdown]
          --context <NAME>           Context of the kubeconfig
      -h, --help                     Print help (see more with '--help')
      -V, --version                  Print version
    exit 0
    ");
    assert!(desk.says(&["plan", "--help"]).contains("REINBACK_SOURCE_URL"));
}

#[test]
fn a_usage_error_exits_1_and_says_what_is_right() {
    let desk = Desk::new();
    let calls: [&[&str]; 4] = [&["pla"], &["check"], &["agent", "--lease-renew", "often"], &["status", "-o", "xml"]];
    assert_snapshot!(calls.map(|args| desk.says(args)).join("\n----\n"), @"
    ! error: unrecognized subcommand 'pla'
    ! 
    !   tip: a similar subcommand exists: 'plan'
    ! 
    ! Usage: reinback [OPTIONS] <COMMAND>
    ! 
    ! For more information, try '--help'.
    exit 1
    ----
    ! error: the following required arguments were not provided:
    !   <FILE>...
    ! 
    ! Usage: reinback check <FILE>...
    ! 
    ! For more information, try '--help'.
    exit 1
    ----
    ! error: invalid value 'often' for '--lease-renew <SECONDS>': invalid digit found in string
    ! 
    ! For more information, try '--help'.
    exit 1
    ----
    ! error: invalid value 'xml' for '--output <OUTPUT>'
    !   [possible values: text, json]
    ! 
    ! For more information, try '--help'.
    exit 1
    ");
}

#[test]
fn a_configuration_that_is_wrong_is_told_whole_with_the_remedies() {
    let desk = Desk::new();
    desk.write(
        "bad.yaml",
        "cluster: prod\nsource: {url: file:///nowhere/repo.git, brunch: x}\npolicy: {maxHold: 3x}\n",
    );
    let said = [
        desk.says(&["plan"]),
        desk.says(&["plan", "--config", "missing.yaml"]),
        desk.says(&["plan", "--config", "bad.yaml"]),
        desk.says(&["plan", "--config", "reinback.yaml", "--data-dir", "here"]),
        desk.says(&["agent", "--config", "reinback.yaml", "--lease-renew", "10"]),
        desk.says(&["status", "--log-level", "loud"]),
    ];
    assert_snapshot!(said.join("\n----\n"), @r#"
    ! reinback: configuration: `cluster` is missing: write it into the file, or give `--cluster` or `REINBACK_CLUSTER`
    ! configuration: `source.url` is missing: write it into the file, or give `--source-url` or `REINBACK_SOURCE_URL`
    exit 1
    ----
    ! reinback: cannot read the configuration missing.yaml: No such file or directory (os error 2)
    exit 1
    ----
    ! reinback: bad.yaml:2: unknown field `brunch` in `source`, did you mean `branch`?
    ! bad.yaml:3: `policy.maxHold` is not a duration: `3x`; write it like 90s, 45m or 1h30m
    exit 1
    ----
    ! reinback: --data-dir: `dataDir` must be an absolute path, not `here`
    exit 1
    ----
    ! reinback: --lease-renew 10 is too seldom for --lease-duration 15; give at most half of it
    exit 1
    ----
    ! reinback: log level "loud" cannot be read; write error, warn, info, debug or trace, or `info,reinback::git=debug`
    exit 1
    "#);
}

#[test]
fn a_cluster_that_cannot_be_used_is_told_within_seconds() {
    let desk = Desk::new();
    let started = Instant::now();
    let mut absent = desk.command(&["status"]);
    let mut none = desk.command(&["status"]);
    let said = [
        desk.says(&["status"]),
        desk.says(&["plan", "--config", "reinback.yaml"]),
        desk.says(&["status", "--context", "other"]),
        shown(&absent.env("KUBECONFIG", "absent").output().expect("it starts")),
        shown(&none.env_remove("KUBECONFIG").output().expect("it starts")),
    ];
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_snapshot!(said.join("\n----\n"), @r#"
    ! reinback: cannot reach the cluster: the API server at https://127.0.0.1:1 does not answer: no connection could be made: client error (Connect): tcp connect error: Connection refused (os error 111)
    exit 1
    ----
    ! reinback: cannot reach the cluster: the API server at https://127.0.0.1:1 does not answer: no connection could be made: client error (Connect): tcp connect error: Connection refused (os error 111)
    exit 1
    ----
    ! reinback: cannot find out which cluster to use: the kubeconfig has no context "other"; set KUBECONFIG, --context, or run in a pod with a service account
    exit 1
    ----
    ! reinback: cannot find out which cluster to use: there is no kubeconfig absent; set KUBECONFIG, --context, or run in a pod with a service account
    exit 1
    ----
    ! reinback: cannot find out which cluster to use: there is no kubeconfig, and this is not a pod with a service account; set KUBECONFIG, --context, or run in a pod with a service account
    exit 1
    "#);
}

#[test]
fn a_manifest_that_is_wrong_is_told_before_any_cluster_is_asked() {
    let desk = Desk::new();
    let restore =
        "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata: {name: back}\nspec: {backupFilename: b.tar.gz}\n";
    desk.write("two.yaml", &format!("{restore}---\n{}", restore.replace("back}", "again}")));
    desk.write("none.yaml", "kind: ConfigMap\napiVersion: v1\n");
    desk.write("typo.yaml", &restore.replace("backupFilename: b.tar.gz", "backupFileName: b.tar.gz, prune: yes"));
    let run = |file: &str| desk.says(&["run", "--config", "reinback.yaml", file]);
    let said = [
        run("two.yaml"),
        run("none.yaml"),
        run("typo.yaml"),
        run("absent.yaml"),
        desk.says(&["check", "two.yaml", "none.yaml", "typo.yaml", "absent.yaml"]),
        desk.says(&["check", "none.yaml"]),
    ];
    assert_snapshot!(said.join("\n----\n"), @"
    ! reinback: two.yaml holds 2 manifests; give a file with one
    exit 1
    ----
    ! reinback: none.yaml holds 0 manifests; give a file with one
    exit 1
    ----
    ! reinback: typo.yaml:4: unknown field `backupFileName` in `spec`, did you mean `backupFilename`?
    ! typo.yaml:4: `spec.prune` must be a boolean, not `yes`: write true or false
    exit 1
    ----
    ! reinback: cannot read absent.yaml: No such file or directory (os error 2)
    exit 1
    ----
    two.yaml:1 Restore back invalid
    two.yaml:6 Restore again ok
    typo.yaml:1 Restore back invalid
    ! absent.yaml: cannot be read: No such file or directory (os error 2)
    ! typo.yaml:4: unknown field `backupFileName` in `spec`, did you mean `backupFilename`?
    ! typo.yaml:4: `spec.prune` must be a boolean, not `yes`: write true or false
    ! typo.yaml:1: Restore back stands twice, here and at two.yaml:1: neither counts; rename or remove one
    exit 1
    ----
    ! no Restore or Rollback found
    exit 0
    ");
}

#[test]
fn check_reads_the_standard_input() {
    let desk = Desk::new();
    desk.write("in", "apiVersion: resources.cattle.io/v1\nkind: Restore\nmetadata: {name: back}\nspec: {}\n");
    let input = std::fs::File::open(desk.path().join("in")).expect("it was written");
    let output = desk.command(&["check", "-"]).stdin(input).output().expect("it starts");
    assert_snapshot!(shown(&output), @"
    <stdin>:1 Restore back invalid
    ! <stdin>:4: `spec.backupFilename` is missing: name the file of the backup
    exit 1
    ");
}

#[test]
fn caches_that_cannot_be_written_or_are_in_use_are_told() {
    let desk = Desk::new();
    let bare = desk.path().join("repo.git");
    make_bare(&bare);
    Work::clone(&bare).write("README.md", "here\n").commit("Begin");
    let url = format!("file://{}", bare.display());
    let once = |data: &str| {
        let data = desk.path().join(data).display().to_string();
        let args = ["agent", "--once", "--cluster", "prod", "--source-url", &url, "--data-dir", &data];
        let text = desk.says(&args);
        // The log has times.
        text.lines().filter(|line| !line.contains(" INFO ")).collect::<Vec<_>>().join("\n")
    };
    desk.write("file", "");
    let in_the_way = once("file/cache");
    reinback::git::init_process().expect("libgit2 starts");
    let held =
        reinback::git::Mirror::open(&desk.path().join("data/source"), reinback::git::Remote::new(&url, None), "main")
            .expect("the cache is free");
    let in_use = once("data");
    drop(held);
    assert_snapshot!([in_the_way, in_use].join("\n----\n"), @"
    ! reinback: cannot open the caches: cannot make the folder DESK/file/cache/source: Not a directory (os error 20)
    exit 1
    ----
    ! reinback: cannot open the caches: the cache DESK/data/source is in use by another process; give each process a folder of its own
    exit 1
    ");
}

#[test]
fn a_reader_that_has_read_enough_ends_a_command_quietly() {
    let desk = Desk::new();
    for args in [&["completion", "bash"][..], &["man"], &["crd"], &["--help"], &["agent", "--help"]] {
        let mut command = desk.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        // Closed before anything is read: the first write already fails.
        drop(child.stdout.take());
        let mut errors = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
        let status = child.wait().expect("it ends");
        assert_eq!((status.code(), errors.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn there_is_a_manual_page_and_a_completion_for_every_command() {
    let desk = Desk::new();
    let page = desk.says(&["man"]);
    for command in ["demo", "agent", "plan", "check", "run", "cancel", "undo", "status", "crd", "completion", "man"] {
        assert!(page.contains(&format!("reinback\\-{command}(1)")), "{command}");
        let own = desk.says(&["man", command]);
        assert!(own.contains(&format!(".TH reinback-{command} 1")), "{own}");
        let script = desk.says(&["completion", "bash"]);
        assert!(script.contains(&format!("reinback__subcmd__{command}")), "{command}");
    }
    assert_snapshot!(desk.says(&["man", "redo"]), @r#"
    ! reinback: there is no command "redo"; `reinback help` lists all
    exit 1
    "#);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(desk.says(&["completion", shell]).ends_with("exit 0"), "{shell}");
    }
}

/// One world for what needs a cluster and costs no run.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_fresh_cluster_the_commands_lead_from_the_definition_to_the_first_run() {
    let world = World::start().await;
    let kubectl = |args: &[&str], input: &str| world.cluster.kubectl(args, input).expect("kubectl succeeds");

    // Nothing is installed: status tells the way, with a configuration it shows what Git knows.
    let output = Command::new(REINBACK).arg("status").env("KUBECONFIG", world.cluster.kubeconfig()).output();
    assert_snapshot!(shown(&output.expect("it starts")), @"
    ! reinback: the cluster does not know runs; apply what `reinback crd` prints, or start the agent with --install-crd
    exit 1
    ");
    let said = world.reinback(&["status"]).await;
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (Some(0), "No runs yet.\n", ""));

    // An agent that may not install it says the same; then it is applied by hand, without a warning.
    let said = world.reinback(&["agent", "--once"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("apply what `reinback crd` prints"), "{said:?}");
    let printed = Command::new(REINBACK).arg("crd").output().expect("it starts").stdout;
    let printed = String::from_utf8(printed).expect("YAML");
    let applied = kubectl(&["apply", "-f", "-", "--warnings-as-errors"], &printed);
    assert_snapshot!(applied, @"customresourcedefinition.apiextensions.k8s.io/runs.reinback.io created");
    kubectl(&["wait", "--for=condition=Established", "crd/runs.reinback.io", "--timeout=60s"], "");
    let said = world.reinback(&["agent", "--once"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");

    // A manifest: what it would do, and that nobody is there to ask.
    let commit = world.commit_change("back", &[], "");
    let plan = world.reinback(&["plan"]).await;
    assert_eq!(plan.code, Some(2), "{plan:?}");
    let same = world.reinback(&["plan", &commit]).await;
    assert_eq!((same.code, &same.stdout), (plan.code, &plan.stdout));
    let before = git(&world.remote(), &["rev-parse", "main~1"]);
    let said = world.reinback(&["plan", before.trim()]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), ""), "{said:?}");
    assert_snapshot!(said.stderr, @"nothing to do: there is no manifest, or each one has run or was superseded");
    let said = world.reinback(&["plan", &"1".repeat(40)]).await;
    assert_eq!(said.code, Some(1));
    assert_snapshot!(said.stderr, @r#"reinback: "1111111111111111111111111111111111111111" is no commit of the branch; give another branch by --source-branch"#);

    // A run that asks has nobody to ask; the agent holds the same manifest, and kubectl shows it.
    let file = world.work.path().join("clusters/test/back.yaml").display().to_string();
    let said = world.reinback(&["run", &file]).await;
    assert_eq!((said.code, said.stderr.as_str()), (Some(1), "reinback: nobody is there to ask; give --yes\n"));
    assert_eq!(said.stdout, plan.stdout);
    let said = world.reinback(&["agent", "--once", "--policy-require-approval", "Restore"]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    let columns = kubectl(&["get", "runs", "-n", "reinback-system"], "");
    let columns: Vec<Vec<&str>> =
        columns.lines().map(|line| line.split_whitespace().skip(1).take(3).collect()).collect();
    assert_eq!(columns, [["MANIFEST", "PHASE", "REASON"], ["back", "Held", "ApprovalMissing"]]);
    let said = world.reinback(&["status", "back"]).await;
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    assert!(said.stdout.contains("Held"), "{said:?}");
    let said = world.reinback(&["status", "forth"]).await;
    assert_eq!(
        (said.code, said.stderr.as_str()),
        (
            Some(1),
            "reinback: there is no run or manifest \"forth\"; `reinback status` lists what there is, with --config also what only Git knows\n"
        )
    );
}

/// A file beside Cargo.toml.
fn document(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_readme_tells_every_key_of_the_configuration_in_the_words_of_the_help() {
    let readme = document("README.md");
    let (_, table) = readme.split_once("| key | meaning |\n|---|---|\n").expect("a table of keys");
    let (table, _) = table.split_once("\n\n").expect("an end of the table");
    let rows = reinback::config::KEYS.iter().map(|key| format!("| `{}` | {} |", key.path, key.help));
    let expected: Vec<String> = rows.collect();
    assert_eq!(table.lines().collect::<Vec<_>>(), expected, "write this:\n{}", expected.join("\n"));
}

#[test]
fn the_readme_names_every_command_and_no_other() {
    let help = Desk::new().says(&["-h"]);
    let (_, listed) = help.split_once("Commands:\n").expect("commands");
    let listed = listed.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    let readme = document("README.md");
    let (_, table) = readme.split_once("| command | does | exit code |\n|---|---|---|\n").expect("a table of commands");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let told = rows.filter_map(|row| row.trim_start_matches("| `").split([' ', '`']).next());
    // A command of several has a row for each.
    let mut told: Vec<&str> = told.collect();
    told.dedup();
    assert_eq!(told, listed.filter(|command| *command != "help").collect::<Vec<_>>());
}

#[test]
fn the_quick_start_of_the_readme_is_valid() {
    let readme = document("README.md");
    let blocks: Vec<String> = readme
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .map(|block| block.lines().map(|line| format!("{}\n", line.strip_prefix("   ").unwrap_or(line))).collect())
        .collect();
    let starting =
        |with: &str| blocks.iter().find(|block| block.starts_with(with)).expect("a block of the quick start");
    let desk = Desk::new();
    desk.write("restore.yaml", starting("apiVersion: resources.cattle.io/v1"));
    assert_eq!(desk.says(&["check", "restore.yaml"]), "restore.yaml:1 Restore back-to-monday ok\nexit 0");
    let config = reinback::config::Config::parse(
        Some(("reinback.yaml", starting("cluster: prod").as_bytes())),
        &[],
        Path::new("/data"),
    );
    assert_eq!(config.map(|config| config.source.path), Ok("clusters/prod".to_owned()));
}

#[test]
fn the_architecture_page_names_what_is_there() {
    let page = document("src/lib.rs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in page.split('`').filter(|word| word.starts_with("tests/") || word.contains(".rs")) {
        assert!(root.join(path).exists(), "{path} is not there");
    }
    let modules: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(modules.len() > 10, "{modules:?}");
    for module in modules {
        assert!(page.contains(&format!("\n//! - [`{module}`]: ")), "{module} has no line");
    }
}

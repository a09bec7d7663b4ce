//! The flag tables of the docs say what the binaries take: made from the code, compared on every run.
//!
//! `TENSILE_UPDATE_DOCS=1 cargo test -p e2e --test flags` rewrites them.

mod names;

use std::{fs, path::Path};

use clap::{Arg, Command, CommandFactory};

/// Between these lines of a page lies its table.
const BEGIN: &str = "<!-- flags: begin (made by `just docs-flags`) -->\n";
const END: &str = "<!-- flags: end -->\n";

/// Environment variable: rewrite the tables in place of comparing them.
const UPDATE_VARIABLE: &str = "TENSILE_UPDATE_DOCS";

fn row(arg: &Arg) -> Option<String> {
    let flag = arg.get_long()?;
    let takes_value = arg.get_action().takes_values();
    let env = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
    let defaults: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    let default = match defaults.join(",") {
        _ if arg.is_required_set() => "required".to_owned(),
        none if none.is_empty() || !takes_value => String::new(),
        default => format!("`{default}`"),
    };
    let mut meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let choices: Vec<_> = arg
        .get_possible_values()
        .iter()
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if takes_value && !choices.is_empty() {
        meaning = format!("{meaning}: {}", choices.join(", "));
    }
    let meaning = meaning.replace('|', "\\|");
    Some(format!(
        "| `--{flag}` | {} | {default} | {meaning} |\n",
        env.unwrap_or_default()
    ))
}

fn table(command: &Command) -> String {
    let rows: String = command
        .get_arguments()
        .filter(|arg| arg.get_id() != "help" && arg.get_id() != "version")
        .filter_map(row)
        .collect();
    format!("| flag | variable | default | meaning |\n|---|---|---|---|\n{rows}")
}

/// The page with its table replaced.
fn with_table(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

fn assert_page_shows(name: &str, command: &Command) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    let page = fs::read_to_string(&path).expect("a readable page");
    let expected = with_table(&page, &table(command)).expect("both markers in the page");
    if std::env::var_os(UPDATE_VARIABLE).is_some() {
        fs::write(&path, expected).expect("a writable page");
        return;
    }
    assert!(
        page == expected,
        "docs/{name} differs from the code: run `just docs-flags`"
    );
}

#[test]
fn the_page_of_the_virtual_node_lists_its_flags() {
    assert_page_shows("virtual-node.md", &tensile_virtual_node::Args::command());
}

#[test]
fn the_page_of_the_webhook_lists_its_flags() {
    assert_page_shows("webhook.md", &tensile_webhook::Args::command());
}

#[test]
fn the_page_of_the_descheduler_lists_its_flags() {
    assert_page_shows("descheduler.md", &tensile_descheduler::Args::command());
}

#[test]
fn the_page_of_the_scheduler_extender_lists_its_flags() {
    assert_page_shows(
        "scheduler-extender.md",
        &tensile_scheduler_extender::Args::command(),
    );
}

#[test]
fn a_table_tells_variables_defaults_and_what_is_required() {
    let command = Command::new("x")
        .arg(Arg::new("a").long("a").env("A").required(true).help("one|two"))
        .arg(
            Arg::new("b")
                .long("b")
                .default_value("1")
                .value_parser(["1", "2"])
                .help("Which"),
        )
        .arg(Arg::new("c").long("c").action(clap::ArgAction::SetTrue));
    let expected = "| flag | variable | default | meaning |\n|---|---|---|---|\n\
                    | `--a` | `A` | required | one\\|two |\n| `--b` |  | `1` | Which: `1`, `2` |\n| `--c` |  |  |  |\n";
    assert_eq!(table(&command), expected);
    assert_eq!(with_table("no markers", ""), None);
}

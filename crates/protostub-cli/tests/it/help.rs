//! The output of `--help`.

use crate::command::protostub;

#[test]
fn help_matches_the_reviewed_snapshots() {
    for command in [
        "",
        "serve",
        "inspect",
        "keygen",
        "sign",
        "verify",
        "explain-egress",
        "conformance",
        "run",
        "deploy",
        "undeploy",
        "update",
        "accepted",
        "list",
        "send",
        "status",
        "reload",
    ] {
        let args: Vec<_> = [command, "--help"].into_iter().filter(|arg| !arg.is_empty()).collect();
        let (code, stdout, stderr) = protostub(&args);
        assert_eq!((code, stderr.as_str()), (0, ""));
        let name = format!("help-{}", if command.is_empty() { "protostub" } else { command });
        insta::assert_snapshot!(name, stdout);
    }
}

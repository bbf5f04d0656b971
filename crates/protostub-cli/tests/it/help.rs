//! What `--help` says.

use crate::command::protostub;

#[test]
fn help_is_as_it_was_reviewed() {
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

//! Tests of the hostile environments of `tests/hostile`: the runtime fails closed, and every
//! message has its outcome.

use std::io::{self, Write as _};

use ::hostile::{Child, Environment, Outcome, Scale, for_each_environment};

use crate::support::code_dir;

async fn check(environment: Environment) {
    if let Some(child) = Child::here() {
        child.act().await.expect("a verdict");
        return;
    }
    let here = format!("environment::{}", environment.name);
    let folder = tempfile::tempdir().expect("a folder");
    let scale = Scale { domains: 6, neighbours: 3, code_dir: Some(code_dir()) };
    match environment.run(&["--exact", &here, "--nocapture"], &scale, folder.path()).await.expect("a process") {
        Outcome::Judged(verdict) => assert!(verdict.escapes.is_empty(), "{here}: {:#?}", verdict.escapes),
        // Bypasses the test harness, which shows the output of failed tests only.
        Outcome::Skipped(reason) => writeln!(io::stderr(), "{here} is skipped: {reason}").expect("an output for errors"),
    }
}

macro_rules! cases {
    ($($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                check(::hostile::environments::$name()).await;
            }
        )*
    };
}
for_each_environment!(cases);

//! `start`.

use std::time::Duration;

use protostub_sandbox::StartErrorKind;
use protostub_types::StubStatus;
use serde_json::{Map, Value, json};

use super::{StubSuiteContext, fixture::StubFixture};
use crate::{
    Case, Verdict,
    case::{CaseResult, Script, expect},
};

/// How long a stub that was started has to show that it waits for `connect`.
const WHILE: Duration = Duration::from_millis(500);
/// How many members of a configuration are tried out.
const MEMBERS: usize = 8;

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new(
            "stub/start/accepts",
            "`start` is called once, before any event. An error ends the deployment with this reason.",
            "wit/0.1/stub.wit",
        ),
        run: |context| Box::pin(accepts(context)),
    },
    Script {
        case: Case::new(
            "stub/start/bad-configuration",
            "An error ends the deployment with this reason (read by people: say what is wrong with the configuration, and what to do).",
            "wit/0.1/stub.wit",
        ),
        run: |context| Box::pin(bad_configuration(context)),
    },
    Script {
        case: Case::new(
            "stub/start/waits",
            "Do not connect here: `connect` follows when the connection is wanted.",
            "wit/0.1/stub.wit",
        ),
        run: |context| Box::pin(waits(context)),
    },
];

async fn accepts(context: &StubSuiteContext) -> CaseResult {
    context.compiled()?;
    context.prerequisites().await.starts.clone()
}

async fn bad_configuration(context: &StubSuiteContext) -> CaseResult {
    let mut fixture = StubFixture::ready(context).await?;
    drop(fixture.started().await?);
    let good = fixture.configuration.clone();
    let mut refused = 0;
    let configurations = bad(&good);
    let tried = configurations.len();
    for configuration in configurations {
        fixture.configuration = configuration;
        let Err(error) = fixture.start().await? else { continue };
        let shown = || Value::Object(fixture.configuration.clone());
        match error {
            StartErrorKind::Refused(reason) => {
                refused += 1;
                let expected = "a reason that people can read";
                expect(reason.chars().any(char::is_alphabetic), expected, || format!("`{reason}`, for {}", shown()))?;
            }
            error => return Err(Verdict::fail("an error that `start` returns", format!("{error}, for {}", shown()))),
        }
    }
    Ok(Some(format!("{refused} of {tried} bad configurations are refused")))
}

/// The same configuration without each of its members, and with each of them wrong.
fn bad(good: &Map<String, Value>) -> Vec<Map<String, Value>> {
    let members: Vec<_> = good.keys().filter(|name| *name != "runtimeURL").take(MEMBERS).cloned().collect();
    let mut all = Vec::new();
    for name in &members {
        let mut without = good.clone();
        without.remove(name);
        all.push(without);
        for wrong in [Value::Null, json!(-1), json!(""), json!([[]]), json!({ "a": {} }), json!("\u{1F600} no URL")] {
            let mut with = good.clone();
            with.insert(name.clone(), wrong);
            all.push(with);
        }
    }
    let mut none = good.clone();
    none.retain(|name, _| name == "runtimeURL");
    let mut more = good.clone();
    more.insert("somethingElse".to_owned(), json!([1, { "two": null }]));
    all.extend([none, more]);
    all
}

async fn waits(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    let mut instance = fixture.started().await?;
    instance.first_status(fixture.timeouts.live).await?;
    tokio::time::sleep(WHILE).await;
    if let Some(link) = &fixture.link {
        expect(link.accepted() == 0, "no connection before `connect`", || format!("{} connections", link.accepted()))?;
    }
    expect(
        instance.current() == Some(StubStatus::Created),
        "no status but `created`, which the host says, before `connect`",
        || instance.history(),
    )?;
    Ok(None)
}

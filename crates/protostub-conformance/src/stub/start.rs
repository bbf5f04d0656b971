//! The function `start`.

use std::time::Duration;

use protostub_sandbox::StartErrorKind;
use protostub_types::StubStatus;
use serde_json::{Map, Value, json};

use super::{StubSuiteContext, fixture::StubFixture};
use crate::{
    Case, Verdict,
    case::{CaseResult, Script, expect},
};

/// Time during which a started stub must wait for `connect`.
const WHILE: Duration = Duration::from_millis(500);
/// Number of members of a configuration that are tried.
const MEMBERS: usize = 8;

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new(
            "stub/start/accepts",
            "The host calls `start` once, before any event. The stub accepts the configuration of its own descriptor.",
            "wit/0.1/stub.wit",
        ),
        run: |context| Box::pin(accepts(context)),
    },
    Script {
        case: Case::new(
            "stub/start/bad-configuration",
            "`start` refuses a bad configuration with a reason for people: what is wrong and what to do. The reason ends the deployment.",
            "wit/0.1/stub.wit",
        ),
        run: |context| Box::pin(bad_configuration(context)),
    },
    Script {
        case: Case::new("stub/start/waits", "`start` does not connect. The stub waits for `connect`.", "wit/0.1/stub.wit"),
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

/// Returns variants of a configuration: each member is missing once, and has each wrong value once.
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
        "no status before `connect`, except `created`, which the host publishes",
        || instance.history(),
    )?;
    Ok(None)
}

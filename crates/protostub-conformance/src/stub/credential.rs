//! Credentials: the stub uses them, and never shows them.

use protostub_sandbox::{Credential, CredentialKind};
use protostub_types::StubStatus;

use super::{StubSuiteContext, fixture::StubFixture};
use crate::{
    Case, Verdict,
    case::{CaseResult, Script, expect},
};

/// The secret, which must not appear in any output.
const SECRET: &str = "4e3c1a7d-conformance-secret";

pub(super) const CASES: &[Script<StubSuiteContext>] = &[
    Script {
        case: Case::new(
            "stub/credential/kinds",
            "The stub connects to the domain's back-end with the credential of the domain, if there is one: `bearer`, `basic`, `assertion`, or another kind.",
            "wit/0.1/types.wit",
        ),
        run: |context| Box::pin(kinds(context)),
    },
    Script {
        case: Case::new("stub/credential/secret", "A stub writes no secrets to the log.", "wit/0.1/log.wit"),
        run: |context| Box::pin(secret(context)),
    },
];

fn credential(kind: CredentialKind, value: &str) -> Credential {
    Credential { kind, value: value.to_owned(), expires: None }
}

/// Returns `true` if the stub revealed the secret. In texts for people, the sandbox has replaced
/// the secret by `[secret]`.
fn tells(text: &str) -> bool {
    text.contains(SECRET) || text.contains("[secret]")
}

/// Credentials of all kinds, with possible values.
fn all() -> Vec<Credential> {
    vec![
        credential(CredentialKind::Bearer, SECRET),
        credential(CredentialKind::Basic, &format!("alice:{SECRET}")),
        credential(CredentialKind::Basic, SECRET),
        credential(CredentialKind::Assertion, &format!("{SECRET}.{SECRET}.{SECRET}")),
        credential(CredentialKind::Other("x-ticket".to_owned()), SECRET),
        credential(CredentialKind::Bearer, &format!("{SECRET}\r\nx: \u{1F600}")),
        credential(CredentialKind::Bearer, ""),
    ]
}

async fn kinds(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    drop(fixture.live().await?);
    let mut live = 0;
    let all = all();
    for credential in &all {
        fixture.credentials.set(Some(credential.clone()));
        let mut instance = fixture.started().await?;
        instance.connect(Some(credential.clone())).await?;
        // The server decides whether to accept the credential.
        let (status, reason) = instance
            .status_of(&[StubStatus::Live, StubStatus::Failed, StubStatus::Disconnected], fixture.timeouts.outage)
            .await?;
        if status == StubStatus::Live {
            live += 1;
        } else {
            expect(reason.is_some(), "a reason why the stub does not connect", || {
                format!("{status} with {:?} and no reason", credential.kind)
            })?;
        }
        instance.stop().await?;
    }
    Ok(Some(format!("live with {live} of {}", all.len())))
}

async fn secret(context: &StubSuiteContext) -> CaseResult {
    let fixture = StubFixture::ready(context).await?;
    drop(fixture.live().await?);
    for credential in all() {
        fixture.credentials.set(Some(credential.clone()));
        let mut instance = fixture.started().await?;
        let connected = async {
            instance.connect(Some(credential)).await?;
            instance.status_of(&[StubStatus::Live, StubStatus::Failed, StubStatus::Disconnected], fixture.timeouts.outage).await
        };
        let Ok((status, _)) = connected.await else {
            return Err(Verdict::not_applicable("the stub does not handle each kind of credential: see stub/credential/kinds"));
        };
        if status == StubStatus::Live {
            let answer = instance.meanwhile("an answer", fixture.timeouts.outage, fixture.ask(fixture.request(0))).await?;
            let text = answer.ok().and_then(|answer| answer.to_json().ok()).unwrap_or_default();
            expect(!text.contains(SECRET), "a response without the credential", || text.clone())?;
        }
        expect(!tells(&instance.history()), "a status without the credential", || instance.history())?;
        instance.stop().await?;
    }
    let line = fixture.log.lines().into_iter().find(|line| tells(line));
    expect(line.is_none(), "a log without the credential", || line.unwrap_or_default())?;
    Ok(None)
}

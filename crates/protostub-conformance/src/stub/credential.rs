//! What a stub does with a secret.

use protostub_sandbox::{Credential, CredentialKind};
use protostub_types::StubStatus;

use super::{Bench, stage::Stage};
use crate::{
    Case, Verdict,
    case::{Course, Script, expect},
};

/// What must be seen nowhere.
const SECRET: &str = "4e3c1a7d-conformance-secret";

pub(super) const CASES: &[Script<Bench>] = &[
    Script {
        case: Case::new(
            "stub/credential/kinds",
            "Connect to the domain's back-end, with the credential of the domain if there is one: `bearer`, `basic`, `assertion`, or another kind.",
            "wit/0.1/types.wit",
        ),
        run: |bench| Box::pin(kinds(bench)),
    },
    Script {
        case: Case::new("stub/credential/secret", "Write no secrets.", "wit/0.1/log.wit"),
        run: |bench| Box::pin(secret(bench)),
    },
];

fn credential(kind: CredentialKind, value: &str) -> Credential {
    Credential { kind, value: value.to_owned(), expires: None }
}

/// Whether the stub gave the secret away: where it would be read by people, the sandbox has put something else in its place.
fn tells(text: &str) -> bool {
    text.contains(SECRET) || text.contains("[secret]")
}

/// The kinds that there are, with values as they may be.
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

async fn kinds(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    drop(stage.live().await?);
    let mut live = 0;
    let all = all();
    for credential in &all {
        stage.credentials.set(Some(credential.clone()));
        let mut play = stage.started().await?;
        play.connect(Some(credential.clone())).await?;
        // Whether it is accepted is the server's business.
        let (status, reason) =
            play.status_of(&[StubStatus::Live, StubStatus::Failed, StubStatus::Disconnected], stage.patience.news).await?;
        if status == StubStatus::Live {
            live += 1;
        } else {
            expect(reason.is_some(), "a reason why it does not connect", || {
                format!("{status} with {:?} and no reason", credential.kind)
            })?;
        }
        play.stop().await?;
    }
    Ok(Some(format!("live with {live} of {}", all.len())))
}

async fn secret(bench: &Bench) -> Course {
    let stage = Stage::ready(bench).await?;
    drop(stage.live().await?);
    for credential in all() {
        stage.credentials.set(Some(credential.clone()));
        let mut play = stage.started().await?;
        let connected = async {
            play.connect(Some(credential)).await?;
            play.status_of(&[StubStatus::Live, StubStatus::Failed, StubStatus::Disconnected], stage.patience.news).await
        };
        let Ok((status, _)) = connected.await else {
            return Err(Verdict::not_applicable("it has no good word for each kind of credential: see stub/credential/kinds"));
        };
        if status == StubStatus::Live {
            let answer = play.meanwhile("an answer", stage.patience.news, stage.ask(stage.request(0))).await?;
            let text = answer.ok().and_then(|answer| answer.to_json().ok()).unwrap_or_default();
            expect(!text.contains(SECRET), "a response without the credential", || text.clone())?;
        }
        expect(!tells(&play.history()), "a status without the credential", || play.history())?;
        play.stop().await?;
    }
    let line = stage.log.lines().into_iter().find(|line| tells(line));
    expect(line.is_none(), "a log without the credential", || line.unwrap_or_default())?;
    Ok(None)
}

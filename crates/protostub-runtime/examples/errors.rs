//! Matches on every error that the library returns, with no other crate than `protostub_runtime`.
//!
//! ```text
//! cargo run --example errors
//! ```
#![expect(clippy::print_stdout, reason = "a program for people at a terminal")]

use protostub_runtime::{
    Address, AddressError, AttachError, BuildError, CatalogueError, CatalogueErrorKind, CompileError, ConnectError,
    CredentialError, DeployError, DeployErrorKind, DescriptorError, DigestError, DisconnectReason, Domain, DomainError,
    EgressError, EngineError, Exceeded, Fault, HookPanicked, MessageError, Phase, RegisterError, RepeatedKey, RequestError,
    Runtime, SafeText, SandboxError, Sha256Digest, StartErrorKind, StoreError, StubGone, StubGoneReason, Trap, TrustStateError,
    UpdateError, UpdateErrorKind, Url, Version, VersionError, WorldMismatch, egress, serde_json,
};

#[tokio::main]
async fn main() {
    let error = Runtime::builder().build().await.err();
    println!("{}", error.as_ref().map_or("built", building));
    println!("{}", Domain::parse("no domain").is_err_and(|_: DomainError| true));
    println!("{}", "no address".parse::<Address>().is_err_and(|_: AddressError| true));
    println!("{}", "no digest".parse::<Sha256Digest>().is_err_and(|_: DigestError| true));
    println!("{}", Version::parse("?").is_err_and(|_: VersionError| true));
    println!("{}", protostub_runtime::Message::from_json("no message").is_err_and(|_: MessageError| true));
    println!("{}", serde_json::json!({ "url": Url::parse("https://sp1.example").map(String::from).ok() }));
}

/// Returns the advice for a failed build of a runtime.
pub fn building(error: &BuildError) -> &'static str {
    match error {
        BuildError::NoHomeDomain | BuildError::HomeDomain(DomainError { .. }) => "correct the home domain",
        BuildError::Domains(RepeatedKey { .. }) => "merge the settings of a domain",
        BuildError::Credentials(CredentialError::Temporary(_)) => "try again",
        BuildError::Credentials(_) => "correct the credentials",
        BuildError::Egress(EgressError::Config(_)) => "correct the proxy or the root certificates",
        BuildError::Catalogue(error) => storing(error),
        BuildError::Engine(EngineError::Setting { .. }) => "correct a setting",
        BuildError::Engine(_) => "look at the machine",
        BuildError::UnknownImport { .. } => "offer the interface",
        BuildError::Bus(AttachError::AddressTaken { .. }) | BuildError::Address(AddressError { .. }) => "report a bug",
        _ => "read the error",
    }
}

fn storing(error: &StoreError) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "correct the permissions of the cache",
        _ => "choose another cache",
    }
}

/// Returns the advice for a failed deployment.
pub fn deploying(DeployError { key: _, phase, kind, .. }: &DeployError) -> &'static str {
    match kind {
        DeployErrorKind::Catalogue(error) => getting(error),
        DeployErrorKind::TrustState(error) => trusting(error),
        DeployErrorKind::Compile(error) => match &**error {
            CompileError::WrongWorld(mismatch) => incompatible(mismatch),
            _ => "the domain has to publish a component",
        },
        DeployErrorKind::Sandbox(error) => match &**error {
            SandboxError::TooMany { .. } => "raise `max-sandboxes`",
            SandboxError::Import { source: HookPanicked { .. }, .. } => "correct the program",
            _ => "look at the machine",
        },
        DeployErrorKind::Start(error) => starting(error),
        DeployErrorKind::Credential(CredentialError::Temporary(_)) => "try again",
        DeployErrorKind::Disconnected => "connect it again",
        DeployErrorKind::Undeployed | DeployErrorKind::ShutDown => "it was meant to end",
        _ if *phase == Phase::Connecting => "look at the domain's server",
        _ => "read the error",
    }
}

fn getting(error: &CatalogueError) -> &'static str {
    match (error.kind(), error.fault()) {
        (CatalogueErrorKind::Unavailable, _) => "try again",
        (CatalogueErrorKind::Invalid, Fault::Descriptor(DescriptorError { .. })) => "the domain has to correct its descriptor",
        (_, Fault::Source(_)) => "look at the program's own source",
        _ => "read the error",
    }
}

fn trusting(_: &TrustStateError) -> &'static str {
    "look at the cache"
}

fn incompatible(_: &WorldMismatch) -> &'static str {
    "the domain has to publish a stub for another track"
}

fn starting(error: &StartErrorKind) -> &'static str {
    match error {
        StartErrorKind::Refused(SafeText { .. }) => "correct the configuration",
        StartErrorKind::Trapped(Trap { .. }) => "report the crash",
        StartErrorKind::Exceeded(Exceeded::Memory { .. }) => "raise `memory-bytes`",
        _ => "read the error",
    }
}

/// Returns the advice for a stub that has ended.
pub fn using(gone: &StubGone) -> &'static str {
    match &gone.reason {
        StubGoneReason::Undeployed => "deploy it again",
        StubGoneReason::ShutDown => "start another runtime",
        StubGoneReason::Failed(error) => deploying(error),
        _ => "read the error",
    }
}

/// Returns the advice for a failed explicit login.
pub fn connecting(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Gone(gone) => using(gone),
        _ => "log in again",
    }
}

/// Returns the advice for a failed update.
pub fn updating(error: &UpdateError) -> &'static str {
    match error.kind() {
        UpdateErrorKind::Gone(gone) => using(gone),
        UpdateErrorKind::RolledBack { .. } => "the domain has to correct its version",
        _ => "read the error",
    }
}

/// Returns the advice for a failed registration of a hyperty.
pub fn registering(error: &RegisterError) -> &'static str {
    match error {
        RegisterError::Deploy { source, .. } => deploying(source),
        RegisterError::Bus { source: AttachError::AddressTaken { .. }, .. } => "choose another address",
        _ => "read the error",
    }
}

/// Returns `true` if a request can be sent again.
pub fn requesting(error: &RequestError) -> bool {
    matches!(error.code, 408 | 429 | 502 | 503)
}

/// Returns the reason why a stub's connection was refused.
pub fn reaching(error: &EgressError) -> Option<&egress::Refused> {
    match error {
        EgressError::Refused(refused) => Some(refused),
        _ => None,
    }
}

/// Branches on the reason of a disconnection.
pub fn disconnecting(reason: DisconnectReason) -> bool {
    matches!(reason, DisconnectReason::Shutdown)
}

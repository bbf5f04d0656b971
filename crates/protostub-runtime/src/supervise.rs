//! A stub after its deployment: its login, its commands, the instances that follow one another, its end.
//!
//! An instance is a sandbox with the component in it. The stub is what outlives it: the record, with the mailbox, the URL, the status, the
//! session and the subscribers. A [`Supervision`] watches over one instance after another:
//!
//! ```text
//! watch ──► it broke ──────────────► pause ──► start ──► watch …
//!   │                                  │ budget spent, or it was never live
//!   ├──► update: good-bye, start the new version ──► live: committed
//!   │      │                                      └► it broke: start the old one again
//!   │      └ may overlap: start the new version ──► live: the old one's good-bye, the new one takes over
//!   │                                            └► it broke: nothing has happened
//!   ├──► idle: good-bye ──► a message, somebody asks for it ──► start ──► watch …
//!   └──► undeploy, shutdown: good-bye ──► the end
//! ```
//!
//! The first time that a version says `live`, its status is held back until the version is durable
//! as the accepted one. If it cannot be, the instance is ended as one that broke.

mod retire;
mod update;

use std::{
    fmt,
    future::{self, Future},
    pin::{Pin, pin},
    sync::Arc,
};

use protostub_bus::{Inbox, Route};
use protostub_sandbox::{CrashReport, DisconnectReason, Ended, Presence as _, StubHandle, StubTask};
use protostub_types::{SafeText, StubStatus, deadline};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinHandle},
    time::{Duration, Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    context::RuntimeContext,
    deploy::{self, Artifact, Deployed},
    error::{DeployError, DeployErrorKind, Phase, StubGone, in_full, told},
    identity::{Credential, CredentialError},
    registration::{RegistrationHandle, RegistrationRequest},
    registry::StubRecord,
    restart::Restarts,
    status::{StatusWatch, StubPresence},
    update::{Trial, UpdateErrorKind},
};

/// What the host program asks of a deployed stub. The answer comes when it is done. In a box on its way: every stub's channel has 32 places,
/// which hardly ever hold one.
#[derive(Debug)]
pub(crate) enum Command {
    /// Explicitly, if with a credential.
    Connect {
        credential: Option<Box<Credential>>,
        done: oneshot::Sender<()>,
    },
    Disconnect {
        done: oneshot::Sender<()>,
    },
    Update {
        artifact: Box<Artifact>,
        done: oneshot::Sender<Result<(), UpdateErrorKind>>,
    },
    Undeploy {
        done: oneshot::Sender<()>,
    },
    /// Others need its room: it is to go without an instance until it is used again, if it has been idle for so long. The answer: whether it does.
    Retire {
        idle: Duration,
        done: oneshot::Sender<bool>,
    },
    /// Somebody wants it to be live, who has no message for it.
    Wake,
}

/// A stub with its sandbox, and how far it is.
struct Instance {
    handle: StubHandle,
    task: JoinHandle<Ended>,
    login: Option<PendingLogin>,
    /// What it was last told to connect with explicitly.
    told: Option<Credential>,
    /// Until when it has to be live.
    connect_by: Option<Instant>,
    is_live: bool,
    /// Why its version cannot be accepted, if that was found out when it started.
    refused: Option<DeployErrorKind>,
    /// When to look whether it is idle.
    look_at: Option<Instant>,
}

/// A domain login under way, and who waits for it.
struct PendingLogin {
    result: LoginResult,
    done: Vec<oneshot::Sender<()>>,
}

/// Ready when the instance was told to connect, or when there is no credential that there should be.
type LoginResult = Pin<Box<dyn Future<Output = Result<(), CredentialError>> + Send + Sync>>;

/// What happened to an instance, or is to happen.
enum InstanceEvent {
    Ended(Result<Ended, JoinError>),
    Failed(Option<SafeText>),
    ConnectTimeout,
    NoCredential(CredentialError),
    /// It is not live since its version cannot be remembered as accepted.
    NotAccepted(DeployErrorKind),
    Update(Box<Artifact>, oneshot::Sender<Result<(), UpdateErrorKind>>),
    /// It agreed to retire; who is told once it has.
    Idle(Option<oneshot::Sender<bool>>),
    Over(Termination),
}

/// What a stub without an instance waits for.
#[derive(Debug, Clone, Copy)]
enum Pause {
    Until(Instant),
    /// A message, or somebody who wants it to be live.
    UntilUsed,
}

/// How a stub's life ends.
enum Termination {
    Broken(DeployError),
    Undeployed(Option<oneshot::Sender<()>>),
    Shutdown,
}

struct Supervisor {
    context: Arc<RuntimeContext>,
    record: Arc<StubRecord>,
    presence: Arc<StubPresence>,
    status: StatusWatch,
    commands: mpsc::Receiver<Box<Command>>,
    /// What the next instance is made of.
    artifact: Arc<Artifact>,
    /// An update that is not committed yet.
    trial: Option<Trial>,
    restarts: Restarts,
    /// Nobody asked it to stay disconnected.
    may_connect: bool,
    /// After how long it is retired; none: not for that.
    retire_after: Option<Duration>,
}

/// Watches over a stub until it ends, and clears up behind it.
pub(crate) struct Supervision {
    supervisor: Supervisor,
    instance: Instance,
    routes: [Route; 3],
}

impl Supervision {
    /// Its first instance begins to run, and logs in.
    pub(crate) fn begin(context: Arc<RuntimeContext>, deployed: Deployed) -> Box<Self> {
        let Deployed { record, presence, artifact, handle, task, commands, routes } = deployed;
        let settings = context.config.settings(record.key.domain());
        let policy = context.config.restart_of(record.key.domain());
        let retire_after = context.config.retire_after(record.key.domain());
        if settings.register
            && let Some(Ok(entry)) = record.url.get().map(|url| RegistrationRequest::of_stub(&context, &record, url))
        {
            let _ = record.registration.set(RegistrationHandle::keep(&context, entry));
        }
        let supervisor = Supervisor {
            status: record.status.watch(),
            context,
            record,
            presence,
            commands,
            artifact: Arc::new(artifact),
            trial: None,
            restarts: Restarts::new(policy),
            may_connect: true,
            retire_after,
        };
        let instance = supervisor.begin(handle, task);
        Box::new(Self { supervisor, instance, routes })
    }

    /// Until it ends.
    pub(crate) async fn run(self) {
        let Self { mut supervisor, instance, routes } = self;
        let (end, inbox) = supervisor.supervise(instance).await;
        supervisor.clear_up(end, inbox, routes);
    }
}

impl Supervisor {
    /// Returns how it ended, with what is left in its inbox.
    async fn supervise(&mut self, mut instance: Instance) -> (Termination, Option<Inbox>) {
        loop {
            let (fault, inbox) = match self.watch(&mut instance).await {
                InstanceEvent::Ended(Ok(Ended { inbox, outcome, crash, .. })) => {
                    self.crashed(crash);
                    (self.failed(Phase::Running, told(outcome)), Some(inbox))
                }
                InstanceEvent::Ended(Err(error)) => (self.lost_task(&error), None),
                InstanceEvent::Failed(reason) => {
                    let reason = reason.unwrap_or_else(|| NO_REASON.into());
                    self.forget_credentials();
                    (self.failed(Phase::Connecting, reason), self.stop(&mut instance).await)
                }
                InstanceEvent::ConnectTimeout => {
                    let kind = DeployErrorKind::ConnectTimeout { after: self.context.config.lifecycle.connect_timeout };
                    self.forget_credentials();
                    (DeployError { key: self.record.key.clone(), phase: Phase::Connecting, kind }, self.stop(&mut instance).await)
                }
                InstanceEvent::NoCredential(error) => {
                    let kind = DeployErrorKind::Credential(error);
                    (DeployError { key: self.record.key.clone(), phase: Phase::Connecting, kind }, self.stop(&mut instance).await)
                }
                InstanceEvent::NotAccepted(kind) => {
                    let phase = Phase::Connecting;
                    Box::pin(self.say_goodbye(&instance, DisconnectReason::Request)).await;
                    (DeployError { key: self.record.key.clone(), phase, kind }, self.stop(&mut instance).await)
                }
                // Only what is to be connected can show, beside the other, that it works.
                InstanceEvent::Update(artifact, done)
                    if instance.is_live && self.may_connect && artifact.discovered.descriptor.overlap =>
                {
                    match Box::pin(self.overlap(&mut instance, artifact, done)).await {
                        Ok(()) => continue,
                        Err(lost) => return (lost, None),
                    }
                }
                InstanceEvent::Update(artifact, done) => {
                    let to = artifact.discovered.descriptor.version.clone();
                    Box::pin(self.say_goodbye(&instance, DisconnectReason::Update)).await;
                    let inbox = self.stop(&mut instance).await;
                    self.try_out(artifact, done);
                    tracing::info!(target: "protostub", domain = %self.record.key, version = %to, "another version takes over");
                    self.publish(StubStatus::Disconnected, format_args!("version {to} takes over"));
                    let Some(inbox) = inbox else { return (self.lost(), None) };
                    match Box::pin(self.start(inbox)).await {
                        Ok(started) => {
                            instance = started;
                            continue;
                        }
                        Err((error, inbox)) => (error, Some(inbox)),
                    }
                }
                InstanceEvent::Idle(done) => match Box::pin(self.retire(instance, done)).await {
                    Ok(Ok(started)) => {
                        instance = started;
                        continue;
                    }
                    Ok(Err((error, inbox))) => (error, Some(inbox)),
                    Err((end, inbox)) => return (end, inbox),
                },
                InstanceEvent::Over(end) => {
                    let key = &self.record.key;
                    let (reason, gone) = match &end {
                        Termination::Shutdown => (DisconnectReason::Shutdown, StubGone::shut_down(key)),
                        Termination::Undeployed(_) | Termination::Broken(_) => {
                            (DisconnectReason::Request, StubGone::undeployed(key))
                        }
                    };
                    self.remove_registrations().await;
                    // Nothing new comes in, and the stub says good-bye while it still can.
                    instance.login = None;
                    self.record.mailbox.refuse(Some((503, in_full(&gone).to_string())));
                    Box::pin(self.say_goodbye(&instance, reason)).await;
                    return (end, self.stop(&mut instance).await);
                }
            };
            // Its queue went with the task.
            let Some(inbox) = inbox else { return (Termination::Broken(fault), None) };
            instance = match Box::pin(self.follow(fault, inbox)).await {
                Ok(next) => next,
                Err((end, inbox)) => return (end, Some(inbox)),
            };
        }
    }

    /// An instance that was started begins to run, and logs in.
    fn begin(&self, handle: StubHandle, task: StubTask) -> Instance {
        let task = self.context.spawn(task.run());
        let look_at = self.retire_after.and_then(|after| Instant::now().checked_add(after));
        let mut instance =
            Instance { handle, task, login: None, told: None, connect_by: None, is_live: false, refused: None, look_at };
        if self.may_connect {
            self.log_in(&mut instance, None);
        }
        instance
    }

    /// Waits until something happens to the instance, and does what can be done with it as it is.
    async fn watch(&mut self, instance: &mut Instance) -> InstanceEvent {
        self.record.set_idleness(Some(instance.handle.idleness().clone()));
        if let Some(kind) = instance.refused.take() {
            return InstanceEvent::NotAccepted(kind);
        }
        loop {
            let report = self.status.current();
            match report.status {
                StubStatus::Live => {
                    instance.connect_by = None;
                    if !instance.is_live {
                        instance.is_live = true;
                        self.is_live();
                    }
                }
                StubStatus::Failed => return InstanceEvent::Failed(report.reason),
                _ => {}
            }
            // A new stub connects at once; one whose network broke, when there is a message for it.
            let may_login = instance.connect_by.is_none() && self.may_connect && report.status == StubStatus::Disconnected;
            tokio::select! {
                biased;
                // Before its end: an instance that has said so was live.
                () = self.presence.wants_admission() => {
                    if let Err(kind) = self.accept(&instance.handle).await {
                        return InstanceEvent::NotAccepted(kind);
                    }
                }
                ended = &mut instance.task => {
                    self.record.set_idleness(None);
                    instance.login = None;
                    return InstanceEvent::Ended(ended);
                }
                // Before what is asked of it: an update of a stub that has just become live is one of a live stub.
                changed = self.status.changed() => if changed.is_none() { return InstanceEvent::Over(Termination::Undeployed(None)) },
                () = self.context.stop.cancelled() => return InstanceEvent::Over(Termination::Shutdown),
                command = self.commands.recv() => match command.map(|command| *command) {
                    Some(Command::Connect { credential, done }) => {
                        self.record.mailbox.refuse(None);
                        self.may_connect = true;
                        Box::pin(self.connect(instance, credential.map(|credential| *credential), done)).await;
                    }
                    Some(Command::Disconnect { done }) => {
                        self.stay_disconnected();
                        instance.connect_by = None;
                        instance.login = None;
                        Box::pin(self.say_goodbye(instance, DisconnectReason::Request)).await;
                        self.fail_waiting();
                        if self.trial.is_some()
                            && let Err(kind) = self.accept(&instance.handle).await
                        {
                            let _ = done.send(());
                            return InstanceEvent::NotAccepted(kind);
                        }
                        let _ = done.send(());
                    }
                    Some(Command::Update { done, .. }) if self.trial.is_some() => {
                        let _ = done.send(Err(UpdateErrorKind::UnderWay));
                    }
                    Some(Command::Update { artifact, done }) => return InstanceEvent::Update(artifact, done),
                    Some(Command::Undeploy { done }) => return InstanceEvent::Over(Termination::Undeployed(Some(done))),
                    Some(Command::Retire { idle, done }) => {
                        // Whoever asked may have found room elsewhere meanwhile.
                        if !done.is_closed() && self.agrees_to_retire(instance, idle).await {
                            return InstanceEvent::Idle(Some(done));
                        }
                        let _ = done.send(false);
                    }
                    // The status may have changed since this turn began.
                    Some(Command::Wake) => if instance.connect_by.is_none()
                        && self.may_connect
                        && self.status.current().status == StubStatus::Disconnected
                    {
                        self.log_in(instance, None);
                    },
                    None => return InstanceEvent::Over(Termination::Undeployed(None)),
                },
                Err(error) = PendingLogin::ended(&mut instance.login) => return InstanceEvent::NoCredential(error),
                () = self.record.mailbox.waiting(), if may_login => self.log_in(instance, None),
                () = until(instance.connect_by) => return InstanceEvent::ConnectTimeout,
                () = until(instance.look_at) => if self.has_been_idle(instance).await { return InstanceEvent::Idle(None) },
            }
        }
    }

    /// What follows an instance that broke: another one, with the same inbox, or the stub's end.
    async fn follow(&mut self, mut fault: DeployError, mut inbox: Inbox) -> Result<Instance, (Termination, Inbox)> {
        loop {
            if let Some(trial) = self.trial.take() {
                self.disconnected(format_args!("the update failed, the version before it takes over again: {}", in_full(&fault)));
                self.presence.set_admission(trial.was_admitted);
                self.artifact = trial.roll_back(&self.record, fault);
            } else {
                if !self.record.status.was_live() {
                    return Err((Termination::Broken(fault), inbox));
                }
                let Some(pause) = self.restarts.next(Instant::now()) else {
                    return Err((Termination::Broken(self.spent(fault)), inbox));
                };
                self.disconnected(format_args!("a new instance starts in {} ms: {}", pause.as_millis(), in_full(&fault)));
                if let Err(end) = self.pause(Pause::Until(deadline(Instant::now(), pause))).await {
                    return Err((end, inbox));
                }
            }
            self.record.restarted();
            match self.start(inbox).await {
                Ok(instance) => return Ok(instance),
                Err((error, back)) => (fault, inbox) = (error, back),
            }
        }
    }

    /// Waits before a new instance starts: until then, or until somebody asks for it; the queue goes on filling. An instance that is to stay
    /// disconnected is none yet.
    async fn pause(&mut self, pause: Pause) -> Result<(), Termination> {
        let record = Arc::clone(&self.record);
        let mut over = pin!(async move {
            match pause {
                Pause::Until(end) => sleep_until(end).await,
                Pause::UntilUsed => record.mailbox.waiting().await,
            }
        });
        loop {
            tokio::select! {
                biased;
                () = self.context.stop.cancelled() => return Err(Termination::Shutdown),
                command = self.commands.recv() => match command.map(|command| *command) {
                    Some(Command::Connect { credential, done }) => {
                        self.record.mailbox.refuse(None);
                        self.may_connect = true;
                        if let Some(credential) = credential {
                            self.record.login.hold(*credential);
                        }
                        let _ = done.send(());
                        return Ok(());
                    }
                    Some(Command::Disconnect { done }) => {
                        self.stay_disconnected();
                        self.fail_waiting();
                        let _ = done.send(());
                    }
                    Some(Command::Update { artifact, done }) => {
                        self.try_out(artifact, done);
                        return Ok(());
                    }
                    Some(Command::Undeploy { done }) => return Err(Termination::Undeployed(Some(done))),
                    // There is nothing to retire.
                    Some(Command::Retire { done, .. }) => drop(done.send(false)),
                    Some(Command::Wake) => if self.may_connect && matches!(pause, Pause::UntilUsed) { return Ok(()) },
                    None => return Err(Termination::Undeployed(None)),
                },
                () = &mut over, if self.may_connect => return Ok(()),
            }
        }
    }

    /// Starts an instance: steps 12 to 18 again, in the place of the one before it.
    async fn start(&mut self, inbox: Inbox) -> Result<Instance, (DeployError, Inbox)> {
        let during = |kind| DeployError { key: self.record.key.clone(), phase: Phase::Starting, kind };
        let session = self.record.session.clone();
        let sandbox = match deploy::sandbox(&self.context, &self.record, &self.presence, &self.artifact, session).await {
            Ok(sandbox) => sandbox,
            Err(kind) => return Err((during(kind), inbox)),
        };
        match sandbox.deploy_component(inbox).await {
            Ok((handle, task)) => {
                let mut instance = self.begin(handle, task);
                // One that is to stay disconnected cannot show more than that it starts, which its task says first of all.
                if !self.may_connect {
                    let mut status = self.status.clone();
                    tokio::select! {
                        biased;
                        _ = status.until(|report| report.status != StubStatus::Disconnected) => instance.refused = self.accept(&instance.handle).await.err(),
                        () = instance.handle.ended() => {}
                    }
                }
                Ok(instance)
            }
            Err(error) => {
                self.context.report(&self.record, error.crash);
                Err((during(DeployErrorKind::Start(Arc::new(error.kind))), error.inbox))
            }
        }
    }

    /// The instance is live for the first time.
    fn is_live(&mut self) {
        self.restarts.live();
        self.context.registry.forgive(&self.record.key);
        self.accepted();
    }

    /// This version is the stub's from now on.
    fn accepted(&mut self) {
        self.record.publish(self.artifact.published());
        if let Some(trial) = self.trial.take() {
            trial.commit();
        }
    }

    /// Remembers that this version is accepted, and then lets it be live.
    async fn accept(&mut self, handle: &StubHandle) -> Result<(), DeployErrorKind> {
        self.remember(&self.artifact).await?;
        self.accepted();
        self.presence.admit();
        handle.admit();
        Ok(())
    }

    /// Makes durable that a version is accepted. No older version follows it.
    async fn remember(&self, artifact: &Artifact) -> Result<(), DeployErrorKind> {
        match artifact.to_commit() {
            Some(committed) => {
                let commit = self.context.catalogue.commit(&self.record.key, &committed, artifact.before.as_ref());
                commit.await.map_err(deploy::trust_state)
            }
            None => Ok(()),
        }
    }

    /// Ends an instance. Its inbox comes back, unless the task was lost with it.
    async fn stop(&self, instance: &mut Instance) -> Option<Inbox> {
        instance.login = None;
        instance.handle.stop();
        let ended = (&mut instance.task).await;
        self.record.set_idleness(None);
        let Ended { inbox, crash, .. } = ended.ok()?;
        self.context.report(&self.record, crash);
        Some(inbox)
    }

    /// A session may be what crashes an instance: the one after the second crash begins without.
    fn crashed(&mut self, crash: Option<Arc<CrashReport>>) {
        self.context.report(&self.record, crash);
        if self.record.session.load().is_some() && self.restarts.blames_session(Instant::now()) {
            tracing::warn!(target: "protostub", domain = %self.record.key, "the stub crashed twice with what it had saved, which is dropped");
            let _ = self.record.session.take();
        }
    }

    fn stay_disconnected(&mut self) {
        self.may_connect = false;
        self.record.mailbox.refuse(Some((503, self.told_to_disconnect())));
    }

    /// What the stub has not taken by then, nobody will until somebody connects it: that may be never.
    fn fail_waiting(&self) {
        self.context.bus.fail_waiting(&self.record.mailbox, 503, &self.told_to_disconnect());
    }

    fn told_to_disconnect(&self) -> String {
        format!("the protocol stub of {} was told to disconnect", self.record.key)
    }

    /// Says in the name of an instance that is no more that the stub is not connected.
    fn disconnected(&self, reason: fmt::Arguments<'_>) {
        let reason = told(reason);
        tracing::warn!(target: "protostub", domain = %self.record.key, reason = reason.as_str(), "the protocol stub has lost its instance");
        self.publish(StubStatus::Disconnected, reason);
    }

    fn publish(&self, status: StubStatus, reason: impl fmt::Display) {
        self.presence.drop_held();
        if let Err(error) = self.presence.publish(status, Some(told(reason))) {
            tracing::debug!(target: "protostub", %error, "a status could not be published");
        }
    }

    /// The stub is to connect, if it is not connected, or not with this credential.
    async fn connect(&self, instance: &mut Instance, credential: Option<Credential>, done: oneshot::Sender<()>) {
        let status = self.status.current().status;
        let other = credential.is_some() && credential != instance.told;
        if let Some(credential) = credential {
            self.record.login.hold(credential);
        }
        if other {
            instance.login = None;
            if matches!(status, StubStatus::Live | StubStatus::InProgress) {
                self.say_goodbye(instance, DisconnectReason::Request).await;
            }
        } else if status == StubStatus::Live {
            let _ = done.send(());
            return;
        }
        self.log_in(instance, Some(done));
    }

    /// With what it has, the stub could not connect: next time, something else is tried.
    fn forget_credentials(&self) {
        self.record.login.forget();
        self.context.identity.forget(self.record.key.domain());
    }

    /// The domain login: tells the stub to connect, with what the Identity Module holds for its domain. From now on it has to be live in time.
    fn log_in(&self, instance: &mut Instance, done: Option<oneshot::Sender<()>>) {
        instance.connect_by = Some(deadline(Instant::now(), self.context.config.lifecycle.connect_timeout));
        if let Some(login) = &mut instance.login {
            login.done.extend(done);
            return;
        }
        instance.told = self.record.login.credential();
        let explicit = instance.told.clone();
        // Where there is nobody to ask, it is told at once.
        let result: LoginResult = if explicit.is_some() || self.context.identity.has_no_providers() {
            Box::pin(connect(&instance.handle, explicit))
        } else {
            let (context, record, handle) = (Arc::clone(&self.context), Arc::clone(&self.record), instance.handle.clone());
            // In a task of its own: what providers do is their own affair, and a supervisor has to be there for others.
            let asking = self.context.spawn(async move {
                let credential = context.identity.credential(record.key.domain(), None).await?;
                connect(&handle, credential).await
            });
            let asking = AbortOnDropHandle::new(asking);
            Box::pin(async move { asking.await.unwrap_or(Ok(())) })
        };
        instance.login = Some(PendingLogin { result, done: done.into_iter().collect() });
    }

    /// Lets the stub say good-bye, for as long as it may.
    async fn say_goodbye(&self, instance: &Instance, reason: DisconnectReason) {
        self.bid_goodbye(instance, reason, self.status.clone()).await;
    }

    /// The same, of an instance with this status.
    async fn bid_goodbye(&self, instance: &Instance, reason: DisconnectReason, mut status: StatusWatch) {
        self.presence.drop_held();
        let goodbye = async {
            let was = status.current().status;
            if instance.handle.disconnect(reason).await.is_ok() && matches!(was, StubStatus::Live | StubStatus::InProgress) {
                status.until(|report| !matches!(report.status, StubStatus::Live | StubStatus::InProgress)).await;
            }
        };
        if timeout(self.context.config.lifecycle.grace, goodbye).await.is_err() {
            tracing::debug!(target: "protostub", domain = %self.record.key, "the stub did not disconnect within its grace time");
        }
    }

    /// Has everything that is registered through the stub removed, while it can still tell its domain.
    async fn remove_registrations(&self) {
        let StubRecord { registration, registrations, leaving, .. } = &*self.record;
        registration.get().inspect(|own| own.end());
        leaving.cancel();
        registrations.close();
        if self.status.current().status == StubStatus::Live
            && timeout(self.context.config.lifecycle.grace, registrations.wait()).await.is_err()
        {
            tracing::debug!(target: "protostub", domain = %self.record.key, "what was registered was not removed within the grace time");
        }
    }

    fn failed(&self, phase: Phase, reason: SafeText) -> DeployError {
        DeployError { key: self.record.key.clone(), phase, kind: DeployErrorKind::Failed { reason } }
    }

    /// The task of an instance panicked, or the threads are gone.
    fn lost_task(&self, error: &JoinError) -> DeployError {
        self.failed(Phase::Running, told(format_args!("its task ended without a word: {error}")))
    }

    fn lost(&self) -> Termination {
        Termination::Broken(self.failed(Phase::Running, "its task ended without a word".into()))
    }

    fn spent(&self, fault: DeployError) -> DeployError {
        let policy = self.restarts.policy();
        if policy.restarts == 0 {
            return fault;
        }
        let kind = DeployErrorKind::RestartsSpent { restarts: policy.restarts, within: policy.within, last: told(fault.kind) };
        DeployError { kind, ..fault }
    }

    /// The last words, and nothing is left: who waits is answered, the addresses are free.
    fn clear_up(self, end: Termination, inbox: Option<Inbox>, routes: [Route; 3]) {
        let key = &self.record.key;
        let (status, gone, done) = match end {
            Termination::Broken(error) => (StubStatus::Failed, StubGone::from(error), None),
            Termination::Undeployed(done) => (StubStatus::Dead, StubGone::undeployed(key), done),
            Termination::Shutdown => (StubStatus::Dead, StubGone::shut_down(key), None),
        };
        let reason = in_full(&gone);
        self.record.mailbox.refuse(Some((503, reason.to_string())));
        if status == StubStatus::Failed {
            let stub = self.record.url.get();
            tracing::warn!(target: "protostub", domain = %key, ?stub, error = %reason, "the protocol stub has ended");
        }
        self.publish(status, &reason);
        // In this order: whoever learns that it is over may deploy it anew at once, and needs its key's route.
        drop(routes);
        self.context.registry.remove(&self.record, gone);
        if let Some(inbox) = inbox {
            inbox.close(503, &reason);
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

const NO_REASON: &str = "the stub said `failed` and gave no reason";

impl PendingLogin {
    /// Waits for the end of a login, if there is one. Dropped, it tells those who wait for it.
    async fn ended(login: &mut Option<Self>) -> Result<(), CredentialError> {
        let ended = match login {
            Some(Self { result, .. }) => result.await,
            None => future::pending().await,
        };
        *login = None;
        ended
    }
}

impl Drop for PendingLogin {
    fn drop(&mut self) {
        // The stub was told, or something else came of it that its status tells.
        for done in self.done.drain(..) {
            let _ = done.send(());
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => future::pending().await,
    }
}

/// Tells an instance to connect.
fn connect(
    handle: &StubHandle,
    credential: Option<Credential>,
) -> impl Future<Output = Result<(), CredentialError>> + Send + Sync + use<> {
    let connected = handle.connect(credential);
    async move {
        // If the instance has ended, its end is told by its task.
        let _ = connected.await;
        Ok(())
    }
}

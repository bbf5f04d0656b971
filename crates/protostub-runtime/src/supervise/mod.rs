//! A stub after its deployment: login, commands, its sequence of instances, and its end.
//!
//! An instance is a sandbox with the component in it. The stub outlives its instances: the record
//! holds the mailbox, the URL, the status, the session and the subscribers.
//!
//! A [`Supervisor`] waits for the stub's next [event](wait). The [state machine](state) decides,
//! and the supervisor performs the actions. All decisions are in [`state`].
//!
//! When a version publishes `live` for the first time, its status is held back until the version is
//! durable as the accepted one. If it cannot be made durable, the instance is ended like a failed
//! one.

mod eviction;
mod instance;
mod retire;
mod state;
mod supervisor;
mod trial;
mod update;
mod wait;

use std::sync::Arc;

use protostub_types::{Backoff, StubStatus, deadline};
use tokio::time::{Duration, Instant};

pub(crate) use self::{eviction::permit, supervisor::Supervisor};
use self::{
    instance::Instance,
    state::{Action, End, Event, State},
};
use crate::{
    command::Command,
    context::RuntimeContext,
    deploy::{self, Deployed},
    error::{DeployError, DeployErrorKind, Phase, StubGone, failure_text, in_full},
    registration::{RegistrationHandle, RegistrationRequest},
    restart::Restarts,
    update::UpdateErrorKind,
};

/// The shortest pause between two messages that make a disconnected instance connect. Jitter adds
/// up to the same time again. A server that is back is therefore found within 2 s of its return,
/// and a server that refuses connections sees one attempt per pause.
const WAKE_PAUSE: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Takes over a stub whose first instance was started. The supervisor stays in its box, so that
    /// the stub's task stays small (`idle_stub_kib`).
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
        let instance = Instance::begin(&context, handle, task, retire_after);
        let mut supervisor = Box::new(Self {
            status: record.status.watch(),
            context,
            record,
            presence,
            commands,
            routes,
            state: State::FIRST,
            instance: None,
            inbox: None,
            command: None,
            fault: None,
            resume_at: Instant::now(),
            artifact: Arc::new(artifact),
            trial: None,
            restarts: Restarts::new(policy),
            retire_after,
        });
        supervisor.install(instance);
        supervisor
    }

    /// Supervises the stub until it ends, and then cleans up.
    pub(crate) async fn run(mut self: Box<Self>) {
        let mut event = Event::Started;
        let end = loop {
            let (state, actions) = self.state.on(event);
            self.state = state;
            // The box is freed after the actions, so that the task of an idle stub keeps only the
            // wait (`idle_stub_kib`).
            let reported = if actions.is_empty() { None } else { Box::pin(self.perform_all(actions)).await };
            event = match (reported, self.state) {
                (Some(event), _) => event,
                (None, State::Ended(end)) => break end,
                (None, _) => self.next_event().await,
            };
        };
        if end == End::Shutdown {
            // The stopped instance would answer these requests without the reason.
            self.context.bus.fail_taken(&self.record.mailbox, 503, &self.refusal());
        }
        self.stop().await;
        self.clear_up(end);
    }

    /// Performs actions until one reports an event.
    async fn perform_all(&mut self, actions: &[Action]) -> Option<Event> {
        for action in actions {
            if let Some(event) = self.perform(*action).await {
                return Some(event);
            }
        }
        None
    }

    async fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::AcceptMessages => {
                self.record.mailbox.refuse(None);
                self.record.set_told_to_disconnect(false);
            }
            Action::RefuseMessages => {
                self.record.mailbox.refuse(Some((503, self.refusal())));
                self.record.set_told_to_disconnect(!matches!(self.state, State::Ended(_)));
            }
            Action::FailWaiting => self.context.bus.fail_waiting(&self.record.mailbox, 503, &self.refusal()),
            Action::HoldCredential => {
                if let Some(Command::Connect { credential, .. }) = self.command.as_deref_mut()
                    && let Some(credential) = credential.take()
                {
                    self.record.login.hold(credential);
                }
            }
            Action::ForgetCredentials => {
                self.record.login.forget();
                self.context.identity.forget(self.record.key.domain());
            }
            Action::DropLogin => {
                if let Some(instance) = &mut self.instance {
                    instance.login = None;
                }
            }
            Action::LogIn => self.log_in(),
            Action::PlanWake => {
                if let Some(instance) = &mut self.instance {
                    instance.wake_at = Instant::now() + Backoff::new(WAKE_PAUSE, WAKE_PAUSE).next_pause();
                }
            }
            Action::TrustLogin => {
                if let Some(credential) = self.instance.as_ref().and_then(|instance| instance.credential.as_ref()) {
                    self.record.login.trust(credential);
                }
            }
            Action::Disconnect(reason) => self.disconnect(reason, self.status.clone()).await,
            Action::RemoveRegistrations => self.remove_registrations().await,
            Action::Accept => return Some(self.accept().await),
            Action::AcceptStarted => return self.accept_started().await,
            Action::BecomeLive => self.become_live(),
            Action::AskToRetire => return Some(self.ask_to_retire().await),
            Action::DeclineToRetire => self.decline_to_retire(),
            Action::PublishRetired => self.publish_retired(),
            Action::PublishFault => self.publish_fault(),
            Action::Stop => return if self.stop().await { None } else { Some(Event::Lost) },
            Action::TryOut => self.try_out(),
            Action::PublishTakeover => self.publish_takeover(),
            Action::RollBack => self.roll_back(),
            Action::PlanRestart => return self.plan_restart(),
            Action::CountInstance => self.record.restarted(),
            Action::Start => return Some(self.start().await),
            Action::Overlap => return self.overlap().await,
            Action::Reply => self.reply(),
            Action::ReplyUnderWay => {
                if let Some(command) = self.command.take()
                    && let Command::Update { done, .. } = *command
                {
                    let _ = done.send(Err(UpdateErrorKind::UnderWay));
                }
            }
        }
        None
    }

    /// Answers the command, if any, as done.
    fn reply(&mut self) {
        let Some(command) = self.command.take() else { return };
        match *command {
            Command::Connect { done, .. } | Command::Disconnect { done } | Command::Undeploy { done } => drop(done.send(())),
            Command::Update { done, .. } => drop(done.send(Ok(()))),
            Command::Retire { done, .. } => drop(done.send(true)),
            Command::Wake => {}
        }
    }

    fn log_in(&mut self) {
        let done = self.command.take().and_then(|command| match *command {
            Command::Connect { done, .. } => Some(done),
            _ => None,
        });
        if let Some(instance) = &mut self.instance {
            instance.log_in(&self.context, &self.record, done);
        }
    }

    /// Starts an instance in the place of the previous one: steps 12 to 18 again.
    async fn start(&mut self) -> Event {
        let Some(inbox) = self.inbox.take() else { return Event::Lost };
        let (permit, session) = (permit(&self.context, &self.record), self.record.session.clone());
        let sandbox = deploy::sandbox(permit, &self.context, &self.record, &self.presence, &self.artifact, session).await;
        let (inbox, kind) = match sandbox {
            Ok(sandbox) => match self.context.turns.run(sandbox.deploy_component(inbox)).await {
                Ok((handle, task)) => {
                    self.install(Instance::begin(&self.context, handle, task, self.retire_after));
                    return Event::Started;
                }
                Err(error) => {
                    self.context.report(&self.record, error.crash);
                    (error.inbox, DeployErrorKind::Start(Arc::new(error.kind)))
                }
            },
            Err(kind) => (inbox, kind),
        };
        self.inbox = Some(inbox);
        self.set_fault(self.error(Phase::Starting, kind));
        Event::NotStarted
    }

    /// Waits until an instance has published that it starts, and then accepts its version.
    async fn accept_started(&mut self) -> Option<Event> {
        let mut status = self.status.clone();
        let instance = self.instance.as_ref()?;
        tokio::select! {
            biased;
            _ = status.until(|report| report.status != StubStatus::Disconnected) => Some(self.accept().await),
            () = instance.handle.ended() => None,
        }
    }

    /// Makes the version durable as the accepted one, and then lets the instance be live.
    async fn accept(&mut self) -> Event {
        if let Err(kind) = self.remember(&self.artifact).await {
            self.set_fault(self.error(Phase::Connecting, kind));
            return Event::NotAccepted;
        }
        self.commit();
        self.presence.admit();
        if let Some(instance) = &self.instance {
            instance.handle.admit();
        }
        Event::Accepted
    }

    /// Sets the pause before the next instance. Reports `GaveUp` if the stub gets no further
    /// instance.
    fn plan_restart(&mut self) -> Option<Event> {
        if !self.record.status.was_live() {
            return Some(Event::GaveUp);
        }
        let fault = self.take_fault();
        let Some(pause) = self.restarts.next(Instant::now()) else {
            let fault = self.spent(fault);
            self.set_fault(fault);
            return Some(Event::GaveUp);
        };
        self.publish_loss(format_args!("a new instance starts in {} ms: {}", pause.as_millis(), in_full(&fault)));
        self.resume_at = deadline(Instant::now(), pause);
        None
    }

    fn spent(&self, fault: DeployError) -> DeployError {
        let policy = self.restarts.policy();
        if policy.restarts == 0 {
            return fault;
        }
        let kind =
            DeployErrorKind::RestartsSpent { restarts: policy.restarts, within: policy.within, last: failure_text(fault.kind) };
        DeployError { kind, ..fault }
    }

    /// Removes all registrations that go through the stub, while it can still tell its domain.
    async fn remove_registrations(&self) {
        self.record.registration.get().inspect(|own| own.end());
        self.record.leaving.cancel();
        self.record.registrations.close();
        let removed = tokio::time::timeout(self.context.config.lifecycle.grace, self.record.registrations.wait());
        if self.status.current().status == StubStatus::Live && removed.await.is_err() {
            tracing::debug!(target: "protostub", domain = %self.record.key, "failed to remove the stub's registrations within the grace time");
        }
    }

    /// Returns the reason of the responses to messages that the stub does not take.
    fn refusal(&self) -> String {
        match self.state {
            State::Ended(End::Shutdown) => in_full(&StubGone::shut_down(&self.record.key)).to_string(),
            State::Ended(_) => in_full(&StubGone::undeployed(&self.record.key)).to_string(),
            _ => format!("the protocol stub of {} was told to disconnect; connect it again", self.record.key),
        }
    }

    /// Publishes the last status, frees the addresses, and answers waiting messages and the
    /// command.
    fn clear_up(mut self: Box<Self>, end: End) {
        let key = &self.record.key;
        let (status, gone) = match end {
            End::Broken => (StubStatus::Failed, StubGone::from(self.take_fault())),
            End::Undeployed => (StubStatus::Dead, StubGone::undeployed(key)),
            End::Shutdown => (StubStatus::Dead, StubGone::shut_down(key)),
        };
        let reason = in_full(&gone);
        self.record.mailbox.refuse(Some((503, reason.to_string())));
        if end == End::Broken {
            let stub = self.record.url.get();
            tracing::warn!(target: "protostub", domain = %self.record.key, ?stub, error = %reason, "the protocol stub has ended");
        }
        self.publish(status, &reason);
        let Self { context, record, routes, inbox, command, .. } = *self;
        // The routes are dropped first: a caller that sees the end may deploy the stub again at
        // once, and needs the route.
        drop(routes);
        context.registry.remove(&record, gone);
        if let Some(inbox) = inbox {
            inbox.close(503, &reason);
        }
        if let Some(Command::Undeploy { done }) = command.map(|command| *command) {
            let _ = done.send(());
        }
    }
}

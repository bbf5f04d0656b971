//! The supervisor's decisions, without their execution: a pure state machine.
//!
//! ```text
//! Starting ──► Running ──► it failed ─────► Waiting(Restart) ──► Starting …
//!                │  ▲  ▲                       └ budget spent, or it was never live ──► Ended
//!                │  │  ├ update: old and new instance overlap
//!                │  │  └ outage: it reports that it cannot connect, and tries again later
//!                │  └─── update: Starting, on trial ──► it failed: Starting, the previous version
//!                ├──► idle: Waiting(Use) ──► used ──► Starting …
//!                └──► undeployed, shutdown ──► Ended
//! ```
//!
//! [`State::on`] returns the next state and the actions that lead there. The supervisor performs
//! the actions in their order. An action may report an [`Event`] of its own. The remaining actions
//! are then dropped, and the event is handled next.

use protostub_sandbox::DisconnectReason;
use protostub_types::StubStatus;

/// The connection that the stub's users want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The stub connects by itself.
    Connected,
    /// The host program told the stub to disconnect.
    Disconnected,
}

/// The trust that an instance has earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The instance has an update's version. If it fails, the previous version takes over again.
    OnTrial,
    /// The instance has the accepted version, and has not been live yet.
    New,
    /// The instance has been live.
    Proven,
}

/// The state of an instance's connection, as far as a deadline depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// The instance was told to connect, and has to report the outcome in time.
    Connecting,
    /// The instance is live, has lost its connection, could not connect, or was told to disconnect.
    Settled,
}

/// The event that a stub without an instance waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The end of the pause after a failure.
    Restart,
    /// A message, or a caller who wants the stub to be live.
    Use,
}

/// The end of a stub's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The stub failed, and gets no further instance.
    Broken,
    /// The host program undeployed the stub.
    Undeployed,
    /// The runtime shuts down.
    Shutdown,
}

/// The state of a stub after its deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// An instance is being started. The supervisor takes no command meanwhile.
    Starting { wanted: Wanted, standing: Standing },
    /// An instance runs.
    Running { wanted: Wanted, standing: Standing, connection: Connection },
    /// There is no instance. Messages wait in the mailbox.
    Waiting { wanted: Wanted, wait: Wait },
    /// The stub has ended.
    Ended(End),
}

/// The credential of a `connect` command, compared with the one that the instance connects with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    /// The same credential, or none.
    Same,
    /// Another credential.
    Other,
}

/// An attempt to connect, by the proof that it can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The stub has never been live.
    First,
    /// The credential is that of an explicit login, and the stub was never live with it.
    Login,
    /// The stub was live before. If it cannot connect now, its server is away.
    Again,
}

/// The order of the old and the new instance in an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The old instance ends before the new one starts.
    OneByOne,
    /// The descriptor allows both at a time.
    Overlap,
}

/// An event of a stub. The supervisor keeps its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    // Commands of the host program.
    Connect {
        login: Login,
        status: StubStatus,
    },
    Disconnect,
    Update(Order),
    Undeploy,
    /// Another stub needs the sandbox.
    Retire,
    /// A caller wants the stub to be live.
    Wake {
        status: StubStatus,
    },

    // Events of the instance.
    /// Its start succeeded.
    Started,
    /// Its start failed.
    NotStarted,
    /// It wants to be live, and its version is not accepted yet.
    WantsAdmission,
    /// Its version is durable as the accepted one.
    Accepted,
    /// Its version could not be made durable.
    NotAccepted,
    /// It is live.
    Live,
    /// It reported that it cannot connect, and that no retry will help.
    Failed,
    /// It reported that it cannot connect now.
    AttemptFailed(Attempt),
    /// It was not live in time.
    ConnectTimeout,
    /// It was not live in time with the credential of an explicit login, and reported that.
    LoginTimeout,
    /// The login failed to get its credential.
    NoCredential,
    /// The login of a stub that was live before failed to get its credential for now.
    NoCredentialNow,
    /// It ended by itself.
    Crashed,
    /// Its task was lost, with the inbox.
    Lost,
    /// It has been idle for as long as the operator allows.
    Idle,
    /// It agreed to retire, and takes no more messages.
    RetireAgreed,
    /// It is in use.
    RetireDeclined,
    /// The new instance of an overlapping update has replaced it.
    TookOver,

    // Events of the stub.
    /// A message waits, and no connected instance takes it.
    MessageWaits,
    /// The pause before the next instance is over.
    PauseOver,
    /// No further instance is allowed.
    GaveUp,
    /// The runtime shuts down.
    Shutdown,
}

/// An action of the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Lets the mailbox accept messages.
    AcceptMessages,
    /// Lets the mailbox refuse messages, with the state's reason.
    RefuseMessages,
    /// Answers with 503 the messages that the instance has not taken.
    FailWaiting,
    /// Keeps the command's credential for this stub.
    HoldCredential,
    /// Forgets the credentials that the stub could not connect with.
    ForgetCredentials,
    /// Drops a login that is under way.
    DropLogin,
    /// Tells the instance to connect. The command, if any, is answered when the instance was told.
    LogIn,
    /// Sets the time before which no other message makes the instance connect.
    PlanWake,
    /// Notes that the stub can connect with the credential of its explicit login.
    TrustLogin,
    /// Lets the instance disconnect, within its grace time.
    Disconnect(DisconnectReason),
    /// Removes the registrations that go through the stub, while it can still tell its domain.
    RemoveRegistrations,
    /// Makes the version durable, and admits the instance. Reports `Accepted` or `NotAccepted`.
    Accept,
    /// Waits until the instance has started, and then accepts its version. An instance that stays
    /// disconnected cannot prove more. Reports `Accepted` or `NotAccepted`.
    AcceptStarted,
    /// Forgets the stub's failures.
    BecomeLive,
    /// Asks the instance whether it is idle. Reports `RetireAgreed` or `RetireDeclined`.
    AskToRetire,
    /// Answers the command with `false`. Without a command, schedules the next check.
    DeclineToRetire,
    /// Publishes that the stub is retired.
    PublishRetired,
    /// Publishes the fault of a stub that stays disconnected.
    PublishFault,
    /// Stops the instance, and takes its inbox back. Reports `Lost` if the inbox is lost.
    Stop,
    /// Makes the command's version that of the next instance.
    TryOut,
    /// Publishes that another version takes over.
    PublishTakeover,
    /// Makes the previous version that of the next instance.
    RollBack,
    /// Sets the pause before the next instance. Reports `GaveUp` if the stub gets no further one.
    PlanRestart,
    /// Counts one more instance.
    CountInstance,
    /// Starts an instance. Reports `Started` or `NotStarted`.
    Start,
    /// Starts an instance of the command's version next to the running one. Once it is live, it
    /// replaces the running one. Reports `TookOver`, `Lost`, or nothing if the running instance
    /// stays.
    Overlap,
    /// Answers the command, if any, as done.
    Reply,
    /// Answers the command: another update is under way.
    ReplyUnderWay,
}

type Step = (State, &'static [Action]);

impl State {
    /// The state of a stub whose deployment has started its first instance.
    pub(super) const FIRST: Self = Self::Starting { wanted: Wanted::Connected, standing: Standing::New };

    /// Returns the state after an event, and the actions that lead there.
    pub(super) fn on(self, event: Event) -> Step {
        use Action::{
            Accept, AcceptMessages, AcceptStarted, AskToRetire, BecomeLive, CountInstance, DeclineToRetire, Disconnect,
            DropLogin, FailWaiting, ForgetCredentials, HoldCredential, LogIn, Overlap, PlanRestart, PlanWake, PublishFault,
            PublishRetired, PublishTakeover, RefuseMessages, RemoveRegistrations, Reply, ReplyUnderWay, RollBack, Start, Stop,
            TrustLogin, TryOut,
        };
        use Connection::{Connecting, Settled};
        use DisconnectReason::{Idle, Request, Shutdown, Update};
        use Standing::{New, OnTrial, Proven};
        use State::{Ended, Running, Starting, Waiting};
        use StubStatus::{Disconnected, InProgress, Live};
        use Wanted::Connected;

        match (event, self) {
            (Event::Connect { login, status }, Running { standing, connection, .. }) => match (login, status) {
                (Login::Same, Live) => {
                    (Running { wanted: Connected, standing, connection }, &[AcceptMessages, HoldCredential, Reply])
                }
                (Login::Same, _) => (connecting(standing), &[AcceptMessages, HoldCredential, LogIn]),
                (Login::Other, Live | InProgress) => {
                    (connecting(standing), &[AcceptMessages, HoldCredential, DropLogin, Disconnect(Request), LogIn])
                }
                (Login::Other, _) => (connecting(standing), &[AcceptMessages, HoldCredential, DropLogin, LogIn]),
            },
            (Event::Connect { .. }, Waiting { .. }) => {
                (starting(Connected, New), &[AcceptMessages, HoldCredential, Reply, CountInstance, Start])
            }

            (Event::Disconnect, Running { standing, .. }) => {
                let state = Running { wanted: Wanted::Disconnected, standing, connection: Settled };
                match standing {
                    // A running instance is all that its version can prove.
                    OnTrial => (state, &[RefuseMessages, DropLogin, Disconnect(Request), FailWaiting, Accept]),
                    New | Proven => (state, &[RefuseMessages, DropLogin, Disconnect(Request), FailWaiting, Reply]),
                }
            }
            (Event::Disconnect, Waiting { wait, .. }) => {
                (Waiting { wanted: Wanted::Disconnected, wait }, &[RefuseMessages, FailWaiting, Reply])
            }

            (Event::Update(_), Running { standing: OnTrial, .. }) => (self, &[ReplyUnderWay]),
            // An instance proves that it works by being live, so it has to be allowed to connect.
            (Event::Update(Order::Overlap), Running { wanted: Connected, standing: Proven, .. }) => (self, &[Overlap]),
            (Event::Update(_), Running { wanted, .. }) => {
                (starting(wanted, OnTrial), &[Disconnect(Update), Stop, TryOut, PublishTakeover, Start])
            }
            (Event::Update(_), Waiting { wanted, .. }) => (starting(wanted, OnTrial), &[TryOut, CountInstance, Start]),

            (Event::Undeploy, Running { .. }) => {
                (Ended(End::Undeployed), &[RemoveRegistrations, DropLogin, RefuseMessages, Disconnect(Request)])
            }
            (Event::Undeploy, Waiting { .. }) => (Ended(End::Undeployed), &[]),

            (Event::Retire | Event::Idle, Running { standing: New | Proven, connection: Settled, .. }) => (self, &[AskToRetire]),
            (Event::Retire | Event::Idle, Running { .. }) => (self, &[DeclineToRetire]),
            (Event::Retire, Waiting { .. }) => (self, &[DeclineToRetire]),

            (Event::Wake { status: Disconnected }, Running { wanted: Connected, standing, connection: Settled }) => {
                (connecting(standing), &[LogIn])
            }
            (Event::Wake { .. }, Waiting { wanted: Connected, wait: Wait::Use }) => {
                (starting(Connected, New), &[CountInstance, Start])
            }

            (Event::Started, Starting { wanted: Connected, standing }) => (connecting(standing), &[LogIn]),
            (Event::Started, Starting { wanted, standing }) => {
                (Running { wanted, standing, connection: Settled }, &[AcceptStarted])
            }
            (Event::NotStarted, Starting { wanted, standing: OnTrial }) => {
                (starting(wanted, New), &[RollBack, CountInstance, Start])
            }
            (Event::NotStarted, Starting { wanted, .. }) => (restarting(wanted), &[PlanRestart]),

            (Event::WantsAdmission, Running { .. }) => (self, &[Accept]),
            (Event::Accepted, Running { wanted, standing: OnTrial, connection }) => {
                (Running { wanted, standing: New, connection }, &[Reply])
            }
            (Event::Accepted, Running { .. }) => (self, &[Reply]),
            (Event::Live, Running { wanted, standing: OnTrial | New, .. }) => {
                (Running { wanted, standing: Proven, connection: Settled }, &[BecomeLive, TrustLogin])
            }
            // A connection that broke is restored.
            (Event::Live, Running { wanted, standing: Proven, .. }) => {
                (Running { wanted, standing: Proven, connection: Settled }, &[TrustLogin])
            }
            (Event::TookOver, Running { wanted, .. }) => (Running { wanted, standing: Proven, connection: Connecting }, &[Reply]),

            (Event::Crashed, Running { wanted, standing: OnTrial, .. }) => {
                (starting(wanted, New), &[RollBack, CountInstance, Start])
            }
            (Event::Crashed, Running { wanted, .. }) => (restarting(wanted), &[PlanRestart]),
            // The instance holds messages that it could not send, so an outage does not end it.
            (
                Event::AttemptFailed(Attempt::Again),
                Running { wanted, standing: standing @ (New | Proven), connection: Connecting },
            ) => (Running { wanted, standing, connection: Settled }, &[]),
            (Event::LoginTimeout, Running { standing: New | Proven, connection: Connecting, .. }) => {
                (self, &[ForgetCredentials, LogIn])
            }
            (Event::Failed | Event::ConnectTimeout | Event::LoginTimeout, Running { wanted, standing: OnTrial, .. }) => {
                (starting(wanted, New), &[ForgetCredentials, Stop, RollBack, CountInstance, Start])
            }
            (Event::Failed | Event::ConnectTimeout, Running { wanted, .. }) => {
                (restarting(wanted), &[ForgetCredentials, Stop, PlanRestart])
            }
            (Event::NoCredential | Event::NoCredentialNow, Running { wanted, standing: OnTrial, .. }) => {
                (starting(wanted, New), &[Stop, RollBack, CountInstance, Start])
            }
            // Meanwhile the instance became live by itself.
            (Event::NoCredential | Event::NoCredentialNow, Running { standing: Proven, connection: Settled, .. }) => (self, &[]),
            (Event::NoCredentialNow, Running { wanted, standing, .. }) => {
                (Running { wanted, standing, connection: Settled }, &[PublishFault])
            }
            (Event::NoCredential, Running { wanted, .. }) => (restarting(wanted), &[Stop, PlanRestart]),
            (Event::NotAccepted, Running { wanted, standing: OnTrial, .. }) => {
                (starting(wanted, New), &[Reply, Disconnect(Request), Stop, RollBack, CountInstance, Start])
            }
            (Event::NotAccepted, Running { wanted, .. }) => {
                (restarting(wanted), &[Reply, Disconnect(Request), Stop, PlanRestart])
            }

            (Event::RetireAgreed, Running { wanted, .. }) => {
                let state = Waiting { wanted, wait: Wait::Use };
                match wanted {
                    Connected => (state, &[Disconnect(Idle), Stop, PublishRetired, Reply]),
                    // The stub is already disconnected, for another reason.
                    Wanted::Disconnected => (state, &[Disconnect(Idle), Stop, Reply]),
                }
            }
            (Event::RetireDeclined, Running { .. }) => (self, &[DeclineToRetire]),

            (Event::MessageWaits, Running { wanted: Connected, standing, connection: Settled }) => {
                (connecting(standing), &[PlanWake, LogIn])
            }
            (Event::MessageWaits, Waiting { wanted: Connected, wait: Wait::Use })
            | (Event::PauseOver, Waiting { wanted: Connected, wait: Wait::Restart }) => {
                (starting(Connected, New), &[CountInstance, Start])
            }

            (Event::GaveUp, Waiting { .. }) => (Ended(End::Broken), &[]),
            (Event::Lost, Starting { .. } | Running { .. } | Waiting { .. }) => (Ended(End::Broken), &[]),
            (Event::Shutdown, Running { .. }) => {
                (Ended(End::Shutdown), &[RemoveRegistrations, DropLogin, RefuseMessages, Disconnect(Shutdown)])
            }
            (Event::Shutdown, Waiting { .. }) => (Ended(End::Shutdown), &[]),

            _ => (self, &[]),
        }
    }

    /// Returns `true` if the instance has to be live, or report a failed attempt, by its deadline.
    pub(super) fn has_deadline(self) -> bool {
        matches!(self, Self::Running { connection: Connection::Connecting, .. })
    }

    /// Returns `true` if the status `live` is an event in this state.
    pub(super) fn heeds_live(self) -> bool {
        self.has_deadline() || matches!(self, Self::Running { standing: Standing::OnTrial | Standing::New, .. })
    }

    /// Returns `true` if the failure of this attempt is an event in this state.
    pub(super) fn heeds_failed(self, attempt: Attempt) -> bool {
        let may_stay = matches!(self, Self::Running { standing: Standing::New | Standing::Proven, .. });
        attempt == Attempt::Again && may_stay && self.has_deadline()
    }

    /// Returns `true` if a waiting message makes an instance with this status connect.
    pub(super) fn heeds_messages(self, status: StubStatus) -> bool {
        status == StubStatus::Disconnected
            && matches!(self, Self::Running { wanted: Wanted::Connected, connection: Connection::Settled, .. })
    }
}

fn starting(wanted: Wanted, standing: Standing) -> State {
    State::Starting { wanted, standing }
}

fn connecting(standing: Standing) -> State {
    State::Running { wanted: Wanted::Connected, standing, connection: Connection::Connecting }
}

fn restarting(wanted: Wanted) -> State {
    State::Waiting { wanted, wait: Wait::Restart }
}

#[cfg(test)]
mod tests;

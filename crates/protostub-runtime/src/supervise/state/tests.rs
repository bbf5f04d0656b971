//! The table of the state machine: each command in each state, and all other events.

use protostub_sandbox::DisconnectReason::{Idle, Request, Shutdown, Update};
use protostub_types::StubStatus::{Created, Deployed, Disconnected, InProgress, Live};

use super::{
    Action::{self, *},
    Attempt,
    Connection::{self, Connecting, Settled},
    End, Event, Login, Order,
    Standing::{self, New, OnTrial, Proven},
    State, Wait, Wanted,
};

const WANTED: [Wanted; 2] = [Wanted::Connected, Wanted::Disconnected];
const STANDINGS: [Standing; 3] = [OnTrial, New, Proven];
const CONNECTIONS: [Connection; 2] = [Connecting, Settled];
const ATTEMPTS: [Attempt; 3] = [Attempt::First, Attempt::Login, Attempt::Again];
const WAITS: [Wait; 2] = [Wait::Restart, Wait::Use];

fn running(wanted: Wanted, standing: Standing, connection: Connection) -> State {
    State::Running { wanted, standing, connection }
}

fn waiting(wanted: Wanted, wait: Wait) -> State {
    State::Waiting { wanted, wait }
}

fn starting(wanted: Wanted, standing: Standing) -> State {
    State::Starting { wanted, standing }
}

/// The states in which commands are taken.
fn states() -> Vec<State> {
    let mut states = Vec::new();
    for wanted in WANTED {
        for standing in STANDINGS {
            states.extend(CONNECTIONS.map(|connection| running(wanted, standing, connection)));
        }
        states.extend(WAITS.map(|wait| waiting(wanted, wait)));
    }
    states
}

/// The rows of one command. They have to cover each state once.
struct Rows {
    event: Event,
    left: Vec<State>,
}

impl Rows {
    fn of(event: Event) -> Self {
        Self { event, left: states() }
    }

    /// Checks that the event leads to this state by these actions, in the selected states among
    /// those that are left.
    #[track_caller]
    fn row(mut self, selected: fn(State) -> bool, next: fn(State) -> State, actions: &[Action]) -> Self {
        let (now, left): (Vec<_>, Vec<_>) = self.left.into_iter().partition(|state| selected(*state));
        assert!(!now.is_empty(), "{:?}: no state is left for this row", self.event);
        for state in now {
            assert_eq!(state.on(self.event), (next(state), actions), "{:?} in {state:?}", self.event);
        }
        self.left = left;
        self
    }

    /// Checks that in all other states, the event leads to these actions and keeps the state.
    #[track_caller]
    fn else_stays(self, actions: &[Action]) {
        self.row(|_| true, |state| state, actions);
    }

    #[track_caller]
    fn end(self) {
        assert!(self.left.is_empty(), "{:?}: {:?} are missing in the table", self.event, self.left);
    }
}

fn is_running(state: State) -> bool {
    matches!(state, State::Running { .. })
}

fn is_on_trial(state: State) -> bool {
    matches!(state, State::Running { standing: OnTrial, .. })
}

/// Returns the state with the same instance, which has to connect now.
fn connecting(state: State) -> State {
    match state {
        State::Running { standing, .. } => running(Wanted::Connected, standing, Connecting),
        other => other,
    }
}

fn wanted(state: State) -> Wanted {
    match state {
        State::Starting { wanted, .. } | State::Running { wanted, .. } | State::Waiting { wanted, .. } => wanted,
        State::Ended(_) => Wanted::Disconnected,
    }
}

fn standing(state: State) -> Standing {
    match state {
        State::Starting { standing, .. } | State::Running { standing, .. } => standing,
        State::Waiting { .. } | State::Ended(_) => New,
    }
}

#[test]
fn connect_in_each_state_connects() {
    let restart = [AcceptMessages, HoldCredential, Reply, CountInstance, Start];
    let restarted = |_| starting(Wanted::Connected, New);
    let stays_live = |state| match state {
        State::Running { standing, connection, .. } => running(Wanted::Connected, standing, connection),
        other => other,
    };
    let connect = |login, status| Rows::of(Event::Connect { login, status });
    let rows = connect(Login::Same, Live).row(is_running, stays_live, &[AcceptMessages, HoldCredential, Reply]);
    rows.row(|_| true, restarted, &restart).end();
    for status in [Deployed, Created, InProgress, Disconnected] {
        let rows = connect(Login::Same, status).row(is_running, connecting, &[AcceptMessages, HoldCredential, LogIn]);
        rows.row(|_| true, restarted, &restart).end();
    }
    for status in [Live, InProgress] {
        let actions = [AcceptMessages, HoldCredential, DropLogin, Disconnect(Request), LogIn];
        connect(Login::Other, status).row(is_running, connecting, &actions).row(|_| true, restarted, &restart).end();
    }
    for status in [Deployed, Created, Disconnected] {
        let actions = [AcceptMessages, HoldCredential, DropLogin, LogIn];
        connect(Login::Other, status).row(is_running, connecting, &actions).row(|_| true, restarted, &restart).end();
    }
}

#[test]
fn disconnect_in_each_state_disconnects() {
    let settled = |state| match state {
        State::Running { standing, .. } => running(Wanted::Disconnected, standing, Settled),
        State::Waiting { wait, .. } => waiting(Wanted::Disconnected, wait),
        other => other,
    };
    Rows::of(Event::Disconnect)
        .row(is_on_trial, settled, &[RefuseMessages, DropLogin, Disconnect(Request), FailWaiting, Accept])
        .row(is_running, settled, &[RefuseMessages, DropLogin, Disconnect(Request), FailWaiting, Reply])
        .row(|_| true, settled, &[RefuseMessages, FailWaiting, Reply])
        .end();
}

#[test]
fn update_in_each_state_starts_one_trial() {
    let one_by_one = [Disconnect(Update), Stop, TryOut, PublishTakeover, Start];
    let trial = |state| starting(wanted(state), OnTrial);
    let is_proven = |state| matches!(state, State::Running { wanted: Wanted::Connected, standing: Proven, .. });
    Rows::of(Event::Update(Order::OneByOne))
        .row(is_on_trial, |state| state, &[ReplyUnderWay])
        .row(is_running, trial, &one_by_one)
        .row(|_| true, trial, &[TryOut, CountInstance, Start])
        .end();
    Rows::of(Event::Update(Order::Overlap))
        .row(is_on_trial, |state| state, &[ReplyUnderWay])
        .row(is_proven, |state| state, &[Overlap])
        .row(is_running, trial, &one_by_one)
        .row(|_| true, trial, &[TryOut, CountInstance, Start])
        .end();
}

#[test]
fn undeploy_and_shutdown_in_each_state_end_the_stub() {
    for (event, end, reason) in [(Event::Undeploy, End::Undeployed, Request), (Event::Shutdown, End::Shutdown, Shutdown)] {
        for state in states() {
            let goodbye = [RemoveRegistrations, DropLogin, RefuseMessages, Disconnect(reason)];
            let actions: &[Action] = if is_running(state) { &goodbye } else { &[] };
            assert_eq!(state.on(event), (State::Ended(end), actions), "{event:?} in {state:?}");
        }
    }
}

#[test]
fn retire_in_each_state_asks_only_a_settled_instance() {
    let is_settled = |state| matches!(state, State::Running { standing: New | Proven, connection: Settled, .. });
    Rows::of(Event::Retire).row(is_settled, |state| state, &[AskToRetire]).else_stays(&[DeclineToRetire]);
}

#[test]
fn wake_in_each_state_connects_a_disconnected_stub() {
    let is_settled = |state| matches!(state, State::Running { wanted: Wanted::Connected, connection: Settled, .. });
    let is_retired = |state| matches!(state, State::Waiting { wanted: Wanted::Connected, wait: Wait::Use });
    let restarted = |_| starting(Wanted::Connected, New);
    Rows::of(Event::Wake { status: Disconnected })
        .row(is_settled, connecting, &[LogIn])
        .row(is_retired, restarted, &[CountInstance, Start])
        .else_stays(&[]);
    for status in [Deployed, Created, InProgress, Live] {
        Rows::of(Event::Wake { status }).row(is_retired, restarted, &[CountInstance, Start]).else_stays(&[]);
    }
}

#[test]
fn command_in_each_state_is_answered_once() {
    let statuses = [Deployed, Created, InProgress, Live, Disconnected];
    let logins = [Login::Same, Login::Other];
    let connects = logins.into_iter().flat_map(|login| statuses.map(|status| Event::Connect { login, status }));
    let others =
        [Event::Disconnect, Event::Update(Order::OneByOne), Event::Update(Order::Overlap), Event::Undeploy, Event::Retire];
    for event in connects.chain(others) {
        for state in states() {
            let (next, actions) = state.on(event);
            let answers = actions.iter().filter(|action| {
                // `Accept`, `AskToRetire` and `Overlap` report an event, whose actions answer.
                matches!(action, Reply | ReplyUnderWay | DeclineToRetire | LogIn | TryOut | Overlap | Accept | AskToRetire)
            });
            let expected = usize::from(next != State::Ended(End::Undeployed));
            assert_eq!(answers.count(), expected, "{event:?} in {state:?}");
        }
    }
    for state in states().into_iter().filter(|state| is_running(*state)) {
        for event in [Event::Accepted, Event::NotAccepted, Event::RetireAgreed, Event::TookOver] {
            let answers = state.on(event).1.iter().filter(|action| **action == Reply);
            assert_eq!(answers.count(), 1, "{event:?} in {state:?}");
        }
        assert_eq!(state.on(Event::RetireDeclined), (state, &[DeclineToRetire][..]));
    }
}

#[test]
fn failure_on_trial_brings_back_the_version_before() {
    let table: [(Event, &[Action]); 4] = [
        (Event::Crashed, &[]),
        (Event::Failed, &[ForgetCredentials, Stop]),
        (Event::ConnectTimeout, &[ForgetCredentials, Stop]),
        (Event::NotAccepted, &[Reply, Disconnect(Request), Stop]),
    ];
    for (event, first) in table {
        for state in states().into_iter().filter(|state| is_running(*state)) {
            let (next, then): (_, &[Action]) = match is_on_trial(state) {
                true => (starting(wanted(state), New), &[RollBack, CountInstance, Start]),
                false => (waiting(wanted(state), Wait::Restart), &[PlanRestart]),
            };
            let actions = [first, then].concat();
            assert_eq!(state.on(event), (next, &actions[..]), "{event:?} in {state:?}");
        }
    }
    for wanted in WANTED {
        let (back, planned) = ((starting(wanted, New), &[RollBack, CountInstance, Start][..]), waiting(wanted, Wait::Restart));
        assert_eq!(starting(wanted, OnTrial).on(Event::NotStarted), back);
        assert_eq!(starting(wanted, New).on(Event::NotStarted), (planned, &[PlanRestart][..]));
        assert_eq!(planned.on(Event::GaveUp), (State::Ended(End::Broken), &[][..]));
    }
}

/// An instance whose server is away may hold messages that it could not send.
#[test]
fn failed_attempt_of_a_stub_that_was_live_keeps_the_instance() {
    let settled = |state| running(wanted(state), standing(state), Settled);
    let may_stay = |state| matches!(state, State::Running { standing: New | Proven, connection: Connecting, .. });
    Rows::of(Event::AttemptFailed(Attempt::Again)).row(may_stay, settled, &[]).else_stays(&[]);
    // The deadline of these attempts stays.
    for attempt in [Attempt::First, Attempt::Login] {
        Rows::of(Event::AttemptFailed(attempt)).else_stays(&[]);
    }
    for state in states() {
        for attempt in ATTEMPTS {
            let (next, _) = state.on(Event::AttemptFailed(attempt));
            assert_eq!(state.heeds_failed(attempt), next != state, "{attempt:?} in {state:?}");
        }
    }
}

#[test]
fn login_that_fails_in_time_loses_only_its_credential() {
    let back = [ForgetCredentials, Stop, RollBack, CountInstance, Start];
    let trial = |state| starting(wanted(state), New);
    let has_deadline = |state: State| state.has_deadline();
    Rows::of(Event::LoginTimeout)
        .row(is_on_trial, trial, &back)
        .row(has_deadline, |state| state, &[ForgetCredentials, LogIn])
        .else_stays(&[]);
}

#[test]
fn missing_credential_ends_an_instance_unless_it_is_an_outage() {
    let back = [Stop, RollBack, CountInstance, Start];
    let trial = |state| starting(wanted(state), New);
    let is_live = |state| matches!(state, State::Running { standing: Proven, connection: Settled, .. });
    let restarts = |state| waiting(wanted(state), Wait::Restart);
    let settled = |state| running(wanted(state), standing(state), Settled);
    let rows = |event| Rows::of(event).row(is_on_trial, trial, &back).row(is_live, |state| state, &[]);
    rows(Event::NoCredential).row(is_running, restarts, &[Stop, PlanRestart]).else_stays(&[]);
    rows(Event::NoCredentialNow).row(is_running, settled, &[PublishFault]).else_stays(&[]);
}

#[test]
fn started_instance_connects_only_if_wanted() {
    for standing in [OnTrial, New] {
        let started = starting(Wanted::Connected, standing).on(Event::Started);
        assert_eq!(started, (running(Wanted::Connected, standing, Connecting), &[LogIn][..]));
        let started = starting(Wanted::Disconnected, standing).on(Event::Started);
        assert_eq!(started, (running(Wanted::Disconnected, standing, Settled), &[AcceptStarted][..]));
    }
}

#[test]
fn live_instance_is_proven_once() {
    for state in states().into_iter().filter(|state| is_running(*state)) {
        let (next, actions) = state.on(Event::Live);
        assert_eq!(next, running(wanted(state), Proven, Settled));
        let is_first = !matches!(state, State::Running { standing: Proven, .. });
        assert_eq!(actions, if is_first { &[BecomeLive, TrustLogin][..] } else { &[TrustLogin] }, "{state:?}");
        assert_eq!(state.heeds_live(), next != state, "{state:?}");
    }
}

#[test]
fn message_wakes_a_stub_that_may_connect() {
    for state in states() {
        let (next, actions) = state.on(Event::MessageWaits);
        let expected: (State, &[Action]) = match state {
            State::Running { wanted: Wanted::Connected, connection: Settled, .. } => (connecting(state), &[PlanWake, LogIn]),
            State::Waiting { wanted: Wanted::Connected, wait: Wait::Use } => {
                (starting(Wanted::Connected, New), &[CountInstance, Start])
            }
            _ => (state, &[]),
        };
        assert_eq!((next, actions), expected, "{state:?}");
        assert_eq!(state.heeds_messages(Disconnected), is_running(state) && next != state, "{state:?}");
        assert!(!state.heeds_messages(InProgress) && !state.heeds_messages(Live), "{state:?}");
    }
}

#[test]
fn retired_instance_says_why_it_is_disconnected() {
    let live = running(Wanted::Connected, Proven, Settled).on(Event::RetireAgreed);
    let retired = waiting(Wanted::Connected, Wait::Use);
    assert_eq!(live, (retired, &[Disconnect(Idle), Stop, PublishRetired, Reply][..]));
    let silent = running(Wanted::Disconnected, Proven, Settled).on(Event::RetireAgreed);
    assert_eq!(silent, (waiting(Wanted::Disconnected, Wait::Use), &[Disconnect(Idle), Stop, Reply][..]));
}

#[test]
fn ended_stub_does_nothing() {
    for end in [End::Broken, End::Undeployed, End::Shutdown] {
        for event in
            [Event::Disconnect, Event::Undeploy, Event::Retire, Event::Started, Event::Live, Event::Lost, Event::Shutdown]
        {
            assert_eq!(State::Ended(end).on(event), (State::Ended(end), &[][..]));
        }
    }
}

/// Handles all events in all orders.
#[test]
fn reachable_states_keep_the_invariants() {
    let statuses = [Deployed, Created, InProgress, Live, Disconnected];
    let mut events = vec![
        Event::Disconnect,
        Event::Update(Order::OneByOne),
        Event::Update(Order::Overlap),
        Event::Undeploy,
        Event::Retire,
        Event::Started,
        Event::NotStarted,
        Event::WantsAdmission,
        Event::Accepted,
        Event::NotAccepted,
        Event::Live,
        Event::Failed,
        Event::ConnectTimeout,
        Event::LoginTimeout,
        Event::NoCredential,
        Event::NoCredentialNow,
        Event::Crashed,
        Event::Lost,
        Event::Idle,
        Event::RetireAgreed,
        Event::RetireDeclined,
        Event::MessageWaits,
        Event::PauseOver,
        Event::GaveUp,
        Event::Shutdown,
    ];
    events.extend(statuses.map(|status| Event::Wake { status }));
    events.extend(ATTEMPTS.map(Event::AttemptFailed));
    for login in [Login::Same, Login::Other] {
        events.extend(statuses.map(|status| Event::Connect { login, status }));
    }
    let mut reached = vec![State::FIRST];
    let mut next = 0;
    while let Some(state) = reached.get(next).copied() {
        next += 1;
        for event in &events {
            let (to, actions) = state.on(*event);
            let is_trial_waiting = matches!(to, State::Starting { standing: Proven, .. });
            let is_told_both = matches!(to, State::Running { wanted: Wanted::Disconnected, connection: Connecting, .. });
            assert!(!is_trial_waiting && !is_told_both, "{event:?} in {state:?} leads to {to:?}");
            let starts = actions.last() == Some(&Start);
            let is_starting = matches!(to, State::Starting { .. });
            assert_eq!(starts, is_starting && (to != state || starts), "{event:?} in {state:?}: {actions:?}");
            if !reached.contains(&to) {
                reached.push(to);
            }
        }
    }
    assert!(reached.len() > 15, "{reached:#?}");
}

use serde_json::{Map, Value, json};

use crate::{Behaviour, components};

/// Somebody who attacks, and what has to become of it.
#[derive(Debug, Clone)]
pub struct Attack {
    /// What it does: the function's name in [`attacks`](crate::attacks).
    pub name: &'static str,
    /// How it has to be contained.
    pub contained: Containment,
    /// The limit that ends it before it comes to that, where it has much to compute and the machine little time for it: one of the same threat.
    pub(crate) or_ends: Option<&'static str>,
    pub(crate) publishes: Publishes,
    pub(crate) server: Option<Behaviour>,
    pub(crate) configuration: Map<String, Value>,
    /// Whether something of it goes on after it was contained.
    pub(crate) lingers: bool,
    /// How much of it there is, where that can be said.
    pub(crate) scale: usize,
    /// The name in `names.rs` above its domain; none: any, or its server's address.
    pub(crate) below: Option<&'static str>,
    /// With what the URL begins that the stub is told to connect to.
    pub(crate) scheme: &'static str,
}

/// What an attacker's domain publishes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Publishes {
    /// A program of `tests/programs/hostile`.
    Program(&'static str),
    /// A component, or a core module that is made into one, as text.
    Text(&'static str),
    /// A component.
    Bytes(fn(usize) -> Vec<u8>),
    /// Whatever its server says.
    Server,
    /// A good component, below as many subdomains as its scale, before another domain offers a
    /// version that is older than the accepted one.
    Flood,
}

/// What has to become of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containment {
    /// The stub is not deployed, with this in the reason.
    NotDeployed(&'static str),
    /// The instance ends since it ran into this limit.
    Ends(&'static str),
    /// The instance ends with a trap, with this in its reason or its last words.
    Traps(&'static str),
    /// The stub lives, and runs into this limit.
    Held(&'static str),
    /// The stub lives, and each attempt is refused: it answers with this.
    Refused(&'static str),
    /// The stub lives, and answers with this when it is done. The process has hardly more
    /// descriptors open than before, and another stub can be deployed.
    Spares(&'static str),
    /// The stub lives, and its call goes on to wait: nobody else does.
    Waits,
}

impl Attack {
    fn new(name: &'static str, publishes: Publishes, contained: Containment) -> Self {
        Self {
            name,
            contained,
            or_ends: None,
            publishes,
            server: None,
            configuration: Map::new(),
            lingers: false,
            scale: 4_000,
            below: None,
            scheme: "http",
        }
    }

    /// By a program of `tests/programs/hostile`, with this name but for hyphens.
    pub(crate) fn program(name: &'static str, contained: Containment) -> Self {
        Self::new(name, Publishes::Program(name), contained)
    }

    /// By a component that no compiler would make.
    pub(crate) fn text(name: &'static str, text: &'static str, contained: Containment) -> Self {
        Self::new(name, Publishes::Text(text), contained)
    }

    /// By a component that is made for it.
    pub(crate) fn bytes(name: &'static str, bytes: fn(usize) -> Vec<u8>, contained: Containment) -> Self {
        Self::new(name, Publishes::Bytes(bytes), contained)
    }

    /// By a domain's catalogue.
    pub(crate) fn catalogue(name: &'static str, server: Behaviour, contained: Containment) -> Self {
        Self { server: Some(server), ..Self::new(name, Publishes::Server, contained) }
    }

    /// By a domain with endless subdomains, which is to have another domain's accepted version
    /// forgotten.
    pub(crate) fn flood(name: &'static str, contained: Containment) -> Self {
        Self { scale: 40, ..Self::new(name, Publishes::Flood, contained) }
    }

    /// By a domain's back-end, whose stub connects to it and reads whatever comes.
    pub(crate) fn back_end(name: &'static str, scheme: &'static str, server: Behaviour, contained: Containment) -> Self {
        Self { server: Some(server), scheme, ..Self::new(name, Publishes::Program("meets_server"), contained) }
    }

    /// By a program of another name.
    pub(crate) fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Which of its limits may end it before.
    pub(crate) fn or_ends(self, limit: &'static str) -> Self {
        Self { or_ends: Some(limit), ..self }
    }

    /// With a server that the program makes use of.
    pub(crate) fn with(self, server: Behaviour) -> Self {
        Self { server: Some(server), ..self }
    }

    /// With a domain of its own below this one. The descriptor states the port of the server, if
    /// there is one, and the stub's configuration names it by the domain.
    pub(crate) fn below(self, name: &'static str, scheme: &'static str) -> Self {
        Self { below: Some(name), scheme, ..self }
    }

    /// Which is done so often at the same time.
    pub(crate) fn times(mut self, times: u64) -> Self {
        self.configuration.insert("times".to_owned(), json!(times));
        self
    }

    /// With this member of its configuration.
    pub(crate) fn configured(mut self, member: &str, value: &str) -> Self {
        self.configuration.insert(member.to_owned(), json!(value));
        self
    }

    /// With something that goes on after it was contained: the compiler cannot be interrupted.
    pub(crate) fn lingering(self) -> Self {
        Self { lingers: true, ..self }
    }

    /// The same, of which there is so much: functions that have to be compiled.
    #[must_use]
    pub fn scaled(self, scale: usize) -> Self {
        Self { scale, ..self }
    }

    /// The same, where calls may compute for so long: programs that stay below that have to know.
    #[must_use]
    pub fn computing(mut self, milliseconds: u64) -> Self {
        self.configuration.insert("milliseconds".to_owned(), json!(milliseconds));
        self
    }

    /// Whether something of it goes on after it was contained: the compiler cannot be interrupted.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.lingers
    }

    /// The component that the attacker's domain publishes; none: its server says that.
    pub(crate) fn component(&self) -> Option<Vec<u8>> {
        match self.publishes {
            Publishes::Program(_) => Some(protostub_artifacts::component("hostile")),
            Publishes::Text(text) => Some(components::from_text(text)),
            Publishes::Bytes(bytes) => Some(bytes(self.scale)),
            Publishes::Flood => Some(protostub_artifacts::component("echo")),
            Publishes::Server => None,
        }
    }

    /// The configuration of the stub whose server is reached by this name, or address, and port.
    pub(crate) fn configuration(&self, server: &str) -> Map<String, Value> {
        let mut configuration = self.configuration.clone();
        if let Publishes::Program(name) = self.publishes {
            configuration.entry("program").or_insert_with(|| json!(name.replace('_', "-")));
        }
        if self.server.is_some() {
            configuration.insert("server".to_owned(), json!(server));
            configuration.insert("url".to_owned(), json!(format!("{}://{server}/", self.scheme)));
        }
        configuration
    }
}

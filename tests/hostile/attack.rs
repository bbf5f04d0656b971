use serde_json::{Map, Value, json};

use crate::{Behaviour, components};

/// An attack, and its required containment.
#[derive(Debug, Clone)]
pub struct Attack {
    /// Name of the attack: its function in [`attacks`](crate::attacks).
    pub name: &'static str,
    /// Required containment.
    pub contained: Containment,
    /// A limit of the same threat that may end the attack first. The attack computes a lot, and the
    /// machine may be slow.
    pub(crate) or_ends: Option<&'static str>,
    pub(crate) publishes: Publishes,
    pub(crate) server: Option<Behaviour>,
    pub(crate) configuration: Map<String, Value>,
    /// `true` if something of the attack goes on after its containment.
    pub(crate) lingers: bool,
    /// Size of the attack, where it has one.
    pub(crate) scale: usize,
    /// The name in `names.rs` above the attack's domain. `None` for any name, or the server's
    /// address.
    pub(crate) below: Option<&'static str>,
    /// Scheme of the URL to which the stub connects.
    pub(crate) scheme: &'static str,
}

/// Publication of an attacker's domain.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Publishes {
    /// A program of `tests/programs/hostile`.
    Program(&'static str),
    /// A component as text, or a core module that is made into one.
    Text(&'static str),
    /// A component.
    Bytes(fn(usize) -> Vec<u8>),
    /// The response of its server.
    Server,
    /// A good component, below as many subdomains as its scale, before another domain offers a
    /// version that is older than the accepted one.
    Flood,
}

/// Required containment of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containment {
    /// The stub is not deployed. The reason contains this text.
    NotDeployed(&'static str),
    /// The instance ends because it exceeds this limit.
    Ends(&'static str),
    /// The instance ends with a trap. Its reason or its last words contain this text.
    Traps(&'static str),
    /// The stub lives, and reaches this limit.
    Held(&'static str),
    /// The stub lives, and each attempt is refused. Its answer contains this text.
    Refused(&'static str),
    /// The stub lives, and its answer contains this text when it is done. The process has hardly
    /// more descriptors open than before, and another stub can be deployed.
    Spares(&'static str),
    /// The stub lives, and its call waits. No other call does.
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

    /// An attack by a program of `tests/programs/hostile` with this name, apart from hyphens.
    pub(crate) fn program(name: &'static str, contained: Containment) -> Self {
        Self::new(name, Publishes::Program(name), contained)
    }

    /// An attack by a component that no compiler produces.
    pub(crate) fn text(name: &'static str, text: &'static str, contained: Containment) -> Self {
        Self::new(name, Publishes::Text(text), contained)
    }

    /// An attack by a component that is generated for it.
    pub(crate) fn bytes(name: &'static str, bytes: fn(usize) -> Vec<u8>, contained: Containment) -> Self {
        Self::new(name, Publishes::Bytes(bytes), contained)
    }

    /// An attack by a domain's catalogue.
    pub(crate) fn catalogue(name: &'static str, server: Behaviour, contained: Containment) -> Self {
        Self { server: Some(server), ..Self::new(name, Publishes::Server, contained) }
    }

    /// An attack by a domain with endless subdomains. It tries to make the host forget the accepted
    /// version of another domain.
    pub(crate) fn flood(name: &'static str, contained: Containment) -> Self {
        Self { scale: 40, ..Self::new(name, Publishes::Flood, contained) }
    }

    /// An attack by a domain's back-end, whose stub connects to it and reads all data.
    pub(crate) fn back_end(name: &'static str, scheme: &'static str, server: Behaviour, contained: Containment) -> Self {
        Self { server: Some(server), scheme, ..Self::new(name, Publishes::Program("meets_server"), contained) }
    }

    /// Gives the attack another name than its program.
    pub(crate) fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Sets the limit that may end the attack first.
    pub(crate) fn or_ends(self, limit: &'static str) -> Self {
        Self { or_ends: Some(limit), ..self }
    }

    /// Adds a server that the program uses.
    pub(crate) fn with(self, server: Behaviour) -> Self {
        Self { server: Some(server), ..self }
    }

    /// Sets a name: the attack gets its own domain below it. If there is a server, the descriptor
    /// states its port, and the stub's configuration names it by the domain.
    pub(crate) fn below(self, name: &'static str, scheme: &'static str) -> Self {
        Self { below: Some(name), scheme, ..self }
    }

    /// Repeats the attack this often at the same time.
    pub(crate) fn times(mut self, times: u64) -> Self {
        self.configuration.insert("times".to_owned(), json!(times));
        self
    }

    /// Adds a member to the stub's configuration.
    pub(crate) fn configured(mut self, member: &str, value: &str) -> Self {
        self.configuration.insert(member.to_owned(), json!(value));
        self
    }

    /// Marks the attack as going on after its containment: the compiler cannot be interrupted.
    pub(crate) fn lingering(self) -> Self {
        Self { lingers: true, ..self }
    }

    /// Sets the size of the attack: the number of functions that have to be compiled.
    #[must_use]
    pub fn scaled(self, scale: usize) -> Self {
        Self { scale, ..self }
    }

    /// Sets the limit of computing time of a call. Programs that stay below the limit have to know
    /// it.
    #[must_use]
    pub fn computing(mut self, milliseconds: u64) -> Self {
        self.configuration.insert("milliseconds".to_owned(), json!(milliseconds));
        self
    }

    /// Returns `true` if something of the attack goes on after its containment: the compiler cannot
    /// be interrupted.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.lingers
    }

    /// Returns the component that the attacker's domain publishes. Returns `None` if its server
    /// provides it.
    pub(crate) fn component(&self) -> Option<Vec<u8>> {
        match self.publishes {
            Publishes::Program(_) => Some(protostub_artifacts::component("hostile")),
            Publishes::Text(text) => Some(components::from_text(text)),
            Publishes::Bytes(bytes) => Some(bytes(self.scale)),
            Publishes::Flood => Some(protostub_artifacts::component("echo")),
            Publishes::Server => None,
        }
    }

    /// Returns the configuration of the stub. `server` is the name or address of its server, with
    /// the port.
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

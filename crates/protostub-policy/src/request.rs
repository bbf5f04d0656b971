//! A hop as a request to Cedar.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, ParseErrors, Request, RestrictedExpression as Value,
};
use protostub_bus::{Hop, Origin, Receiver};
use protostub_types::{Address, Domain, MessageType};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The names of the schema, parsed once.
pub(crate) struct Names {
    action: EntityTypeName,
    domain: EntityTypeName,
    runtime: EntityTypeName,
    hyperty: EntityTypeName,
    stub: EntityTypeName,
    address: EntityTypeName,
}

impl Names {
    pub(crate) fn new() -> Result<Self, Box<ParseErrors>> {
        let name = |text: &str| text.parse().map_err(Box::new);
        Ok(Self {
            action: name("Action")?,
            domain: name("Domain")?,
            runtime: name("Runtime")?,
            hyperty: name("Hyperty")?,
            stub: name("Stub")?,
            address: name("Address")?,
        })
    }

    fn domain(&self, domain: &str) -> EntityUid {
        uid(&self.domain, domain)
    }

    /// Returns a domain and the domains above it.
    fn domains(&self, domain: Option<&Domain>) -> HashSet<EntityUid> {
        let Some(domain) = domain else { return HashSet::new() };
        let mut all = HashSet::from([self.domain(domain.as_str()), self.domain(domain.host())]);
        let above = |domain: &Domain| match domain.ip() {
            None => Domain::parse(domain.host().split_once('.')?.1).ok().filter(|above| !above.is_public_suffix()),
            Some(_) => None,
        };
        let mut next = above(domain);
        while let Some(domain) = next {
            all.insert(self.domain(domain.as_str()));
            next = above(&domain);
        }
        all
    }
}

fn uid(name: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id))
}

fn text(text: &str) -> Value {
    Value::new_string(text.to_owned())
}

/// The input of an authorizer.
pub(crate) struct Question {
    pub(crate) request: Request,
    pub(crate) entities: Entities,
}

type Failed = Box<dyn Error + Send + Sync>;

impl Question {
    pub(crate) fn about(hop: &Hop<'_>, names: &Names) -> Result<Self, Failed> {
        let message = hop.message;
        let mut entities = HashMap::new();
        let principal = principal(hop, names, &mut entities)?;
        let resource = address(hop, &message.to, names, &mut entities)?;
        let from = address(hop, &message.from, names, &mut entities)?;
        let action = uid(&names.action, action(&message.kind));

        let via = message.via.iter().filter_map(|stub| hop.domain_of(stub));
        let via: HashSet<_> = via.map(|domain| names.domain(domain.as_str())).collect();
        let size = message.body.as_ref().map_or(0, |body| body.as_bytes().len());
        let now = OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?;
        let mut context = vec![
            ("id".to_owned(), Value::new_string(message.id.to_string())),
            ("type".to_owned(), text(message.kind.as_str())),
            ("request".to_owned(), Value::new_bool(message.expects_response())),
            ("from".to_owned(), Value::new_entity_uid(from)),
            ("via".to_owned(), Value::new_set(via.into_iter().map(Value::new_entity_uid))),
            ("size".to_owned(), Value::new_long(i64::try_from(size)?)),
            ("receiver".to_owned(), text(receiver(&hop.receiver))),
            ("now".to_owned(), Value::new_datetime(now)),
        ];
        if let Receiver::Subscriber(subscriber) = &hop.receiver {
            let subscriber = address(hop, subscriber, names, &mut entities)?;
            context.push(("subscriber".to_owned(), Value::new_entity_uid(subscriber)));
        }
        let request = Request::new(principal, action, resource, Context::from_pairs(context)?, None)?;
        Ok(Self { request, entities: Entities::from_entities(entities.into_values(), None)? })
    }
}

type Known = HashMap<EntityUid, Entity>;

fn principal(hop: &Hop<'_>, names: &Names, known: &mut Known) -> Result<EntityUid, Failed> {
    let domain;
    let (kind, id, mut attributes) = match hop.origin {
        Origin::Host => {
            domain = Some(hop.home().clone());
            (&names.runtime, hop.home().as_str(), HashMap::new())
        }
        Origin::Hyperty(url) => {
            domain = hop.domain_of(url);
            (&names.hyperty, url.as_str(), HashMap::from([("scheme", url.scheme()), ("path", url.path()), ("url", url.as_str())]))
        }
        Origin::Stub(url) => {
            domain = hop.domain_of(url);
            (&names.stub, url.as_str(), HashMap::from([("url", url.as_str())]))
        }
    };
    attributes.insert("domain", domain.as_ref().map_or("", Domain::as_str));
    entity(uid(kind, id), attributes, names.domains(domain.as_ref()), known)
}

fn address(hop: &Hop<'_>, url: &Address, names: &Names, known: &mut Known) -> Result<EntityUid, Failed> {
    let id = uid(&names.address, url.as_str());
    if known.contains_key(&id) {
        return Ok(id);
    }
    let domain = hop.domain_of(url);
    let attributes = HashMap::from([
        ("url", url.as_str()),
        ("scheme", url.scheme()),
        ("domain", domain.as_ref().map_or("", Domain::as_str)),
        ("path", url.path()),
    ]);
    entity(id, attributes, names.domains(domain.as_ref()), known)
}

fn entity(
    id: EntityUid,
    attributes: HashMap<&str, &str>,
    domains: HashSet<EntityUid>,
    known: &mut Known,
) -> Result<EntityUid, Failed> {
    let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
    let entity = Entity::new(id.clone(), attributes, domains)?;
    known.insert(id.clone(), entity);
    Ok(id)
}

fn action(kind: &MessageType) -> &str {
    match kind {
        MessageType::Other(_) => "other",
        known => known.as_str(),
    }
}

fn receiver(receiver: &Receiver) -> &'static str {
    match receiver {
        Receiver::Stub(_) | Receiver::Domain(_) => "stub",
        Receiver::Listener => "listener",
        Receiver::Subscriber(_) => "subscriber",
        _ => "nobody",
    }
}

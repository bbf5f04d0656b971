//! Posts with forged senders: other domains, other stubs of its own, the runtime, its own status,
//! in every scheme and spelling.

use crate::{
    Stub,
    rethink::protostub::{bus, types::MessageType},
    told,
};

pub fn attack(stub: &Stub) -> Option<String> {
    let to = stub.waiting.as_ref().map_or("", |request| &request.from);
    let own = stub.url.strip_prefix("hyperty-runtime://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let siblings = stub.url.rsplit_once('/').map_or("", |(siblings, _)| siblings);
    let runtime = stub.text("runtimeURL");
    let mut forged = vec![
        to.to_owned(),
        runtime.to_owned(),
        format!("{runtime}/status"),
        format!("{}/status", stub.url),
        format!("{siblings}/00000000-0000-0000-0000-000000000000"),
        format!("hyperty://{own}.evil.example/x"),
        format!("hyperty://x{own}/x"),
        format!("hyperty://sub.{own}/x"),
        format!("hyperty://{own}:8443/x"),
        format!("hyperty://{own}@bank.example/x"),
        format!("hyperty://bank.example/{own}"),
        format!("hyperty://bank.example#{own}"),
        "mn:/session".to_owned(),
        "mn:/registry".to_owned(),
        "bank.example".to_owned(),
    ];
    let schemes = [
        "hyperty",
        "hyperty-runtime",
        "runtime",
        "domain",
        "global",
        "user",
        "user-guid",
        "connection",
        "comm",
        "ctxt",
        "data",
        "hyperty-catalogue",
        "localhost",
        "http",
        "https",
        "ws",
        "policy",
    ];
    forged.extend(schemes.map(|scheme| format!("{scheme}://bank.example/alice")));
    let mut accepted = Vec::new();
    let mut refused = 0;
    for from in forged {
        for kind in [MessageType::Update, MessageType::Read, MessageType::Response] {
            let mut message = stub.message(&from, to);
            message.type_ = kind;
            match bus::post(&[message]).pop() {
                // Repeated attacks exceed the limit for a second, which is a refusal too.
                Some(Err(error)) if ["denied", "invalid", "limit"].iter().any(|kind| told(&error).starts_with(kind)) => {
                    refused += 1
                }
                _ => accepted.push(from.clone()),
            }
        }
    }
    Some(if accepted.is_empty() { format!("all {refused} were refused") } else { format!("accepted: {accepted:?}") })
}

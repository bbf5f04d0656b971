use std::process::ExitCode;

use clap::Args;
use protostub_runtime::{Address, EgressExplanation};
use serde_json::{Value, json};
use url::Url;

use crate::{
    failure::Failure,
    output::Output,
    settings::{GrantFlags, RuntimeFlags, Settings},
};

/// Explain whether the stub of a domain may connect to a URL
///
/// Shows every rule that the stub would have in a runtime with these settings, and every address
/// that the name resolves to. The command resolves a name only if a rule allows it, and connects to
/// nothing. It looks up the domain's descriptor, because its `ports` count. The exit code is 0 if
/// the connection is allowed, and 1 if not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  protostub explain-egress sp1.example https://api.sp1.example/v1
  protostub explain-egress sp1.example tls://mqtt.sp1.example:8883 --config protostub.toml
  protostub explain-egress sp1.example http://10.0.0.1 --grant sp1.example='10.0.0.1:80 plain'")]
pub(crate) struct ExplainEgress {
    /// The domain of the stub, or an address of the domain
    #[arg(value_name = "DOMAIN")]
    target: String,

    /// The destination of the connection: `https`, `wss`, `http` or `ws`; `tls` or `tcp`, with a
    /// port
    #[arg(value_name = "URL")]
    url: Url,

    #[command(flatten)]
    runtime: RuntimeFlags,

    #[command(flatten)]
    grants: GrantFlags,
}

impl ExplainEgress {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let mut settings = Settings::load(self.runtime)?.grant(self.grants)?;
        let address = Address::parse(&self.target).map_err(Failure::usage)?;
        let domain = address
            .domain()
            .ok_or_else(|| Failure::usage(format_args!("{address} has no domain; name an address with a domain")))?;
        settings.runtime.home.get_or_insert_with(|| domain.clone());
        let runtime = settings.builder()?.build().await.map_err(|error| settings.explain(error))?;
        let explained = runtime.explain_egress(&self.target, &self.url).await;
        let explained = explained.map_err(|error| Failure::usage(format!("{:#}", anyhow::Error::new(error))))?;
        let is_allowed = explained.explanation.verdict().is_ok();
        output.print(|| text(&explained), || to_json(&explained, domain.as_str(), &self.url))?;
        Ok(if is_allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn text(explained: &EgressExplanation) -> String {
    let descriptor = match &explained.descriptor {
        Ok(url) => format!("the descriptor {url}"),
        Err(error) => format!("no descriptor, so its `ports` are not counted: {error}"),
    };
    format!("{}\n  {descriptor}", explained.explanation)
}

fn to_json(explained: &EgressExplanation, domain: &str, url: &Url) -> Value {
    let explanation = &explained.explanation;
    let rules = explanation
        .rules()
        .map(|(rule, by, fit)| json!({ "rule": rule.to_string(), "by": by.to_string(), "fit": fit.to_string() }));
    let addresses = explanation
        .addresses()
        .map(|(address, judged, admitted)| json!({ "address": address, "is": judged.to_string(), "dialled": admitted }));
    json!({
        "domain": domain,
        "url": url,
        "allowed": explanation.verdict().is_ok(),
        "reason": explanation.verdict().err().map(ToString::to_string),
        "rules": rules.collect::<Vec<_>>(),
        "addresses": addresses.collect::<Vec<_>>(),
        "remark": explanation.remark(),
        "descriptor": explained.descriptor.as_ref().ok(),
        "problem": explained.descriptor.as_ref().err().map(ToString::to_string),
    })
}

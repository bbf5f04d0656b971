use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use protostub_domain::{DomainServer, DomainServerError, WebOrigin};
use protostub_types::Domain;
use serde_json::json;

use crate::{failure::Failure, output::Output, signals::StopSignal, text::table};

/// Time limit for the graceful disconnect of all clients.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Serve a domain: a catalogue of protocol stubs, and a message node
///
/// For development only: the server authenticates no client, encrypts nothing, and stores nothing
/// after its end.
#[derive(Debug, Args)]
#[command(after_help = "\
Each folder in FOLDER with a descriptor.json is a stub; its code is component.wasm next to it.
In the texts of the descriptor's `configuration`, ${authority}, ${domain}, ${http-url},
${ws-url} and ${nomatrix-url} are replaced by the values of the server.

Examples:
  protostub serve target/catalogue
  protostub serve stubs --bind 0.0.0.0:8080 --domain sp1.example --default message-node
  protostub serve --bind 127.0.0.1:0 --json   # a message node alone, on any free port")]
pub(crate) struct Serve {
    /// The folder of stubs; without a folder, the server has no catalogue
    folder: Option<PathBuf>,

    /// The address to listen on; port 0 selects a free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    bind: SocketAddr,

    /// The domain of the addresses that the message node allocates [default: the address to listen
    /// on]
    #[arg(long)]
    domain: Option<Domain>,

    /// The `default` stub of the domain [default: the stub named `default`, or the only one]
    #[arg(long, value_name = "NAME", requires = "folder")]
    default: Option<String>,

    /// Origin of web pages that may connect to the message node, such as http://localhost:3000; can
    /// be repeated. Pages of the domain itself always may
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    origins: Vec<WebOrigin>,
}

impl Serve {
    pub(crate) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let mut stop = StopSignal::listen()?;
        let mut server = DomainServer::builder().bind(self.bind);
        if let Some(folder) = self.folder {
            server = server.folder(folder);
        }
        if let Some(domain) = self.domain {
            server = server.domain(domain);
        }
        if let Some(default) = self.default {
            server = server.default_stub(default);
        }
        for origin in self.origins {
            server = server.allow_origin(origin);
        }
        let server = server.start().await.map_err(|error| match error {
            DomainServerError::Listen { .. } => error.into(),
            _ => Failure::usage(format_args!("{:#}", anyhow::Error::new(error))),
        })?;
        announce(output, &server).await?;
        stop.received().await?;
        let stopped = server.shutdown(SHUTDOWN).await;
        output.print(
            || format!("Stopped: {} clients were connected, {} did not disconnect in time.", stopped.clients, stopped.unfinished),
            || json!({ "event": "stopped", "clients": stopped.clients, "unfinished": stopped.unfinished }),
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn announce(output: &Output, server: &DomainServer) -> anyhow::Result<()> {
    let (authority, domain) = (server.authority(), server.domain());
    let (stubs, default) = (server.stubs().await?, server.default_stub().await);
    let problems = server.problems().await;
    let listed = || {
        let names =
            stubs.iter().map(|name| if Some(name) == default.as_ref() { format!("{name} (default)") } else { name.clone() });
        names.collect::<Vec<_>>().join(", ")
    };
    let text = || {
        let mut rows = Vec::new();
        if server.folder().is_some() {
            rows.push(("catalogue", format!("http://{authority}/.well-known/protostub")));
            rows.push(("stubs", if stubs.is_empty() { "none".to_owned() } else { listed() }));
            rows.extend(problems.iter().map(|problem| ("problem", format!("{}: {}", problem.name, problem.problem))));
        }
        rows.push((
            "message node",
            format!("ws://{authority}/ws (Vert.x)\nws://{authority}/stub/connect?runtimeURL=… (NoMatrix)"),
        ));
        format!("Serving the domain {domain}. Ctrl-C stops it.\n\n{}\n", table(&rows))
    };
    let json = || {
        let problems =
            problems.iter().map(|problem| json!({ "stub": problem.name, "problem": problem.problem })).collect::<Vec<_>>();
        json!({
            "event": "serving", "address": server.address(), "authority": authority, "domain": domain, "stubs": stubs,
            "default": default, "problems": problems,
        })
    };
    Ok(output.print(text, json)?)
}

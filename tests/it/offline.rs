//! Tests of stubs of an unreachable domain: a process deploys them from the cache without ever
//! having reached the domain.

use std::{fs, time::Duration};

use protostub_domain::DomainServer;
use protostub_runtime::{DeployErrorKind, Fault, Message, RuntimeBuilder};
use tempfile::TempDir;

use crate::support::{builder, component};

async fn server(folder: &TempDir) -> DomainServer {
    let stub = folder.path().join("echo");
    fs::create_dir(&stub).expect("a folder");
    fs::write(stub.join("descriptor.json"), r#"{"objectName": "echo", "version": "1.0", "language": "WASM_COMPONENT"}"#)
        .expect("written");
    fs::write(stub.join("component.wasm"), component("echo")).expect("written");
    DomainServer::builder().folder(folder.path()).default_stub("echo").start().await.expect("a server")
}

/// Deploys the domain's stub by a message to it.
async fn ask(builder: RuntimeBuilder, server: &DomainServer) {
    let runtime = builder.build().await.expect("a runtime");
    let app = runtime.register_hyperty("hyperty://home.example/app").await.expect("a hyperty");
    let reply =
        app.request(Message::read(format!("hyperty://{}/alice", server.domain()).parse().unwrap())).await.expect("a reply");
    assert_eq!(reply.code(), Some(200), "{:?}", reply.body);
    runtime.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn stub_of_an_unreachable_domain_is_deployed_from_the_cache() {
    let (folder, cache) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let server = server(&folder).await;
    for _ in 0..2 {
        ask(builder().cache_dir(cache.path()), &server).await;
    }
    let counts = server.catalogue_counts();
    assert_eq!(counts.components, 1, "the second runtime had it from the store");
    server.stop().await.expect("stopped");
    ask(builder().cache_dir(cache.path()), &server).await;

    let strict = builder().cache_dir(cache.path()).max_offline_age(Duration::ZERO).build().await.expect("a runtime");
    let error = strict.deploy_protostub(server.domain().as_str()).await.expect_err("nobody to ask");
    let DeployErrorKind::Catalogue(error) = &error.kind else { panic!("{error:?}") };
    assert!(matches!(error.fault(), Fault::Unreachable { .. }), "{error}");
}

//! A stub that imports `acme:store/kv` in addition to the SDK's use of the contract. Only the host
//! program of `crates/protostub-runtime/examples/key_value.rs` offers that interface. `create`
//! keeps `{"key": …, "value": …}`; `read` with a key answers with its value.

wit_bindgen::generate!({ path: "wit" });

use protostub_sdk::{Body, Ignored, Message, MessageType, Result, Stub};
use serde::Deserialize;
use serde_json::Value;

use self::acme::store::kv;

#[derive(Deserialize)]
struct Entry {
    key: String,
    value: String,
}

async fn run(stub: Stub, _: Ignored) -> Result<()> {
    stub.live();
    loop {
        let message = stub.next_message().await?;
        if message.expects_response() {
            stub.post(answer(&message))?;
        }
    }
}

fn answer(message: &Message) -> Message {
    match follow(message) {
        Ok(value) => message.response(200, Some(Body::from(value))),
        Err(problem) => message.error_response(400, &problem),
    }
}

fn follow(message: &Message) -> std::result::Result<Value, String> {
    if message.kind == MessageType::Create {
        let Entry { key, value } = message.parse().map_err(|error| error.to_string())?;
        kv::set(&key, &value)?;
        return Ok(Value::Null);
    }
    let key: String = message.parse().map_err(|error| error.to_string())?;
    Ok(kv::get(&key).map_or(Value::Null, Value::from))
}

protostub_sdk::export!(run);

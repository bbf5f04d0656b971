//! The stub on the fake host, with a broker that each test scripts.

use std::time::Duration;

use mqtt_protocol_core::mqtt::{
    common::Cursor,
    connection::{PacketBuildResult, PacketBuilder, PacketData},
    packet::{
        AssignedClientIdentifier, MaximumPacketSize, Packet, Qos, ReasonString, ReceiveMaximum, SubscriptionIdentifier, v3_1_1,
        v5_0,
    },
    result_code::{
        ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, PubackReasonCode, SubackReasonCode, SubackReturnCode,
        UnsubackReasonCode,
    },
};
use protostub_sdk::{
    Body, Credential, CredentialKind, DisconnectReason, Error, Message, MessageType,
    testing::{Host, ServerConnection},
    websocket::Frame,
};
use serde_json::{Value, json};

use crate::main;

const ALICE: &str = "hyperty://home.example/alice";
const BOB: &str = "hyperty://home.example/bob";

/// The broker's end of a connection.
struct Broker {
    connection: ServerConnection,
    is_v5: bool,
    builder: PacketBuilder,
}

impl Broker {
    fn open(host: &Host, is_v5: bool) -> Self {
        let connection = host.tcp();
        connection.accept();
        Self { connection, is_v5, builder: PacketBuilder::new() }
    }

    /// Takes the packets that the stub sent since the last call.
    fn received(&mut self) -> Vec<Packet> {
        let bytes = self.connection.received();
        let mut cursor = Cursor::new(&bytes[..]);
        let mut packets = Vec::new();
        while let PacketBuildResult::Complete(raw) = self.builder.feed(&mut cursor) {
            let flags = raw.flags();
            packets.push(match (self.is_v5, raw.packet_type(), &raw.data) {
                (true, 3, PacketData::Publish(data)) => v5_0::Publish::parse(flags, data.clone()).unwrap().0.into(),
                (false, 3, PacketData::Publish(data)) => v3_1_1::Publish::parse(flags, data.clone()).unwrap().0.into(),
                (true, 1, data) => v5_0::Connect::parse(data.as_slice()).unwrap().0.into(),
                (false, 1, data) => v3_1_1::Connect::parse(data.as_slice()).unwrap().0.into(),
                (true, 4, data) => v5_0::Puback::parse(data.as_slice()).unwrap().0.into(),
                (false, 4, data) => v3_1_1::Puback::parse(data.as_slice()).unwrap().0.into(),
                (true, 8, data) => v5_0::Subscribe::parse(data.as_slice()).unwrap().0.into(),
                (false, 8, data) => v3_1_1::Subscribe::parse(data.as_slice()).unwrap().0.into(),
                (true, 10, data) => v5_0::Unsubscribe::parse(data.as_slice()).unwrap().0.into(),
                (false, 10, data) => v3_1_1::Unsubscribe::parse(data.as_slice()).unwrap().0.into(),
                (_, 12, _) => v5_0::Pingreq::new().into(),
                (true, 14, data) => v5_0::Disconnect::parse(data.as_slice()).unwrap().0.into(),
                (false, 14, _) => v3_1_1::Disconnect::new().into(),
                other => panic!("{other:?}"),
            });
        }
        packets
    }

    fn send(&self, packet: impl Into<Packet>) {
        use mqtt_protocol_core::mqtt::packet::GenericPacketTrait as _;
        self.connection.send(&packet.into().to_continuous_buffer());
    }

    fn connect_5(&mut self) -> v5_0::Connect {
        match self.received().remove(0) {
            Packet::V5_0Connect(connect) => connect,
            other => panic!("{other:?}"),
        }
    }

    fn accept(&self, session_present: bool) {
        if self.is_v5 {
            let connack = v5_0::Connack::builder().session_present(session_present).reason_code(ConnectReasonCode::Success);
            self.send(connack.build().unwrap());
        } else {
            let connack = v3_1_1::Connack::builder().session_present(session_present).return_code(ConnectReturnCode::Accepted);
            self.send(connack.build().unwrap());
        }
    }

    fn puback(&self, id: u16) {
        if self.is_v5 {
            self.send(v5_0::Puback::builder().packet_id(id).build().unwrap());
        } else {
            self.send(v3_1_1::Puback::builder().packet_id(id).build().unwrap());
        }
    }

    fn suback(&self, id: u16) {
        if self.is_v5 {
            let codes = vec![SubackReasonCode::GrantedQos1];
            self.send(v5_0::Suback::builder().packet_id(id).reason_codes(codes).build().unwrap());
        } else {
            let codes = vec![SubackReturnCode::SuccessMaximumQos1];
            self.send(v3_1_1::Suback::builder().packet_id(id).return_codes(codes).build().unwrap());
        }
    }

    fn publish(&self, topic: &str, payload: &str) {
        let publish = v5_0::Publish::builder().topic_name(topic).unwrap().payload(payload).build().unwrap();
        let publish_4 = v3_1_1::Publish::builder().topic_name(topic).unwrap().payload(payload).build().unwrap();
        if self.is_v5 { self.send(publish) } else { self.send(publish_4) }
    }

    /// Returns the identifier and the filter of the next packet, a SUBSCRIBE.
    fn subscribed(&mut self) -> (u16, String) {
        match self.received().remove(0) {
            Packet::V5_0Subscribe(packet) => (packet.packet_id(), packet.entries()[0].topic_filter().to_owned()),
            Packet::V3_1_1Subscribe(packet) => (packet.packet_id(), packet.entries()[0].topic_filter().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    /// Returns topic, payload, identifier and DUP of the publications.
    fn published(&mut self) -> Vec<(String, String, Option<u16>, bool)> {
        let told =
            |topic: &str, payload: &[u8], id, dup| (topic.to_owned(), String::from_utf8_lossy(payload).into_owned(), id, dup);
        let read = |packet| match packet {
            Packet::V5_0Publish(p) => Some(told(p.topic_name(), p.payload().as_slice(), p.packet_id(), p.dup())),
            Packet::V3_1_1Publish(p) => Some(told(p.topic_name(), p.payload().as_slice(), p.packet_id(), p.dup())),
            _ => None,
        };
        self.received().into_iter().filter_map(read).collect()
    }
}

fn config(version: u64) -> Value {
    json!({ "url": "mqtts://broker.sp1.example", "version": version, "clientId": "me" })
}

fn live_with(configuration: Value) -> (Host, Broker) {
    let is_v5 = configuration["version"] != 4;
    let host = Host::new();
    host.start_main(main, configuration).unwrap();
    host.connect();
    let mut broker = Broker::open(&host, is_v5);
    assert_eq!(broker.received().len(), 1, "CONNECT, and nothing before it is accepted");
    broker.accept(false);
    assert_eq!(host.statuses(), ["created", "in-progress", "live"]);
    (host, broker)
}

fn live(version: u64) -> (Host, Broker) {
    live_with(config(version))
}

/// Breaks the connection, and opens the next one.
fn reconnect(host: &Host, broker: &Broker, session_present: bool) -> Broker {
    broker.connection.fail("connection reset");
    host.advance(Duration::from_secs(2));
    let mut again = Broker::open(host, broker.is_v5);
    again.received();
    again.accept(session_present);
    assert_eq!(host.statuses(), ["disconnected: connection reset", "in-progress", "live"]);
    again
}

fn message(kind: &str, topic: &str, id: u64) -> Message {
    Message::new(MessageType::from(kind), format!("mqtt://sp1.example/{topic}")).with_from(ALICE).with_id(id)
}

fn subscribe(host: &Host, broker: &mut Broker, from: &str, topic: &str) {
    host.deliver(message("subscribe", topic, 1).with_from(from));
    let (id, _) = broker.subscribed();
    broker.suback(id);
    assert_eq!(codes(host), [200]);
}

fn codes(host: &Host) -> Vec<u16> {
    host.posted().iter().map(|response| response.code().unwrap()).collect()
}

fn refusal(host: &Host) -> (u16, String) {
    let posted = host.posted();
    assert_eq!(posted.len(), 1, "{posted:?}");
    (posted[0].code().unwrap(), posted[0].parse::<Value>().unwrap()["desc"].as_str().unwrap().to_owned())
}

#[test]
fn invalid_configuration_is_refused_with_its_path() {
    let check = |configuration, expected: &str| {
        let refused = Host::new().start_main(main, configuration).unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    };
    check(json!({}), "at $: missing field `url`");
    check(json!({ "url": "https://sp1.example" }), "at $.url: \"https://sp1.example\" is not a broker URL");
    check(json!({ "url": "mqtt://me:secret@sp1.example" }), "at $.url: \"mqtt://me:secret@sp1.example\" holds a user name");
    check(json!({ "url": "mqtt://sp1.example:x" }), "has an invalid port");
    check(json!({ "url": "mqtt://sp1.example/path" }), "is not just a scheme, a host and a port");
    check(json!({ "url": "mqtt://sp1.example", "version": 3 }), "at $.version: 3 is not a supported version");
    check(json!({ "url": "mqtt://sp1.example", "qos": 2 }), "at $.qos: the QoS is 0 or 1, not 2");
    check(json!({ "url": "mqtt://sp1.example", "keepAlive": 0 }), "at $.keepAlive: a keep-alive of 0 s");
}

#[test]
fn stub_connects_to_the_url() {
    let check = |url: &str, address: (&str, u16), tls: bool| {
        let host = Host::new();
        host.start_main(main, json!({ "url": url })).unwrap();
        host.connect();
        let server = host.tcp();
        assert_eq!((server.address(), server.tls().is_some()), ((address.0.to_owned(), address.1), tls));
    };
    check("mqtt://broker.sp1.example", ("broker.sp1.example", 1883), false);
    check("mqtts://broker.sp1.example/", ("broker.sp1.example", 8883), true);
    check("mqtts://broker.sp1.example:443", ("broker.sp1.example", 443), true);
    check("mqtt://[::1]", ("[::1]", 1883), false);
}

#[test]
fn websocket_packets_are_cut_anywhere() {
    let host = Host::new();
    host.start_main(main, json!({ "url": "wss://sp1.example/mqtt" })).unwrap();
    host.connect();
    let server = host.websocket();
    assert_eq!((server.url(), server.protocols()), ("wss://sp1.example/mqtt".to_owned(), vec!["mqtt".to_owned()]));
    server.accept_with(Some("mqtt"));
    let [Frame::Binary(connect)] = &server.received()[..] else { panic!("one frame") };
    assert_eq!(connect[0], 0x10);
    let connack = v5_0::Connack::builder().session_present(false).reason_code(ConnectReasonCode::Success).build().unwrap();
    for byte in connack.to_continuous_buffer() {
        server.send(Frame::Binary(vec![byte]));
    }
    assert_eq!(host.statuses(), ["created", "in-progress", "live"]);
    host.deliver(message("create", "a", 1).with_body(Body::Bytes(vec![7; 600_000])));
    let frames = server.received();
    assert_eq!(frames.iter().map(|frame| frame.as_bytes().len()).collect::<Vec<_>>(), [262_144, 262_144, 75_722]);
}

#[test]
fn connect_packet_identifies_the_stub() {
    let (host, credential) = (Host::new(), |kind, value: &str| Credential { kind, value: value.to_owned(), expires: None });
    host.start_main(main, json!({ "url": "mqtts://sp1.example", "keepAlive": 7 })).unwrap();
    host.connect_with(credential(CredentialKind::Basic, "me:se:cret"));
    let connect = Broker::open(&host, true).connect_5();
    assert_eq!((connect.user_name(), connect.password()), (Some("me"), Some(&b"se:cret"[..])));
    assert!(connect.client_id().starts_with("protostub") && connect.client_id().len() == 23 && !connect.clean_start());
    assert_eq!(connect.keep_alive(), 7);

    let token = |version| {
        let host = Host::new();
        host.start_main(main, config(version)).unwrap();
        host.connect_with(credential(CredentialKind::Bearer, "token"));
        Broker::open(&host, version == 5).received().remove(0)
    };
    let Packet::V5_0Connect(connect) = token(5) else { panic!("CONNECT") };
    assert_eq!((connect.client_id(), connect.user_name(), connect.password()), ("me", Some("me"), Some(&b"token"[..])));
    let Packet::V3_1_1Connect(connect) = token(4) else { panic!("CONNECT") };
    assert_eq!((connect.client_id(), connect.user_name(), connect.password()), ("me", Some("me"), Some(&b"token"[..])));
}

#[test]
fn wrong_password_fails_and_busy_broker_disconnects() {
    let check = |version, connack: Packet, expected: &str| {
        let host = Host::new();
        host.start_main(main, config(version)).unwrap();
        host.connect();
        let broker = Broker::open(&host, version == 5);
        broker.send(connack);
        assert_eq!(host.statuses().pop().unwrap(), expected);
    };
    let v5 = |code| v5_0::Connack::builder().session_present(false).reason_code(code);
    let v4 = |code| v3_1_1::Connack::builder().session_present(false).return_code(code).build().unwrap().into();
    let says = "the broker at mqtts://broker.sp1.example:8883 refused the connection";
    let told = v5(ConnectReasonCode::NotAuthorized).props(vec![ReasonString::new("not on Sundays").unwrap().into()]);
    check(5, told.build().unwrap().into(), &format!("failed: {says}: not authorized: not on Sundays"));
    let bad = v5(ConnectReasonCode::BadUserNameOrPassword).build().unwrap();
    check(5, bad.into(), &format!("failed: {says}: bad user name or password"));
    check(5, v5(ConnectReasonCode::ServerBusy).build().unwrap().into(), &format!("disconnected: {says}: server busy"));
    check(4, v4(ConnectReturnCode::NotAuthorized), &format!("failed: {says}: not authorized"));
    check(4, v4(ConnectReturnCode::ServerUnavailable), &format!("disconnected: {says}: server unavailable"));
    let version =
        format!("failed: {says}: unsupported protocol version; the configuration's `version` may be 5, or 4 for MQTT 3.1.1");
    check(4, v4(ConnectReturnCode::UnacceptableProtocolVersion), &version);
}

#[test]
fn create_is_published_and_answered() {
    for version in [4, 5] {
        let (host, mut broker) = live(version);
        host.deliver(message("create", "a/b%20c", 1).with_body(json!({ "n": 1 })));
        assert_eq!(broker.published(), [("a/b c".to_owned(), r#"{"n":1}"#.to_owned(), Some(1), false)]);
        assert!(host.posted().is_empty(), "not acknowledged yet");
        broker.puback(1);
        let response = host.posted().remove(0);
        assert_eq!((response.code(), &*response.to, &*response.from), (Some(200), ALICE, "mqtt://sp1.example/a/b%20c"));
        // QoS 0 is answered when it is sent; an update is not answered.
        host.deliver(message("create", "a", 2).with_header("qos", "0").with_body(Body::Bytes(b"\x01".to_vec())));
        host.deliver(message("update", "a", 3).with_header("retain", "true"));
        let published = broker.received();
        let retained = |packet: &Packet| match packet {
            Packet::V5_0Publish(p) => (p.retain(), p.qos() == Qos::AtLeastOnce),
            Packet::V3_1_1Publish(p) => (p.retain(), p.qos() == Qos::AtLeastOnce),
            other => panic!("{other:?}"),
        };
        assert_eq!(published.iter().map(retained).collect::<Vec<_>>(), [(false, false), (true, true)]);
        assert_eq!(codes(&host), [200]);
        broker.puback(2);
        assert!(host.posted().is_empty());
    }
}

#[test]
fn invalid_request_gets_an_error_response() {
    let (host, mut broker) = live(5);
    let check = |asked: Message, code: u16, says: &str| {
        host.deliver(asked);
        let (found, reason) = refusal(&host);
        assert!(found == code && reason.contains(says), "{found} {reason}");
    };
    check(message("create", "a/+", 1), 400, "`+` and `#` are for subscriptions");
    check(message("create", "", 1), 400, "the topic is empty");
    check(message("create", "a", 1).with_header("qos", "2"), 400, "the header `qos` is 0 or 1");
    check(message("subscribe", "a/#/b", 1), 400, "has a `#` that is not the whole of its last level");
    check(message("unsubscribe", "a", 1), 404, "is not subscribed to a");
    check(message("execute", "a", 1), 405, "a topic takes");
    let mut stray = message("create", "a", 1);
    stray.to = "hyperty://sp1.example/a".to_owned();
    check(stray, 400, "is not a topic address");
    assert!(broker.received().is_empty());
}

#[test]
fn broker_refusal_is_answered() {
    let (host, mut broker) = live(5);
    host.deliver(message("create", "a", 1));
    broker.received();
    let reason = vec![ReasonString::new("read only").unwrap().into()];
    let puback = v5_0::Puback::builder().packet_id(1).reason_code(PubackReasonCode::NotAuthorized).props(reason);
    broker.send(puback.build().unwrap());
    assert_eq!(refusal(&host), (403, "the broker refused the publication: not authorized: read only".to_owned()));
    host.deliver(message("subscribe", "a", 2));
    let (id, _) = broker.subscribed();
    let codes = vec![SubackReasonCode::QuotaExceeded];
    broker.send(v5_0::Suback::builder().packet_id(id).reason_codes(codes).build().unwrap());
    assert_eq!(refusal(&host), (429, "the broker refused the subscription: quota exceeded".to_owned()));
    broker.publish("a", "1");
    assert!(host.posted().is_empty(), "no subscriber is left");
}

#[test]
fn publication_reaches_each_subscriber_once() {
    for version in [4, 5] {
        let (host, mut broker) = live(version);
        subscribe(&host, &mut broker, ALICE, "a/+");
        host.deliver(message("subscribe", "", 2).with_body(json!({ "topic": "#" })));
        let (id, filter) = broker.subscribed();
        assert_eq!(filter, "#");
        broker.suback(id);
        assert_eq!(codes(&host), [200]);
        subscribe(&host, &mut broker, BOB, "a/%2B");
        broker.publish("a/x y", r#"{"n": 1}"#);
        broker.publish("b", "no JSON");
        let posted = host.posted();
        let told: Vec<_> = posted.iter().map(|update| (&*update.to, &*update.from, update.body.clone().unwrap())).collect();
        let (n, text) = (Body::Json(r#"{"n": 1}"#.to_owned()), Body::Bytes(b"no JSON".to_vec()));
        assert_eq!(
            told,
            [
                (ALICE, "mqtt://sp1.example/a/x%20y", n.clone()),
                (BOB, "mqtt://sp1.example/a/x%20y", n),
                (ALICE, "mqtt://sp1.example/b", text)
            ]
        );
        // The first of two subscribers leaves without a packet; the broker learns only of the last.
        host.deliver(message("unsubscribe", "a/+", 4));
        assert_eq!((codes(&host), broker.received().len()), (vec![200], 0));
        host.deliver(message("unsubscribe", "a/+", 5).with_from(BOB));
        let id = match broker.received().remove(0) {
            Packet::V5_0Unsubscribe(packet) => packet.packet_id(),
            Packet::V3_1_1Unsubscribe(packet) => packet.packet_id(),
            other => panic!("{other:?}"),
        };
        if version == 5 {
            let codes = vec![UnsubackReasonCode::Success];
            broker.send(v5_0::Unsuback::builder().packet_id(id).reason_codes(codes).build().unwrap());
        } else {
            broker.send(v3_1_1::Unsuback::builder().packet_id(id).build().unwrap());
        }
        assert_eq!(codes(&host), [200]);
    }
}

#[test]
fn retained_qos_1_follows_its_subscription_identifier() {
    let (host, mut broker) = live(5);
    host.deliver(message("subscribe", "a/%23", 1));
    let Packet::V5_0Subscribe(packet) = broker.received().remove(0) else { panic!("SUBSCRIBE") };
    broker.suback(packet.packet_id());
    assert_eq!(codes(&host), [200]);
    subscribe(&host, &mut broker, BOB, "a/+");
    let publish = v5_0::Publish::builder().topic_name("a/b").unwrap().qos(Qos::AtLeastOnce).packet_id(9).retain(true);
    let identified = publish.props(vec![SubscriptionIdentifier::new(2).unwrap().into()]).payload("7").build().unwrap();
    broker.send(identified);
    let posted = host.posted();
    assert_eq!((posted.len(), &*posted[0].to, posted[0].header("retain")), (1, BOB, Some("true")));
    let Packet::V5_0Puback(ack) = broker.received().remove(0) else { panic!("PUBACK") };
    assert_eq!(ack.packet_id(), 9);
}

#[test]
fn gone_subscriber_is_unsubscribed() {
    let (host, mut broker) = live(5);
    subscribe(&host, &mut broker, ALICE, "a");
    host.refuse_posts([Error::Io("no receiver".to_owned())]);
    broker.publish("a", "1");
    assert!(matches!(broker.received()[..], [Packet::V5_0Unsubscribe(_)]));
    subscribe(&host, &mut broker, ALICE, "b");
    broker.publish("b", "1");
    let update = host.posted().remove(0);
    host.deliver(update.error_response(404, "no receiver"));
    assert!(matches!(broker.received()[..], [Packet::V5_0Unsubscribe(_)]));
}

#[test]
fn accepted_publication_is_resent_after_a_break() {
    for (version, session_present) in [(4, true), (5, true), (5, false)] {
        let (host, mut broker) = live(version);
        subscribe(&host, &mut broker, ALICE, "s");
        for n in 1..=3 {
            host.deliver(message("create", "a", n).with_body(json!(n)));
        }
        assert_eq!(broker.published().len(), 3);
        broker.puback(2);
        assert_eq!(codes(&host), [200]);
        let mut again = reconnect(&host, &broker, session_present);
        let packets = again.received();
        let renewed = packets.iter().any(|packet| matches!(packet, Packet::V5_0Subscribe(_)));
        assert_eq!(renewed, !session_present, "the broker has lost the subscription");
        let dups: Vec<_> = packets
            .iter()
            .filter_map(|packet| match packet {
                Packet::V5_0Publish(p) => Some((p.packet_id(), p.dup())),
                Packet::V3_1_1Publish(p) => Some((p.packet_id(), p.dup())),
                _ => None,
            })
            .collect();
        assert_eq!(dups, [(Some(3), session_present), (Some(4), session_present)]);
        again.puback(3);
        again.puback(4);
        assert_eq!(codes(&host), [200, 200]);
    }
}

#[test]
fn new_instance_resumes_the_saved_session() {
    for version in [4, 5] {
        let (host, mut broker) = live(version);
        subscribe(&host, &mut broker, ALICE, "s/+");
        host.deliver(message("create", "a", 1).with_body(json!(1)));
        host.deliver(message("create", "a", 2).with_body(Body::Bytes(vec![b'x'; 70_000])));
        host.deliver(message("create", "a", 3).with_body(json!(3)));
        assert!(host.session().unwrap().len() <= 64 * 1024, "a large publication, and all after it, have no room");
        host.start_main(main, config(version)).unwrap();
        host.connect();
        let mut again = Broker::open(&host, version == 5);
        match again.received().remove(0) {
            Packet::V5_0Connect(connect) => assert!(!connect.clean_start() && connect.client_id() == "me"),
            Packet::V3_1_1Connect(connect) => assert!(!connect.clean_session() && connect.client_id() == "me"),
            other => panic!("{other:?}"),
        }
        again.accept(true);
        let packets = again.received();
        assert!(matches!(packets[0], Packet::V5_0Subscribe(_) | Packet::V3_1_1Subscribe(_)), "SUBSCRIBE may be lost");
        assert_eq!(packets.len(), 2, "{packets:?}");
        again.publish("s/1", "1");
        assert_eq!(host.posted()[0].to, ALICE);
    }
}

#[test]
fn unreadable_session_is_ignored() {
    for saved in [vec![], vec![0, 0], vec![0, 0, 0, 9, b'{'], vec![255; 100]] {
        let host = Host::new();
        host.set_session(Some(saved));
        host.start_main(main, json!({ "url": "mqtts://sp1.example" })).unwrap();
        host.connect();
        assert!(Broker::open(&host, true).connect_5().client_id().starts_with("protostub"));
    }
}

#[test]
fn broker_limits_are_respected() {
    let host = Host::new();
    host.start_main(main, json!({ "url": "mqtts://sp1.example" })).unwrap();
    host.connect();
    let mut broker = Broker::open(&host, true);
    let limits = vec![
        ReceiveMaximum::new(2).unwrap().into(),
        MaximumPacketSize::new(100).unwrap().into(),
        AssignedClientIdentifier::new("you").unwrap().into(),
    ];
    let connack = v5_0::Connack::builder().session_present(false).reason_code(ConnectReasonCode::Success).props(limits);
    broker.send(connack.build().unwrap());
    broker.received();
    host.deliver(message("create", "a", 1).with_body(Body::Bytes(vec![0; 100])));
    assert_eq!(refusal(&host).0, 413);
    host.deliver_all((0..200).map(|n| message("create", "a", n)));
    assert_eq!(broker.published().len(), 2);
    assert!(host.queued() > 0, "the rest waits at the host");
    for id in 1..=200 {
        broker.puback(id);
    }
    assert_eq!((broker.published().len(), codes(&host).len()), (198, 200));
}

#[test]
fn silent_broker_is_pinged_and_then_dropped() {
    let (host, mut broker) = live(5);
    host.advance(Duration::from_secs(30));
    assert!(matches!(broker.received()[..], [Packet::V5_0Pingreq(_)]));
    broker.send(v5_0::Pingresp::new());
    host.advance(Duration::from_secs(30));
    assert!(matches!(broker.received()[..], [Packet::V5_0Pingreq(_)]));
    host.advance(Duration::from_secs(10));
    assert_eq!(host.statuses(), ["disconnected: the broker was silent for 40 s"]);
}

#[test]
fn disconnect_waits_for_acknowledgements() {
    for (reason, is_kept) in [(DisconnectReason::Update, true), (DisconnectReason::Shutdown, false)] {
        let (host, mut broker) = live(5);
        host.deliver(message("create", "a", 1));
        broker.received();
        host.disconnect(reason);
        assert!(broker.received().is_empty());
        broker.puback(1);
        let Packet::V5_0Disconnect(goodbye) = broker.received().remove(0) else { panic!("DISCONNECT") };
        assert_eq!(goodbye.props.is_none_or(|props| props.is_empty()), is_kept, "a session that is not resumed ends");
        assert_eq!((codes(&host), host.statuses()), (vec![200], vec!["disconnected".to_owned()]));
        assert_eq!(
            (broker.connection.is_closed_by_stub(), host.session().is_some_and(|saved| !saved.is_empty())),
            (true, is_kept)
        );
    }
    // The stub does not wait long for a broker that acknowledges nothing.
    let (host, _broker) = live(5);
    host.deliver(message("create", "a", 1));
    host.disconnect(DisconnectReason::Request);
    host.advance(Duration::from_secs(2));
    assert_eq!((refusal(&host).0, host.statuses()), (504, vec!["disconnected".to_owned()]));
}

#[test]
fn random_packets_do_not_panic() {
    let (host, broker) = live(5);
    let says = DisconnectReasonCode::ServerShuttingDown;
    broker.send(v5_0::Disconnect::builder().reason_code(says).build().unwrap());
    assert_eq!(host.statuses(), ["disconnected: the broker ended the connection: server shutting down"]);
    let mut random = fastrand::Rng::with_seed(7);
    for version in [4, 5] {
        for kind in 0..=15_u8 {
            for _ in 0..200 {
                let (host, broker) = live(version);
                let (flags, length) = (random.u8(0..16), random.u8(0..40));
                let body = (0..length).map(|_| if random.bool() { random.u8(0..6) } else { random.u8(..) });
                let packet: Vec<u8> = [kind << 4 | flags, length].into_iter().chain(body).collect();
                broker.connection.send(&packet);
                assert_ne!(host.status(), protostub_sdk::Status::Failed, "{packet:?}");
            }
        }
    }
}

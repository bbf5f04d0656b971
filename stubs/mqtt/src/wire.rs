//! Packets as bytes, in both versions of the protocol. `mqtt-protocol-core` knows MQTT's encoding;
//! this module unifies its types of each version.

use mqtt_protocol_core::mqtt::{
    common::Cursor,
    connection::{PacketBuildResult, PacketBuilder, PacketData, RawPacket},
    packet::{
        self, MaximumPacketSize, Property, ReceiveMaximum, RetainHandling, SessionExpiryInterval, SubEntry, SubOpts,
        SubscriptionIdentifier, v3_1_1, v5_0,
    },
    result_code::MqttError,
};
use protostub_sdk::{Error, Result};

use crate::config::{Qos, Version};

/// A broker's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The reason code of MQTT 5. Codes of MQTT 3.1.1 are translated.
    pub(crate) code: u8,
    /// The code's name and the broker's reason string, for people.
    pub(crate) reason: String,
}

/// The features and limits of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Abilities {
    pub(crate) receive_maximum: u16,
    pub(crate) maximum_packet_size: u32,
    pub(crate) maximum_qos: Qos,
    pub(crate) retain: bool,
    pub(crate) subscription_identifiers: bool,
    pub(crate) keep_alive: Option<u16>,
    pub(crate) client_id: Option<String>,
}

/// A packet of the broker.
#[derive(Debug)]
pub(crate) enum Packet {
    Connack { session_present: bool, outcome: Result<Abilities, Refusal> },
    Publish(Publish),
    Puback(u16, Result<(), Refusal>),
    Suback(u16, Result<(), Refusal>),
    Unsuback(u16, Result<(), Refusal>),
    Pingresp,
    Disconnect(Refusal),
}

/// A publication.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) retain: bool,
    /// `None` for QoS 0.
    pub(crate) id: Option<u16>,
    pub(crate) dup: bool,
    /// The subscriptions that the publication matches, if the broker names them.
    pub(crate) subscriptions: Vec<u32>,
}

/// The content of the stub's CONNECT packet.
#[derive(Debug)]
pub(crate) struct Connect<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive: u16,
    pub(crate) user_name: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
    /// Seconds for which the broker keeps the session (MQTT 5).
    pub(crate) expiry: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) maximum_packet_size: u32,
}

/// Writes and reads packets of one version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Codec(pub(crate) Version);

fn unwritable(error: MqttError) -> Error {
    Error::Invalid(format!("the packet cannot be written: {}", words(&error.to_string())))
}

fn unreadable(error: MqttError) -> Error {
    Error::Io(format!("the broker sent an invalid MQTT packet: {}", words(&error.to_string())))
}

impl Codec {
    pub(crate) fn connect(self, connect: &Connect<'_>) -> Result<Vec<u8>> {
        let write = || {
            Ok(match self.0 {
                Version::V5 => {
                    let mut builder = v5_0::Connect::builder()
                        .client_id(connect.client_id)?
                        .clean_start(connect.clean_start)
                        .keep_alive(connect.keep_alive)
                        .props(vec![
                            SessionExpiryInterval::new(connect.expiry)?.into(),
                            ReceiveMaximum::new(connect.receive_maximum)?.into(),
                            MaximumPacketSize::new(connect.maximum_packet_size)?.into(),
                        ]);
                    if let Some(user_name) = connect.user_name {
                        builder = builder.user_name(user_name)?;
                    }
                    if let Some(password) = connect.password {
                        builder = builder.password(password)?;
                    }
                    builder.build()?.to_continuous_buffer()
                }
                Version::V4 => {
                    let mut builder = v3_1_1::Connect::builder()
                        .client_id(connect.client_id)?
                        .clean_session(connect.clean_start)
                        .keep_alive(connect.keep_alive);
                    if let Some(user_name) = connect.user_name {
                        builder = builder.user_name(user_name)?;
                    }
                    if let Some(password) = connect.password {
                        builder = builder.password(password)?;
                    }
                    builder.build()?.to_continuous_buffer()
                }
            })
        };
        write().map_err(unwritable)
    }

    pub(crate) fn publish(self, publish: &Publish) -> Result<Vec<u8>> {
        let qos = if publish.id.is_some() { packet::Qos::AtLeastOnce } else { packet::Qos::AtMostOnce };
        let write = || {
            Ok(match self.0 {
                Version::V5 => v5_0::Publish::builder()
                    .topic_name(&*publish.topic)?
                    .qos(qos)
                    .packet_id(publish.id)
                    .retain(publish.retain)
                    .dup(publish.dup)
                    .payload(&*publish.payload)
                    .build()?
                    .to_continuous_buffer(),
                Version::V4 => v3_1_1::Publish::builder()
                    .topic_name(&*publish.topic)?
                    .qos(qos)
                    .packet_id(publish.id)
                    .retain(publish.retain)
                    .dup(publish.dup)
                    .payload(&*publish.payload)
                    .build()?
                    .to_continuous_buffer(),
            })
        };
        write().map_err(unwritable)
    }

    pub(crate) fn puback(self, id: u16) -> Result<Vec<u8>> {
        let puback = match self.0 {
            Version::V5 => v5_0::Puback::builder().packet_id(id).build().map(|packet| packet.to_continuous_buffer()),
            Version::V4 => v3_1_1::Puback::builder().packet_id(id).build().map(|packet| packet.to_continuous_buffer()),
        };
        puback.map_err(unwritable)
    }

    /// Writes a SUBSCRIBE packet. `identifier` is the broker's number for the subscription.
    /// `is_new` has the broker send its retained messages, also if it has sent them before.
    pub(crate) fn subscribe(self, id: u16, filter: &str, qos: Qos, identifier: Option<u32>, is_new: bool) -> Result<Vec<u8>> {
        let options = SubOpts::new().set_qos(match qos {
            Qos::AtMostOnce => packet::Qos::AtMostOnce,
            Qos::AtLeastOnce => packet::Qos::AtLeastOnce,
        });
        let retained = if is_new { RetainHandling::SendRetained } else { RetainHandling::SendRetainedIfNotExists };
        // The only option of MQTT 3.1.1 is the QoS.
        let options = if self.0 == Version::V5 { options.set_rh(retained) } else { options };
        let write = || {
            let entries = vec![SubEntry::new(filter, options)?];
            Ok(match self.0 {
                Version::V5 => {
                    let identifier = identifier.map(SubscriptionIdentifier::new).transpose()?;
                    let properties: Vec<Property> = identifier.into_iter().map(Property::from).collect();
                    v5_0::Subscribe::builder().packet_id(id).entries(entries).props(properties).build()?.to_continuous_buffer()
                }
                Version::V4 => v3_1_1::Subscribe::builder().packet_id(id).entries(entries).build()?.to_continuous_buffer(),
            })
        };
        write().map_err(unwritable)
    }

    pub(crate) fn unsubscribe(self, id: u16, filter: &str) -> Result<Vec<u8>> {
        let write = || {
            Ok(match self.0 {
                Version::V5 => v5_0::Unsubscribe::builder().packet_id(id).entries([filter])?.build()?.to_continuous_buffer(),
                Version::V4 => v3_1_1::Unsubscribe::builder().packet_id(id).entries([filter])?.build()?.to_continuous_buffer(),
            })
        };
        write().map_err(unwritable)
    }

    pub(crate) fn pingreq() -> Vec<u8> {
        v3_1_1::Pingreq::new().to_continuous_buffer()
    }

    /// Writes a DISCONNECT packet. `forget`: the broker need not keep the session (MQTT 5).
    pub(crate) fn disconnect(self, forget: bool) -> Result<Vec<u8>> {
        if !forget || self.0 == Version::V4 {
            return Ok(v3_1_1::Disconnect::new().to_continuous_buffer());
        }
        let write = || {
            let packet = v5_0::Disconnect::builder()
                .reason_code(mqtt_protocol_core::mqtt::result_code::DisconnectReasonCode::NormalDisconnection)
                .props(vec![SessionExpiryInterval::new(0)?.into()]);
            Ok(packet.build()?.to_continuous_buffer())
        };
        write().map_err(unwritable)
    }

    /// Reads a packet of the broker.
    fn read(self, raw: RawPacket) -> Result<Packet> {
        let (kind, flags) = (raw.packet_type(), raw.flags());
        if let PacketData::Publish(data) = raw.data {
            let read = match self.0 {
                Version::V5 => v5_0::Publish::parse(flags, data).map(|(packet, _)| Publish {
                    topic: packet.topic_name().to_owned(),
                    payload: packet.payload().as_slice().to_vec(),
                    retain: packet.retain(),
                    id: packet.packet_id(),
                    dup: packet.dup(),
                    subscriptions: packet.props.iter().filter_map(identifier).collect(),
                }),
                Version::V4 => v3_1_1::Publish::parse(flags, data).map(|(packet, _)| Publish {
                    topic: packet.topic_name().to_owned(),
                    payload: packet.payload().as_slice().to_vec(),
                    retain: packet.retain(),
                    id: packet.packet_id(),
                    dup: packet.dup(),
                    subscriptions: Vec::new(),
                }),
            };
            return read.map(Packet::Publish).map_err(unreadable);
        }
        let data = raw.data_as_slice();
        let read = match self.0 {
            Version::V5 => read_v5(kind, data),
            Version::V4 => read_v4(kind, data),
        };
        read.map_err(unreadable)
    }
}

fn read_v5(kind: u8, data: &[u8]) -> Result<Packet, MqttError> {
    Ok(match kind {
        2 => {
            let packet = v5_0::Connack::parse(data)?.0;
            let outcome = answer(packet.reason_code() as u8, &packet.props);
            Packet::Connack {
                session_present: packet.session_present(),
                outcome: outcome.map(|()| Abilities::read(&packet.props)),
            }
        }
        4 => {
            let packet = v5_0::Puback::parse(data)?.0;
            let properties = packet.props.as_deref().unwrap_or_default();
            Packet::Puback(packet.packet_id(), answer(packet.reason_code().map_or(0, |code| code as u8), properties))
        }
        9 => {
            let packet = v5_0::Suback::parse(data)?.0;
            let code = packet.reason_codes().first().map_or(0x80, |code| *code as u8);
            Packet::Suback(packet.packet_id(), answer(code, &packet.props))
        }
        11 => {
            let packet = v5_0::Unsuback::parse(data)?.0;
            let code = packet.reason_codes().first().map_or(0x80, |code| *code as u8);
            Packet::Unsuback(packet.packet_id(), answer(code, &packet.props))
        }
        13 => Packet::Pingresp,
        14 => {
            let packet = v5_0::Disconnect::parse(data)?.0;
            let code = packet.reason_code().map_or(0, |code| code as u8);
            let properties = packet.props.as_deref().unwrap_or_default();
            Packet::Disconnect(Refusal::new(code, properties))
        }
        // No server sends other packets to a client that asks for QoS 0 and 1, and for no
        // authentication of its own.
        _ => return Err(MqttError::ProtocolError),
    })
}

fn read_v4(kind: u8, data: &[u8]) -> Result<Packet, MqttError> {
    Ok(match kind {
        2 => {
            let packet = v3_1_1::Connack::parse(data)?.0;
            // The same reasons have other codes in MQTT 5.
            let code = match packet.return_code() as u8 {
                0 => 0,
                1 => 0x84,
                2 => 0x85,
                3 => 0x88,
                4 => 0x86,
                _ => 0x87,
            };
            let outcome = answer(code, &[]).map(|()| Abilities::read(&[]));
            Packet::Connack { session_present: packet.session_present(), outcome }
        }
        4 => Packet::Puback(v3_1_1::Puback::parse(data)?.0.packet_id(), Ok(())),
        9 => {
            let packet = v3_1_1::Suback::parse(data)?.0;
            let code = packet.return_codes().first().map_or(0x80, |code| *code as u8);
            Packet::Suback(packet.packet_id(), answer(code, &[]))
        }
        11 => Packet::Unsuback(v3_1_1::Unsuback::parse(data)?.0.packet_id(), Ok(())),
        13 => Packet::Pingresp,
        // No server sends other packets to a client that asks for QoS 0 and 1, and for no
        // authentication of its own.
        _ => return Err(MqttError::ProtocolError),
    })
}

fn identifier(property: &Property) -> Option<u32> {
    match property {
        Property::SubscriptionIdentifier(identifier) => Some(identifier.val()),
        _ => None,
    }
}

fn answer(code: u8, properties: &[Property]) -> Result<(), Refusal> {
    if code < 0x80 { Ok(()) } else { Err(Refusal::new(code, properties)) }
}

impl Refusal {
    fn new(code: u8, properties: &[Property]) -> Self {
        let name = match (code, MqttError::try_from(code)) {
            (0, _) => "no reason".to_owned(),
            (_, Ok(known)) => words(&known.to_string()),
            (_, Err(_)) => format!("reason code {code}"),
        };
        let told = properties.iter().find_map(|property| match property {
            Property::ReasonString(text) => Some(text.val()),
            _ => None,
        });
        Self { code, reason: told.map_or_else(|| name.clone(), |told| format!("{name}: {told}")) }
    }

    /// Returns `true` if a retry with the same settings will not help.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.code, 0x84..=0x87 | 0x8A | 0x8C | 0x9D)
    }

    /// Returns the code of an error response (RFC 9110).
    pub(crate) fn response_code(&self) -> u16 {
        match self.code {
            0x86 | 0x87 | 0x8A => 403,
            0x8F | 0x90 | 0x99 => 400,
            0x95 => 413,
            0x96 | 0x97 => 429,
            0x9A | 0x9B | 0x9E | 0xA1 | 0xA2 => 501,
            _ => 502,
        }
    }
}

impl Abilities {
    fn read(properties: &[Property]) -> Self {
        let mut abilities = Self {
            receive_maximum: u16::MAX,
            maximum_packet_size: u32::MAX,
            maximum_qos: Qos::AtLeastOnce,
            retain: true,
            subscription_identifiers: true,
            keep_alive: None,
            client_id: None,
        };
        for property in properties {
            match property {
                Property::ReceiveMaximum(most) => abilities.receive_maximum = most.val().max(1),
                Property::MaximumPacketSize(most) => abilities.maximum_packet_size = most.val(),
                Property::MaximumQos(most) if most.val() == 0 => abilities.maximum_qos = Qos::AtMostOnce,
                Property::RetainAvailable(is) => abilities.retain = is.val() != 0,
                Property::SubscriptionIdentifierAvailable(is) => abilities.subscription_identifiers = is.val() != 0,
                Property::ServerKeepAlive(seconds) => abilities.keep_alive = Some(seconds.val()),
                Property::AssignedClientIdentifier(id) => abilities.client_id = Some(id.val().to_owned()),
                _ => {}
            }
        }
        abilities
    }
}

/// Writes `NotAuthorized` as `not authorized`.
fn words(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// Makes packets of the bytes that arrive.
pub(crate) struct Reader {
    codec: Codec,
    builder: PacketBuilder,
    bytes: Vec<u8>,
    taken: usize,
}

impl Reader {
    /// Makes a reader. A packet that is larger than the maximum ends the connection.
    pub(crate) fn new(codec: Codec, maximum_packet_size: u32) -> Self {
        Self { codec, builder: PacketBuilder::with_maximum_packet_size(maximum_packet_size), bytes: Vec::new(), taken: 0 }
    }

    /// Takes the bytes that arrived. All earlier bytes have been read.
    pub(crate) fn feed(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
        self.taken = 0;
    }

    /// Returns the next packet, or `None` if it needs more bytes.
    pub(crate) fn next(&mut self) -> Result<Option<Packet>> {
        while let Some(rest) = self.bytes.get(self.taken..).filter(|rest| !rest.is_empty()) {
            let mut cursor = Cursor::new(rest);
            let built = self.builder.feed(&mut cursor);
            self.taken += usize::try_from(cursor.position()).unwrap_or(usize::MAX);
            match built {
                PacketBuildResult::Complete(raw) => return self.codec.read(raw).map(Some),
                PacketBuildResult::Incomplete => {}
                PacketBuildResult::Error(error) => return Err(unreadable(error)),
            }
        }
        Ok(None)
    }
}

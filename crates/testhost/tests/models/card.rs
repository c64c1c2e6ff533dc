//! The model of NetVSP.

use crate::{BUFFER, NOWHERE, Sample, Sent, check_truncated, flood, send, words};
use hyperv_bindings::netvsp::{NVSP_NO_SECTION, NvspMessageType, NvspVersion};
use hyperv_bindings::rndis::{RndisMessageType, RndisOid};
use paravirt_testhost::{Guest, NetVspHost, VmbusDevice};
use zerocopy::FromBytes;

/// An NVSP message.
fn nvsp(kind: NvspMessageType, rest: &[u32]) -> Sample {
    let mut bytes = words(&[&[kind.0], rest].concat());
    bytes.resize(40, 0);
    (bytes, vec![])
}

/// An RNDIS message.
fn rndis(kind: RndisMessageType, rest: &[u8]) -> Sample {
    let channel = u32::from(kind != RndisMessageType::PACKET);
    let (payload, _) = nvsp(NvspMessageType::SEND_RNDIS_PACKET, &[channel, NVSP_NO_SECTION, 0]);
    (payload, [&words(&[kind.0, rest.len() as u32 + 8])[..], rest].concat())
}

/// A query of an OID, or a set request with a value.
fn oid(kind: RndisMessageType, oid: RndisOid, value: &[u8]) -> Sample {
    rndis(kind, &[&words(&[5, oid.0, value.len() as u32, 20, 0])[..], value].concat())
}

/// A set request of the MAC address with this text.
fn address(text: &[u8]) -> Sample {
    let utf16 = |text: &[u8]| text.iter().flat_map(|byte| [*byte, 0]).collect::<Vec<u8>>();
    let (name, value) = (utf16(b"NetworkAddress"), utf16(text));
    let head = words(&[20, name.len() as u32, 2, 20 + name.len() as u32, value.len() as u32]);
    oid(RndisMessageType::SET, RndisOid::GEN_RNDIS_CONFIG_PARAMETER, &[head, name, value].concat())
}

const FILTER: RndisOid = RndisOid::GEN_CURRENT_PACKET_FILTER;

/// The initialization: NVSP with the buffers, and RNDIS.
fn card_begins() -> [Vec<Sample>; 2] {
    let buffers = vec![
        nvsp(NvspMessageType::INIT, &[NvspVersion::V61.0, NvspVersion::V61.0]),
        nvsp(NvspMessageType::SEND_NDIS_CONFIG, &[1514]),
        nvsp(NvspMessageType::SEND_NDIS_VERSION, &[6, 30]),
        nvsp(NvspMessageType::SEND_RECEIVE_BUFFER, &[BUFFER, 0xcafe]),
        nvsp(NvspMessageType::SEND_SEND_BUFFER, &[BUFFER, 0]),
    ];
    let rndis = vec![
        rndis(RndisMessageType::INITIALIZE, &words(&[1, 1, 0, 0x4000])),
        oid(RndisMessageType::SET, FILTER, &[9, 0, 0, 0]),
    ];
    [buffers, rndis]
}

#[test]
fn the_network_model_survives_any_messages() {
    let begin = card_begins().concat();
    let mut samples = begin.clone();
    for gpadl in [BUFFER, NOWHERE, 7] {
        samples.push(nvsp(NvspMessageType::SEND_RECEIVE_BUFFER, &[gpadl, 0xcafe]));
        samples.push(nvsp(NvspMessageType::SEND_SEND_BUFFER, &[gpadl, 0]));
    }
    samples.push(nvsp(NvspMessageType::REVOKE_RECEIVE_BUFFER, &[0xcafe]));
    samples.push(nvsp(NvspMessageType::REVOKE_SEND_BUFFER, &[0]));
    samples.push(nvsp(NvspMessageType::SUBCHANNEL, &[1, 1]));
    // Shorter than its count requires.
    samples.push((words(&[NvspMessageType::SUBCHANNEL.0, 1]), vec![]));
    samples.push(nvsp(NvspMessageType::SEND_RNDIS_PACKET_COMPLETE, &[1]));
    samples.push(nvsp(NvspMessageType::SEND_RNDIS_PACKET, &[0, 3, 6000]));
    samples.push(nvsp(NvspMessageType::SEND_RNDIS_PACKET, &[1, u32::MAX - 1, 6144]));
    for queried in [RndisOid::GEN_MAXIMUM_FRAME_SIZE, RndisOid::TCP_OFFLOAD_HARDWARE_CAPABILITIES] {
        samples.push(oid(RndisMessageType::QUERY, queried, &[]));
    }
    for len in 0..28 {
        // Truncated, down to the shortest with a header.
        let (payload, bytes) = oid([RndisMessageType::QUERY, RndisMessageType::SET][len % 2], FILTER, &[]);
        samples.push((payload, bytes[..len].to_vec()));
    }
    samples.push(oid(RndisMessageType::SET, RndisOid::GEN_RECEIVE_SCALE_PARAMETERS, &[1; 40]));
    for text in [&b"00155D010203"[..], b"00155D01020Z", b"\xe9\xe9\xe9\xe9\xe9\xe9", b"+0+0+0+0+0+0", b""] {
        samples.push(address(text));
    }
    for (offset, len) in [(36, 60), (36, u32::MAX), (u32::MAX, u32::MAX)] {
        let head = words(&[offset, len, 0, 0, 0, offset, len, 0, 0]);
        samples.push(rndis(RndisMessageType::PACKET, &[&head[..], &[5; 60]].concat()));
    }
    samples.push(rndis(RndisMessageType::HALT, &words(&[9])));
    let mut card = NetVspHost::new();
    let wire = card.clone();
    flood(&mut card.clone(), &begin, &samples, || {
        wire.receive(&[1; 60]);
        wire.keep_alive(3);
    });
    check_truncated(&card.violations());
    assert!(card.packets() > 100 && card.take_oids().len() > 100 && card.is_halted());
    // A correct guest is served afterwards.
    let guest = Guest::new();
    card.open();
    card.receive(&[1; 60]);
    let mut transfers = 0;
    begin.iter().for_each(|sample| transfers += send(&mut card, guest.memory(), sample).transfers);
    assert!(transfers > 2, "the responses and the frame");
}

/// Returns the status in the only response, which has this type.
fn status(sent: &Sent, kind: NvspMessageType) -> u32 {
    let [answer] = &sent.packets[..] else { panic!("{} answers", sent.packets.len()) };
    let answer = <[u32; 2]>::read_from_prefix(answer).expect("an answer").0;
    assert_eq!(answer[0], kind.0);
    answer[1]
}

#[test]
fn buffers_are_revoked_and_shared_again() {
    const DONE: [NvspMessageType; 2] =
        [NvspMessageType::SEND_RECEIVE_BUFFER_COMPLETE, NvspMessageType::SEND_SEND_BUFFER_COMPLETE];
    let guest = Guest::new();
    let memory = guest.memory();
    let mut card = NetVspHost::new();
    let [buffers, rndis_begins] = card_begins();
    card.open();
    buffers.iter().chain(&rndis_begins).for_each(|sample| drop(send(&mut card, memory, sample)));
    card.receive(&[1; 60]);
    let mut sent = Sent::default();
    card.poll(memory, &mut sent);
    assert_eq!((sent.transfers, card.pieces_in_use()), (1, 3));
    // As for a change of the MTU.
    send(&mut card, memory, &rndis(RndisMessageType::HALT, &words(&[9])));
    assert_eq!(card.settings().0, 0);
    for kind in [NvspMessageType::REVOKE_RECEIVE_BUFFER, NvspMessageType::REVOKE_SEND_BUFFER] {
        send(&mut card, memory, &nvsp(kind, &[]));
    }
    card.receive(&[2; 60]);
    card.set_link(false);
    let mut sent = Sent::default();
    card.poll(memory, &mut sent);
    assert_eq!((sent.transfers, card.pieces_in_use(), card.waiting()), (0, 0, 1));
    // A GPADL that does not exist is refused.
    for gpadl in [7, BUFFER] {
        for (sample, done) in buffers[3..].iter().zip(DONE) {
            let mut sample = sample.clone();
            sample.0[4..8].copy_from_slice(&gpadl.to_le_bytes());
            let expected = if gpadl == BUFFER { 1 } else { 2 };
            assert_eq!(status(&send(&mut card, memory, &sample), done), expected);
        }
    }
    let transfers = rndis_begins.iter().map(|sample| send(&mut card, memory, sample).transfers);
    assert_eq!(transfers.sum::<usize>(), 3, "two responses and the frame");
    assert_eq!(card.waiting(), 0);
    assert_eq!(card.violations(), Vec::<String>::new());
    // No state is left when the channel is opened again.
    card.open();
    buffers[..3].iter().for_each(|sample| drop(send(&mut card, memory, sample)));
    send(&mut card, memory, &rndis_begins[0]);
    assert_eq!(card.violations(), ["RNDIS out of turn"]);
}

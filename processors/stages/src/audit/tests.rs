//! Chains as the stage writes them, what the verifier finds when they are changed, and evidence.

use std::sync::Arc;

use kernel::controls::Controls;
use kernel::{Delivery, Effects, Fault, Headers, Position, Processor, Timer};
use schemas::records::{AuditEntry, Call, Checkpoint, Control, Decision, Request, Scope, Verdict};
use schemas::{Record, Timestamp, topics};

use super::evidence::{Evidence, prove};
use super::verify::{Broken, Verifier, Whole};
use super::*;

/// One key for all; the tenant `gone` has had its erased.
struct One;

impl Keyring for One {
    fn key(&self, tenant: &str) -> Result<Option<Key>, Fault> {
        let key = Key {
            id: "key_1".into(),
            secret: [9; 32],
        };
        Ok((tenant != "gone").then_some(key))
    }
}

fn audit() -> Audit {
    Audit::new(Config { checkpoint_s: 60 }, [7; 32], Arc::new(One))
}

impl From<Input> for Seen {
    fn from(input: Input) -> Self {
        Seen::Read(input)
    }
}

/// What the stage writes for verdicts of one partition, a checkpoint after every `every` of them.
fn written(n: i64, every: i64) -> (Vec<Vec<u8>>, Vec<Checkpoint>) {
    let (audit, mut chain, controls) = (audit(), Chain::default(), Controls::default());
    let (mut entries, mut checkpoints) = (Vec::new(), Vec::new());
    for i in 0..n {
        let verdict = Verdict {
            verdict_id: format!("ver_{i}"),
            run_id: format!("run_{}", i % 3),
            tenant: "acme".into(),
            decision: Decision::Deny,
            ..Verdict::default()
        };
        let mut fx = Effects::new(Timestamp(i), CHAIN, "", &controls);
        audit
            .step(&mut chain, &delivery(Input::Verdict(Box::new(verdict)), i), &mut fx)
            .unwrap();
        entries.extend(fx.emits.into_iter().map(|e| e.avro));
        if (i + 1) % every == 0 {
            let mut fx = Effects::new(Timestamp(i), CHAIN, "", &controls);
            let timer = Timer {
                name: SEAL.into(),
                due: Timestamp(i),
            };
            audit.on_timer(&mut chain, &timer, &mut fx).unwrap();
            let made = fx
                .emits
                .iter()
                .map(|e| Checkpoint::from_avro(Checkpoint::schema(), &e.avro).unwrap());
            checkpoints.extend(made);
        }
    }
    (entries, checkpoints)
}

fn delivery(input: impl Into<Seen>, offset: i64) -> Delivery<Seen> {
    Delivery {
        input: input.into(),
        key: "k".into(),
        position: Position {
            topic: topics::VERDICTS.name.into(),
            partition: 2,
            offset,
        },
        headers: Headers::default(),
        at: Timestamp(5),
    }
}

fn verify(entries: &[Vec<u8>], checkpoints: &[Checkpoint]) -> Result<Whole, Broken> {
    let keys = [audit().public_key()];
    let mut verifier = Verifier::new(2, checkpoints.to_vec(), &keys);
    entries.iter().try_for_each(|e| verifier.entry(e))?;
    verifier.finish()
}

fn read(avro: &[u8]) -> AuditEntry {
    AuditEntry::from_avro(AuditEntry::schema(), avro).unwrap()
}

#[test]
fn a_chain_as_written_is_whole() {
    let (entries, checkpoints) = written(10, 4);
    let whole = verify(&entries, &checkpoints).unwrap();
    assert_eq!((whole.entries, whole.checkpoints, whole.unsealed), (10, 2, 2));
    let first = read(&entries[0]);
    assert_eq!((first.previous.as_str(), first.seq, first.chain), (ZEROS, 1, 2));
    assert_eq!((first.record.as_str(), first.fact.as_str()), ("Verdict", "DENY"));
    assert_eq!(read(&entries[9]).previous, hex::encode(Sha256::digest(&entries[8])));
    assert_eq!(verify::place(&entries[9]), Some((2, 10)));
}

#[test]
fn every_change_is_found_where_it_is() {
    let (entries, checkpoints) = written(12, 6);
    for i in 0..12 {
        let mut flipped = entries.clone();
        let at = flipped[i].len() - 3;
        flipped[i][at] ^= 1;
        let broken = verify(&flipped, &checkpoints).unwrap_err();
        assert!((i as i64 + 1..=i as i64 + 2).contains(&broken.seq), "{i}: {broken}");
        let mut dropped = entries.clone();
        dropped.remove(i);
        assert_eq!(verify(&dropped, &checkpoints).unwrap_err().seq, i as i64 + 1);
        let mut doubled = entries.clone();
        doubled.insert(i, entries[i].clone());
        assert!(verify(&doubled, &checkpoints).is_err());
    }
    for change in 0..7 {
        let mut changed = checkpoints.clone();
        match change {
            0 => changed[0].root = changed[1].root.clone(),
            1 => changed[1].head = changed[0].head.clone(),
            2 => changed[1].last_seq -= 1,
            3 => changed[0].signature = changed[1].signature.clone(),
            4 => changed[0].signed_at.0 += 1,
            5 => _ = changed.remove(0),
            _ => changed[1].previous = ZEROS.into(),
        }
        assert!(verify(&entries, &changed).is_err(), "change {change}");
    }
    let cut = verify(&entries[..9], &checkpoints).unwrap_err();
    assert!(cut.why.contains("missing"), "{cut}");
}

#[test]
fn a_stranger_cannot_sign() {
    let (entries, checkpoints) = written(4, 4);
    let stranger = checkpoint::sign(checkpoints[0].clone(), &SigningKey::from_bytes(&[8; 32]));
    let broken = verify(&entries, &[stranger]).unwrap_err();
    assert!(broken.why.contains("not trusted"), "{broken}");
}

#[test]
fn a_rewritten_tail_breaks_the_checkpoint() {
    let (mut forged, checkpoints) = written(8, 8);
    for i in 4..8 {
        let mut entry = read(&forged[i]);
        entry.fact = "ALLOW".into();
        entry.previous = hex::encode(Sha256::digest(&forged[i - 1]));
        forged[i] = entry.to_avro().unwrap();
    }
    let broken = verify(&forged, &checkpoints).unwrap_err();
    assert!(broken.why.contains("not the one that was signed"), "{broken}");
}

#[test]
fn every_kind_of_record_names_its_tenant_and_run() {
    let request = Request {
        tenant: "acme".into(),
        idempotency_key: "k1".into(),
        ..Request::default()
    };
    let control = Control {
        scope: Scope::Tenant,
        target: "acme".into(),
        actor: "ada".into(),
        ..Control::default()
    };
    let call = Call {
        tenant: "gone".into(),
        run_id: "run_9".into(),
        call_id: "call_1".into(),
        ..Call::default()
    };
    let inputs = [
        Input::Request(Box::new(request)),
        Input::Control(Box::new(control)),
        Input::Call(Box::new(call)),
    ];
    let (audit, mut chain, controls) = (audit(), Chain::default(), Controls::default());
    let mut entries = Vec::new();
    for input in inputs {
        let mut fx = Effects::new(Timestamp(1), CHAIN, "", &controls);
        audit.step(&mut chain, &delivery(input, 0), &mut fx).unwrap();
        assert_eq!(fx.emits[0].partition, Some(2));
        entries.push(read(&fx.emits[0].avro));
    }
    assert_eq!(entries[0].run_id, schemas::digest::run_id("acme", "k1"));
    assert_eq!(
        (entries[1].subject.as_str(), entries[1].fact.as_str()),
        ("TENANT:acme", "KILL")
    );
    let key = One.key("acme").unwrap().unwrap();
    assert!(
        unseal(&key, (2, 2), &entries[1].body)
            .unwrap()
            .contains("\"actor\":\"ada\"")
    );
    assert_eq!((entries[2].key_id.as_str(), entries[2].body.as_str()), ("", ""));
    assert_eq!(entries[2].tenant, "gone");
}

#[test]
fn evidence_holds_and_a_change_of_it_does_not() {
    let (entries, checkpoints) = written(10, 8);
    let key = One.key("").unwrap().unwrap();
    let says = |e: &AuditEntry| unseal(&key, (e.chain, e.seq), &e.body).ok();
    let mine = |e: &AuditEntry| e.run_id == "run_1";
    let mut found = prove(&entries[..8], Some(&checkpoints[0]), &mine, &says).unwrap();
    found.extend(prove(&entries[8..], None, &mine, &says).unwrap());
    let evidence = Evidence {
        version: 1,
        run_id: "run_1".into(),
        schema: AuditEntry::schema_text().into(),
        entries: found,
        checkpoints,
    };
    let evidence: Evidence = serde_json::from_str(&serde_json::to_string(&evidence).unwrap()).unwrap();
    let checked = evidence.check().unwrap();
    assert_eq!((checked.proven, checked.unsealed, checked.silent), (3, 0, 0));
    assert_eq!(checked.keys, [audit().public_key()]);
    assert!(evidence.html().contains("ver_1") && !evidence.html().contains("<script"));
    for change in 0..5 {
        let mut changed = evidence.clone();
        match change {
            0 => changed.entries[0].entry.fact = "ALLOW".into(),
            1 => changed.entries[0].says = Some("{}".into()),
            2 => changed.entries[1].proof.clear(),
            3 => changed.checkpoints[0].root = ZEROS.into(),
            _ => changed.run_id = "run_2".into(),
        }
        assert!(changed.check().is_err(), "change {change}");
    }
}

#[test]
fn what_cannot_be_read_is_chained_as_it_came() {
    let fault = Fault::new(kernel::FaultCode::RecordNotFramed, "no magic byte");
    let poison = Seen::Unreadable(vec![1, 2, 3], fault);
    let (audit, mut chain, controls) = (audit(), Chain::default(), Controls::default());
    let mut fx = Effects::new(Timestamp(1), CHAIN, "", &controls);
    audit.step(&mut chain, &delivery(poison, 0), &mut fx).unwrap();
    let entry = read(&fx.emits[0].avro);
    assert_eq!(
        (entry.record.as_str(), entry.fact.as_str()),
        ("Unreadable", "RECORD_NOT_FRAMED")
    );
    let key = One.key("").unwrap().unwrap();
    let says = unseal(&key, (2, 1), &entry.body).unwrap();
    assert!(says.contains("\"bytes\":\"AQID\""), "{says}");
    assert_eq!(entry.digest, digest_of(&says));
    assert_eq!(schemas::digest::canonical(&says).unwrap(), says);
}

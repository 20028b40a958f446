//! A constitution that counts over runs and looks into bills of materials, on the running pipeline. The bill is a real one: what
//! `cyclonedx-py environment` wrote of the packages in requirements.txt.

use std::path::Path;
use std::time::Duration;

use schemas::records::RunStatus;
use schemas::topics;

use super::constitution::{Scene, rules};
use super::harness::{live, unique};

const LIMITED: &str = "requirements:
  - { id: two_an_hour, text: Two probes an hour., when: { capsules: [endpoint_probe] }, at_most: { times: 2, within_s: 3600 } }
  - id: known_parts
    text: Calls are made with known parts.
    when: { capsules: [http_call] }
    oblige: { sbom: { licences: [MIT, MIT-0, BSD-3-Clause, Apache-2.0, MPL-2.0, PSF-2.0],
                      names: ['License :: OSI Approved :: Apache Software License'] } }
";

#[test]
fn a_constitution_counts_over_runs_and_looks_at_what_tools_are_made_of() {
    let live = live();
    let tenant = unique("limits").replace('-', "_");
    let scene = Scene { live, tenant };
    let of = scene.tenant.clone();
    scene.done(&["constitution", "key", &scene.path("key"), "--trust", &of]);
    scene.publish(&scene.signed(1, None, LIMITED, "key"));
    counted(&scene);
    made_of(&scene);
}

fn counted(scene: &Scene<'_>) {
    for nth in ["first", "second"] {
        let (run, _) = scene.ended("endpoint_probe", nth);
        assert_eq!(run.status, RunStatus::Succeeded, "{run:#?}");
    }
    // The gates are told of a tally through its topic.
    std::thread::sleep(Duration::from_secs(1));
    let (run, verdicts) = scene.ended("endpoint_probe", "third");
    assert_eq!(
        (run.status, rules(&verdicts)),
        (RunStatus::Denied, vec!["constitution.two_an_hour"])
    );
    let listed = scene.done(&["tally", "--tenant", &scene.tenant]);
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|t| t["name"].as_str()).collect();
    assert_eq!(names, [Some("constitution.two_an_hour"); 2], "{listed}");
}

fn made_of(scene: &Scene<'_>) {
    let bill = Path::new(env!("CARGO_MANIFEST_DIR")).join("live/stock_client.cdx.json");
    let bill = bill.display().to_string();
    let (run, verdicts) = scene.ended("http_call", "unknown");
    assert_eq!(
        (run.status, rules(&verdicts)),
        (RunStatus::Denied, vec!["constitution.known_parts"])
    );
    let reason = &verdicts[0].reason;
    assert!(reason.contains("soma sbom publish tool:http FILE"), "{reason}");

    let document = scene.path("document.yaml");
    let check = ["sbom", "check", "tool:http", &bill, "--constitution"];
    scene.done(&[&check[..], &[&document]].concat());
    let narrow = scene.path("narrow.yaml");
    let text = std::fs::read_to_string(&document).unwrap();
    std::fs::write(&narrow, text.replace("MPL-2.0, ", "")).unwrap();
    let (met, said) = scene.soma(&[&check[..], &[&narrow]].concat());
    assert!(!met && said.contains("certifi") && said.contains("MPL-2.0"), "{said}");

    let why = ["--reason", "live test"];
    scene.done(&[&["sbom", "publish", "tool:http", &bill], &why[..]].concat());
    std::thread::sleep(Duration::from_secs(1));
    let (run, _) = scene.ended("http_call", "known");
    assert_eq!(run.status, RunStatus::Succeeded, "{run:#?}");
    scene.done(&[&["sbom", "withdraw", "tool:http"], &why[..]].concat());
    std::thread::sleep(Duration::from_secs(1));
    let (run, _) = scene.ended("http_call", "withdrawn");
    assert_eq!(run.status, RunStatus::Denied);
    let facts = scene.live.read(topics::AUDIT).into_iter();
    let facts: Vec<_> = facts.filter(|e| e.record == "Sbom").map(|e| e.fact).collect();
    assert!(
        ["PUBLISHED", "WITHDRAWN"].iter().all(|f| facts.iter().any(|g| g == f)),
        "{facts:?}"
    );
}

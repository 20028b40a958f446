//! A constitution on the running pipeline: signed, published, obeyed, replaced, rolled back; what is unsigned, altered, replayed or signed by
//! a stranger changes nothing; and what its requirements oblige to is done.

use std::time::Duration;

use schemas::records::{Constitution, OutcomeStatus, Run, RunStatus, Verdict};
use schemas::topics;
use serde_json::Value;

use super::harness::{Live, live, request, text, unique};

const SOON: Duration = Duration::from_secs(30);

/// Of version 1: what is called is rehearsed, and a field nobody is to keep is masked.
const GENTLE: &str = "requirements:
  - { id: rehearse, text: Calls are gone through first., when: { capsules: [http_call] }, oblige: { dry_run: true } }
  - { id: discreet, text: Answers are not kept., when: { capsules: [endpoint_probe] }, oblige: { redact: [/json/ok] } }
";
/// Of version 2: nothing is called at all, and the capsule's own rules weigh more than the tenant's.
const STRICT: &str = "principles:
  - { id: quiet, title: Quiet }
requirements:
  - { id: no_calls, principle: quiet, text: Nothing is called by hand., when: { capsules: [http_call] }, deny: true }
precedence: [capsule, tenant, base]
";

pub(super) struct Scene<'a> {
    pub(super) live: &'a Live,
    pub(super) tenant: String,
}

impl Scene<'_> {
    pub(super) fn path(&self, name: &str) -> String {
        let file = format!("{}-{name}", self.tenant);
        self.live.home.join(file).display().to_string()
    }

    pub(super) fn soma(&self, args: &[&str]) -> (bool, String) {
        let out = self.live.soma(&[&["--json"], args].concat());
        (out.status.success(), text(&out.stdout) + &text(&out.stderr))
    }

    pub(super) fn done(&self, args: &[&str]) -> Value {
        let (done, said) = self.soma(args);
        assert!(done, "{args:?}: {said}");
        serde_json::from_str(&said).unwrap_or(Value::Null)
    }

    /// Refused with the words.
    fn refused(&self, args: &[&str], words: &str) {
        let (done, said) = self.soma(args);
        let named = said.contains("CONSTITUTION_REFUSED") && said.contains(words);
        assert!(!done && named, "{args:?}: {said}");
    }

    /// Signs a version; the path of what was signed.
    pub(super) fn signed(&self, version: i64, previous: Option<&str>, rest: &str, key: &str) -> String {
        let previous = previous.map(|p| format!("previous: {p}\n")).unwrap_or_default();
        let document = format!(
            "tenant: {}\nversion: {version}\ntitle: live test\nissued_at: 2026-01-01T00:00:00Z\n{previous}{rest}",
            self.tenant
        );
        let (file, signed) = (self.path("document.yaml"), self.path(&format!("{version}.{key}.json")));
        std::fs::write(&file, document).unwrap();
        self.done(&["constitution", "sign", &file, "--key", &self.path(key), "-o", &signed]);
        signed
    }

    /// Publishes; the hash now in force.
    pub(super) fn publish(&self, signed: &str) -> String {
        let said = self.done(&["constitution", "publish", signed, "--reason", "live test"]);
        // The gate follows its topic; nothing tells from outside when it has.
        std::thread::sleep(Duration::from_secs(1));
        said["hash"].as_str().unwrap().to_owned()
    }

    /// A record as somebody writes it past the command.
    fn forge(&self, record: &Constitution) {
        let writer = self.live.writer();
        let key = format!("{}:{}", record.tenant, record.version);
        writer.write(topics::CONSTITUTIONS, &key, "", record, None).unwrap();
        writer.flush().unwrap();
        std::thread::sleep(Duration::from_secs(1));
    }

    pub(super) fn ended(&self, capsule: &str, key: &str) -> (Run, Vec<Verdict>) {
        let url = format!("{}/ok?{}-{key}", self.live.receiver(), self.tenant);
        let mut inputs = vec![("url", url.as_str())];
        inputs.extend((capsule == "http_call").then_some(("body", "{}")));
        let runs = self.live.produce(&[request(&self.tenant, key, capsule, &inputs)]);
        let seen = self.live.wait(&runs, SOON);
        let verdicts = self.live.read(topics::VERDICTS).into_iter();
        let verdicts = verdicts.filter(|v| v.run_id == runs[0]).collect();
        (seen[&runs[0]].last().unwrap().clone(), verdicts)
    }

    /// How often the server was asked in a run.
    fn asked(&self, key: &str) -> usize {
        let mark = format!("{}-{key}\"", self.tenant);
        let log = self.live.receiver_log();
        log.iter().filter(|l| l.to_string().contains(&mark)).count()
    }

    fn result(&self, run: &Run) -> Value {
        let outcomes = self.live.read(topics::OUTCOMES).into_iter();
        let outcomes: Vec<_> = outcomes.filter(|o| o.run_id == run.run_id).collect();
        assert_eq!(
            (outcomes.len(), outcomes[0].status),
            (1, OutcomeStatus::Succeeded),
            "{outcomes:#?}"
        );
        serde_json::from_str(&outcomes[0].result).unwrap()
    }

    /// A bundle of these rules; its folder.
    fn bundle(&self, name: &str, rules: &str) -> String {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        let head = "package soma.gate\n\nescalate contains f if { false; f := {} }\n\n";
        std::fs::write(format!("{folder}/gate.rego"), format!("{head}{rules}")).unwrap();
        folder
    }

    /// Publishes or withdraws a bundle.
    fn policy(&self, verb_and_folder: &[&str], capsule: &[&str]) {
        let of = ["--tenant", &self.tenant, "--reason", "live test"];
        self.done(&[&["policy"], verb_and_folder, &of[..], capsule].concat());
        std::thread::sleep(Duration::from_secs(1));
    }
}

pub(super) fn rules(verdicts: &[Verdict]) -> Vec<&str> {
    let all = verdicts.iter().flat_map(|v| &v.violations);
    all.map(|v| v.rule.as_str()).collect()
}

#[test]
fn a_constitution_is_obeyed_from_its_signature_to_its_rollback() {
    let live = live();
    let tenant = unique("constitution").replace('-', "_");
    let scene = Scene { live, tenant };
    let of = scene.tenant.clone();
    scene.done(&["constitution", "key", &scene.path("key"), "--trust", &of]);
    scene.done(&["constitution", "key", &scene.path("stranger")]);

    // Nothing that is not signed by who may gets past the command.
    let publish = |signed: &str, words: &str| {
        scene.refused(&["constitution", "publish", signed, "--reason", "x"], words);
    };
    publish(&scene.signed(1, None, GENTLE, "stranger"), "may not sign");
    let first = scene.signed(1, None, GENTLE, "key");
    let altered = scene.path("altered.json");
    let text = std::fs::read_to_string(&first).unwrap();
    std::fs::write(&altered, text.replace("/json/ok", "/json/no")).unwrap();
    publish(&altered, "hash");
    scene.refused(&["constitution", "verify", &altered], "hash");
    scene.done(&["constitution", "verify", &first]);
    let hash = scene.publish(&first);

    dry_and_discreet(&scene, &hash);
    forged(&scene, &first);
    publish(&scene.signed(4, Some(&hash), STRICT, "key"), "version 2");
    let strict = scene.publish(&scene.signed(2, Some(&hash), STRICT, "key"));
    prevails(&scene, &strict, &first);
    rolled_back(&scene);
    // Every version is chained.
    let entries = live.read(topics::AUDIT).into_iter();
    let entries = entries.filter(|e| e.record == "Constitution" && e.tenant == of);
    let facts: Vec<_> = entries.map(|e| e.fact).collect();
    for version in ["VERSION 1", "VERSION 2", "VERSION 3"] {
        assert!(facts.iter().any(|f| f == version), "{version}: {facts:?}");
    }
}

/// Version 1: calls are rehearsed, and results lose what nobody is to keep.
fn dry_and_discreet(scene: &Scene<'_>, hash: &str) {
    let (run, verdicts) = scene.ended("http_call", "dry");
    assert_eq!(run.status, RunStatus::Succeeded, "{run:#?}");
    let bear = |v: &Verdict| v.constitution_hash.as_deref() == Some(hash);
    assert!(verdicts.iter().all(bear), "{verdicts:#?}");
    let result = scene.result(&run);
    assert_eq!(
        (&result["dry_run"], &result["sent"]),
        (&true.into(), &false.into()),
        "{result}"
    );
    assert_eq!(scene.asked("dry"), 0, "nothing was sent");
    let (run, _) = scene.ended("endpoint_probe", "discreet");
    let result = scene.result(&run);
    assert_eq!(
        (result["json"]["ok"].as_str(), scene.asked("discreet")),
        (Some("***"), 1),
        "{result}"
    );
}

/// Written past the command: an altered document, no signature, a stranger's. Version 1 stays.
fn forged(scene: &Scene<'_>, first: &str) {
    let read = |path: &str| -> Constitution { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    let good = read(first);
    let free = good.document.replace("\"dry_run\":true", "\"cap_budget_usd\":\"1\"");
    let free = Constitution {
        document: free.replace("\"version\":1", "\"version\":2"),
        version: 2,
        ..good.clone()
    };
    let unsigned = Constitution {
        signature: String::new(),
        ..free.clone()
    };
    let stranger = read(&scene.signed(2, Some(&good.hash), "", "stranger"));
    for forged in [free, unsigned, stranger] {
        scene.forge(&forged);
    }
    let (run, _) = scene.ended("http_call", "forged");
    assert_eq!(
        (run.status, scene.asked("forged")),
        (RunStatus::Succeeded, 0),
        "still rehearsed"
    );
    let (good, said) = scene.soma(&["constitution", "verify", "--tenant", &scene.tenant]);
    assert!(!good && said.contains("signer"), "{said}");
}

/// Version 2: its requirement denies, an older version replayed changes nothing, and the capsule's rule waives the tenant's.
fn prevails(scene: &Scene<'_>, hash: &str, first: &str) {
    let old: Constitution = serde_json::from_str(&std::fs::read_to_string(first).unwrap()).unwrap();
    scene.forge(&old);
    let (run, verdicts) = scene.ended("http_call", "strict");
    assert_eq!(
        (run.status, rules(&verdicts)),
        (RunStatus::Denied, vec!["constitution.no_calls"])
    );
    assert_eq!(verdicts[0].constitution_hash.as_deref(), Some(hash));

    let december = "deny contains {\"rule\": \"freeze\", \"description\": \"Nothing in December.\"}\n";
    let freeze = scene.bundle("freeze", december);
    let waive = "deny contains f if { false; f := {} }\n\n\
                 waive contains {\"rule\": \"freeze\", \"reason\": \"probes harm nobody\"}\n";
    let lift = scene.bundle("lift", waive);
    let of_capsule = ["--capsule", "endpoint_probe"];
    scene.policy(&["publish", &freeze], &[]);
    let (run, verdicts) = scene.ended("endpoint_probe", "frozen");
    assert_eq!((run.status, rules(&verdicts)), (RunStatus::Denied, vec!["freeze"]));
    scene.policy(&["publish", &lift], &of_capsule);
    let (run, verdicts) = scene.ended("endpoint_probe", "lifted");
    assert_eq!(run.status, RunStatus::Succeeded, "{run:#?}");
    let a = &verdicts[0].adjudications[0];
    assert_eq!(
        (a.rule.as_str(), a.source.as_str(), a.waived_by.as_str(), a.upheld),
        ("freeze", "tenant", "capsule", false)
    );
    assert!(a.why.contains("capsule, tenant, base"), "{a:?}");
    let shown = text(&scene.live.soma(&["policy", "explain", &run.run_id]).stdout);
    assert!(shown.contains("probes harm nobody"), "{shown}");
    scene.policy(&["withdraw"], &[]);
    scene.policy(&["withdraw"], &of_capsule);
}

/// Back to what version 1 said, as version 3.
fn rolled_back(scene: &Scene<'_>) {
    let of = scene.tenant.as_str();
    let back = scene.done(&[
        "constitution",
        "rollback",
        "--tenant",
        of,
        "--to",
        "1",
        "--key",
        &scene.path("key"),
        "--reason",
        "too strict",
    ]);
    assert_eq!(back["version"], 3);
    std::thread::sleep(Duration::from_secs(1));
    let (run, verdicts) = scene.ended("http_call", "back");
    assert_eq!(run.status, RunStatus::Succeeded, "{run:#?}");
    assert_eq!(verdicts[0].constitution_hash.as_deref(), back["hash"].as_str());
    assert_eq!(scene.asked("back"), 0);
    let (same, said) = scene.soma(&["constitution", "diff", "--tenant", of, "--from", "1", "--to", "3"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let changes = said["changes"].as_array().unwrap();
    let changed: Vec<_> = changes.iter().map(|c| c["path"].as_str().unwrap()).collect();
    assert_eq!(
        (same, changed),
        (false, vec!["issued_at", "previous", "rollback_of", "version"])
    );
    let checked = scene.done(&["constitution", "verify", "--tenant", of]);
    let faults = checked["faults"].as_array().unwrap().len();
    assert_eq!((&checked["versions"], faults), (&3.into(), 0));
    let shown = scene.done(&["constitution", "show", "--tenant", of]);
    assert_eq!(shown["document"]["rollback_of"], 1);
}

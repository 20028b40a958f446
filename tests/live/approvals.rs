//! Humans' answers on the running pipeline, under a bundle published while it runs: every way in which one does not count is
//! refused, with a receipt and an audit entry, and what was approved is called once.

use std::time::{Duration, Instant};

use schemas::records::{Approval, ApprovalDecision, Run, RunStatus, Waiting};
use schemas::{Timestamp, topics};
use serde_json::Value;

use super::harness::{Live, live, request, text, unique};

const SOON: Duration = Duration::from_secs(30);

/// Two of the release managers must agree to any POST.
fn policy(words: &str) -> String {
    format!(
        "package soma.gate\n\ndeny contains {{\"rule\": \"d\", \"description\": \"d\"}} if input.tenant == \"nobody\"\n\n\
         escalate contains f if {{\n\tsome s in input.steps\n\ts.arguments.method == \"POST\"\n\
         \tf := {{\"rule\": \"posts\", \"description\": \"{words}\", \"step_id\": s.step_id, \"roles\": [\"release\"], \"quorum\": 2}}\n}}\n"
    )
}

struct Scene<'a> {
    live: &'a Live,
    tenant: String,
}

impl Scene<'_> {
    /// Whether the command says it worked, and what it says.
    fn soma(&self, args: &[&str]) -> (bool, Value) {
        let out = self.live.soma(&[&["--json"], args].concat());
        let value = serde_json::from_str(&text(&out.stdout)).unwrap_or_else(|e| panic!("{args:?}: {e}: {out:?}"));
        (out.status.success(), value)
    }

    fn done(&self, args: &[&str]) {
        let (done, said) = self.soma(args);
        assert!(done, "{args:?}: {said}");
    }

    fn publish(&self, words: &str) {
        let folder = self.live.home.join(format!("bundle-{}", self.tenant));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("gate.rego"), policy(words)).unwrap();
        let folder = folder.display().to_string();
        self.done(&[
            "policy",
            "publish",
            &folder,
            "--tenant",
            &self.tenant,
            "--reason",
            words,
        ]);
        // The gate follows its topic; nothing tells from outside when it has.
        std::thread::sleep(Duration::from_secs(1));
    }

    fn role(&self, verb: &str, who: &str) {
        let role = if verb == "grant" {
            &["--role", "release"][..]
        } else {
            &[]
        };
        self.done(
            &[
                &["member", verb, who, "--tenant", &self.tenant, "--reason", "live test"],
                role,
            ]
            .concat(),
        );
        std::thread::sleep(Duration::from_secs(1));
    }

    /// A run that waits for somebody's answer.
    fn posting(&self, key: &str) -> String {
        let url = format!("{}/ok?{}-{key}", self.live.receiver(), self.tenant);
        let inputs = [("url", url.as_str()), ("body", "{}")];
        let runs = self.live.produce(&[request(&self.tenant, key, "http_call", &inputs)]);
        self.waiting(&runs[0], "");
        runs[0].clone()
    }

    fn last(&self, run: &str) -> Option<Run> {
        self.live.read(topics::RUNS).into_iter().rfind(|r| r.run_id == run)
    }

    /// What the run waits for, once it does under another revision than this.
    fn waiting(&self, run: &str, than: &str) -> Waiting {
        let began = Instant::now();
        loop {
            let waiting = self.last(run).and_then(|r| r.waiting.into_iter().next());
            if let Some(waiting) = waiting.filter(|w| w.policy_revision != than) {
                return waiting;
            }
            assert!(began.elapsed() < SOON, "{run} does not wait");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// An answer given by the command line: its receipt's code.
    fn approves(&self, run: &str, who: &str) -> String {
        let (_, said) = self.soma(&["approve", run, "-y", "--as", who]);
        said["receipt"]["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{said}"))
            .to_owned()
    }

    fn both_approve(&self, run: &str, who: [&str; 2]) {
        for who in who {
            assert_eq!(self.approves(run, who), "approval.accepted");
        }
    }

    /// An answer as any Kafka client may write it: its receipt's code.
    fn writes(&self, key: &str, waiting: &Waiting, change: impl FnOnce(&mut Approval)) -> String {
        let mut approval = Approval {
            approval_id: unique("apr"),
            run_id: key.to_owned(),
            tenant: self.tenant.clone(),
            subject_id: waiting.subject_id.clone(),
            decision: ApprovalDecision::Approve,
            digest: waiting.digest.clone(),
            policy_revision: waiting.policy_revision.clone(),
            approver: "grace".into(),
            decided_at: waiting.since,
            ..Approval::default()
        };
        change(&mut approval);
        let writer = self.live.writer();
        writer
            .write(topics::APPROVALS, key, &self.tenant, &approval, None)
            .unwrap();
        writer.flush().unwrap();
        let began = Instant::now();
        loop {
            let mut receipts = self.live.read(topics::RECEIPTS).into_iter();
            if let Some(receipt) = receipts.find(|r| r.answer_id == approval.approval_id) {
                assert_eq!(receipt.run_id, key);
                return receipt.code;
            }
            assert!(began.elapsed() < SOON, "no receipt for {approval:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Rules the gate named in its last verdict of a run.
    fn ruled(&self, run: &str) -> Vec<String> {
        let last = self.live.read(topics::VERDICTS).into_iter().rfind(|v| v.run_id == run);
        last.unwrap().violations.into_iter().map(|v| v.rule).collect()
    }

    fn succeeds(&self, run: &str) {
        let ended = self.live.wait(&[run.to_owned()], SOON);
        assert_eq!(ended[run].last().unwrap().status, RunStatus::Succeeded);
        let calls = self.live.read(topics::CALLS).into_iter().filter(|c| c.run_id == run);
        assert_eq!(calls.count(), 1);
    }

    /// The audit has an entry that says so.
    fn audited(&self, record: &str, run: &str, fact: &str) {
        let began = Instant::now();
        while !self
            .live
            .read(topics::AUDIT)
            .iter()
            .any(|e| e.record == record && e.run_id == run && e.fact == fact)
        {
            assert!(began.elapsed() < SOON, "no {record} {fact} of {run} in the audit");
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// Who may not answer, what is not for this, and too few; then enough, one of them in another's place.
fn counts_only_what_fits(scene: &Scene<'_>, run: &str, other: &str) {
    let waiting = scene.waiting(run, "");
    assert_eq!(
        (waiting.asks[0].quorum, waiting.asks[0].roles.as_slice()),
        (2, &["release".to_owned()][..])
    );
    let actor = scene.last(run).unwrap().actor;
    let zeros = || "0".repeat(64);
    let refusals = [
        ("approval.self", scene.approves(run, &actor)),
        ("approval.role", scene.approves(run, "max")),
        ("approval.digest", scene.writes(run, &waiting, |a| a.digest = zeros())),
        (
            "approval.policy_revision",
            scene.writes(run, &waiting, |a| a.policy_revision = zeros()),
        ),
        (
            "approval.expired",
            scene.writes(run, &waiting, |a| a.expires_at = Some(Timestamp(1))),
        ),
        (
            "approval.other_tenant",
            scene.writes(run, &waiting, |a| a.tenant = "acme".into()),
        ),
        (
            "approval.nothing_waits",
            scene.writes(run, &waiting, |a| a.subject_id = "other".into()),
        ),
        (
            "approval.other_run",
            scene.writes(other, &waiting, |a| run.clone_into(&mut a.run_id)),
        ),
    ];
    for (wanted, code) in &refusals {
        assert_eq!(wanted, code);
        let of = if *wanted == "approval.other_run" { other } else { run };
        scene.audited("Receipt", of, wanted);
    }
    assert_eq!(scene.approves(run, "grace"), "approval.accepted");
    assert_eq!(scene.approves(run, "grace"), "approval.twice");
    scene.audited("Receipt", run, "approval.twice");
    let status = scene.last(run).unwrap().status;
    assert_eq!(status, RunStatus::WaitingApproval, "one of two is not enough");
    scene.done(&["delegate", run, "--to", "max", "--as", "lin"]);
    assert_eq!(scene.approves(run, "max"), "approval.accepted");
    scene.succeeds(run);
}

/// The policy changes between the question and the answers: the gate refuses what was approved and asks again.
fn policy_drifts(scene: &Scene<'_>, run: &str) {
    let waiting = scene.waiting(run, "");
    scene.publish("two must agree, really");
    scene.both_approve(run, ["grace", "lin"]);
    let again = scene.waiting(run, &waiting.policy_revision);
    assert!(scene.ruled(run).contains(&"approval.policy_revision".to_owned()));
    scene.audited("Verdict", run, "ESCALATE");
    assert!(again.given.is_empty() && again.reason.contains("really"), "{again:?}");
    scene.both_approve(run, ["grace", "lin"]);
    scene.succeeds(run);
}

/// Somebody loses the role between the answer and the call.
fn role_is_lost(scene: &Scene<'_>, run: &str) {
    let since = scene.waiting(run, "").since;
    scene.done(&["pause", "--run", run, "--reason", "live test"]);
    scene.both_approve(run, ["grace", "lin"]);
    scene.role("revoke", "lin");
    scene.done(&["resume", "--run", run, "--reason", "live test over"]);
    let began = Instant::now();
    while scene.waiting(run, "").since == since {
        assert!(began.elapsed() < SOON, "it is not asked again");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(scene.ruled(run).contains(&"approval.role".to_owned()));
    scene.role("grant", "joan");
    scene.both_approve(run, ["grace", "joan"]);
    scene.succeeds(run);
}

#[test]
fn every_answer_that_does_not_count_is_refused_with_its_audit_record() {
    let live = live();
    let scene = Scene {
        live,
        tenant: unique("answers").replace('-', "_"),
    };
    scene.publish("two must agree");
    scene.role("grant", "grace");
    scene.role("grant", "lin");
    let (run, other) = (scene.posting("k1"), scene.posting("k2"));
    counts_only_what_fits(&scene, &run, &other);
    policy_drifts(&scene, &other);
    role_is_lost(&scene, &scene.posting("k3"));

    // Changes are asked for; then the bundle goes, and nobody is asked any more.
    let run = scene.posting("k4");
    let comment = ["--changes", "--comment", "use PUT"];
    scene.done(&[&["deny", &run, "-y", "--as", "grace"][..], &comment].concat());
    let ended = live.wait(std::slice::from_ref(&run), SOON);
    let fault = ended[&run].last().unwrap().fault.clone().unwrap();
    assert_eq!(
        (fault.code.as_str(), fault.detail.as_str()),
        ("CHANGES_REQUESTED", "grace asks for changes: use PUT")
    );
    scene.done(&[
        "policy",
        "withdraw",
        "--tenant",
        &scene.tenant,
        "--reason",
        "live test over",
    ]);
    std::thread::sleep(Duration::from_secs(1));
    let url = format!("{}/ok?{}-k5", live.receiver(), scene.tenant);
    let inputs = [("url", url.as_str()), ("body", "{}")];
    let runs = live.produce(&[request(&scene.tenant, "k5", "http_call", &inputs)]);
    scene.succeeds(&runs[0]);
}

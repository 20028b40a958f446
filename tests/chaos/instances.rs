//! Instances of the pipeline as processes of this test.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::live::harness::Live;

pub(crate) struct Instances {
    live: &'static Live,
    /// Set for each of them, beside its name and port.
    variables: Vec<(&'static str, String)>,
    ports: BTreeMap<&'static str, u16>,
    children: BTreeMap<&'static str, Child>,
    /// Those that ended without being asked to, and how.
    pub(crate) died: Vec<String>,
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Instances {
    pub(crate) fn start(live: &'static Live, names: &[&'static str]) -> Self {
        let folder = live.home.join("state").display().to_string();
        let mut all = Self::with(
            live,
            names,
            vec![("SOMA_STATE", "disk".to_owned()), ("SOMA_STATE_DIR", folder)],
        );
        for name in names {
            all.start_one(name);
        }
        for name in names {
            all.wait_ready(name);
        }
        all
    }

    /// Instances yet to be started.
    pub(crate) fn with(live: &'static Live, names: &[&'static str], variables: Vec<(&'static str, String)>) -> Self {
        Self {
            live,
            variables,
            ports: names.iter().map(|n| (*n, free_port())).collect(),
            children: BTreeMap::new(),
            died: Vec::new(),
        }
    }

    pub(crate) fn start_one(&mut self, name: &'static str) {
        let log = self.live.home.join(format!("logs/instance-{name}.log"));
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = Command::new(&self.live.soma)
            .arg("--env-file")
            .arg(self.live.home.join("dev.env"))
            .args(["start", "control-tower"])
            .env("SOMA_INSTANCE", name)
            .envs(self.variables.iter().map(|(name, value)| (*name, value)))
            .env("SOMA_ADMIN_PORT", self.ports[name].to_string())
            .current_dir(self.live.root())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.insert(name, child);
    }

    pub(crate) fn wait_ready(&self, name: &str) {
        let url = self.url(name, "ready");
        let deadline = Instant::now() + Duration::from_secs(60);
        while get(&url).is_none_or(|(status, _)| status != 200) {
            assert!(
                Instant::now() < deadline,
                "instance {name} is not ready: {:?}",
                get(&url)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn url(&self, name: &str, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.ports[name])
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.ports.keys().copied().collect()
    }

    /// Sends a signal; those that end it are waited for.
    pub(crate) fn signal(&mut self, name: &str, signal: &str) {
        self.raise_the_dead();
        let child = self.children.get_mut(name).unwrap();
        let done = Command::new("kill")
            .args([&format!("-{signal}"), &child.id().to_string()])
            .status()
            .unwrap();
        assert!(done.success(), "kill -{signal} of instance {name}");
        if matches!(signal, "KILL" | "TERM" | "INT") {
            child.wait().unwrap();
            self.children.remove(name);
        }
    }

    /// Who ended without being asked to is kept in `died` and started again, as a supervisor does.
    pub(crate) fn raise_the_dead(&mut self) {
        for name in self.names() {
            let Some(child) = self.children.get_mut(name) else {
                continue;
            };
            if let Some(status) = child.try_wait().unwrap() {
                self.died.push(format!("instance {name} ended by itself: {status}"));
                self.start_one(name);
            }
        }
    }

    pub(crate) fn stop(&mut self) {
        for name in self.names() {
            if self.children.contains_key(name) {
                self.signal(name, "TERM");
            }
        }
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            if child.kill().is_ok() {
                child.wait().unwrap();
            }
        }
    }
}

/// Status and body of a GET; `None` when nobody answers.
pub(crate) fn get(url: &str) -> Option<(u16, String)> {
    use std::io::{Read, Write};
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/')?;
    let mut stream = std::net::TcpStream::connect(host).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
